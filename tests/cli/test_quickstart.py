"""The first of the two commands, as it stands, with the .venv of this checkout; test_launch has it on a fake Python."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import ROOT, result

SMALL = ["dataset.users=300", "dataset.items=400", "dataset.clusters=10", "steps=20", "profile.steps=0"]


def complete() -> bool:
    """Whether setup.sh would install nothing, by the sum that it keeps."""
    stamp = ROOT / ".venv" / "complete"
    (sum_of,) = re.findall(r"^wanted=.*\$\( (.*cksum.*)\)\"$", (ROOT / "launch" / "setup.sh").read_text(), re.MULTILINE)
    done = subprocess.run(["bash", "-c", sum_of], cwd=ROOT, capture_output=True, text=True, check=True)
    return stamp.is_file() and stamp.read_text().split()[-1] == done.stdout.strip()


def files() -> set[Path]:
    """Where the checkout has data and runs; other tests that run beside this one leave none there."""
    return {path for folder in (ROOT / "data", ROOT / "runs") for path in (folder, *folder.glob("*")) if path.exists()}


def test_quickstart_ends_with_a_result_beside_baselines(tmp_path: Path) -> None:
    if not complete():
        pytest.skip("no .venv here that is complete; bash launch/setup.sh --dev makes one")
    before = files()
    done = subprocess.run(
        ["bash", ROOT / "launch" / "quickstart.sh", f"data={tmp_path / 'data'}", f"run={tmp_path / 'run'}", *SMALL],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # of evaluate, behind that of train; the one of all items, seen ones too, comes after it
    table = done.stdout.rpartition("\ntest  (split: test, ")[2].partition("\ntest_unfiltered")[0]
    shown = {line.split("  ")[0]: re.findall(r"  (0\.\d{4})\b", line) for line in table.splitlines()}
    for row in ("SASRec", "popularity", "markov", "sequence_knn", "best reachable"):
        assert shown.get(row), (row, done.stdout)
    assert done.stdout.splitlines()[-1] == f"quickstart: the run is in {tmp_path / 'run'}"
    found = result(tmp_path / "run")
    assert (found["status"], found["steps"]) == ("finished", 20)
    assert shown["SASRec"][1] == f"{found['metrics']['test']['ndcg@5']:.4f}"
    assert (tmp_path / "data" / "manifest.yaml").is_file()
    assert files() == before
