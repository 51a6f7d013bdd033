"""Runs the commands as a user does, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


def run(command: str, *words: str, ranks: int = 0, code: int = 0, limit_seconds: float = 400) -> str:
    """What a command prints on stdout; under torchrun where ranks are given. Fails unless it ends with `code`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
    line = [sys.executable, *launcher, "-m", f"sharded_emb.{command}", *words]
    done = subprocess.run(
        line,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=limit_seconds,
        check=False,
    )
    assert done.returncode == code, f"{' '.join(line)}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def result(run_folder: Path) -> dict[str, Any]:
    """result.json of a run."""
    found: dict[str, Any] = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    return found


def metrics_lines(run_folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl of a run."""
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(run_folder: Path) -> list[float]:
    """Those of its training steps in metrics.jsonl."""
    return [line["loss"] for line in metrics_lines(run_folder) if line["split"] == "train"]
