"""A scratch project whose Python is a recording fake: what scripts start, without anything being installed."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Records its arguments; makes what the real one would make; fails where a test says so.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$FAKE_LOG"
case "$*" in
    "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-I sharded_emb/versions.py "*) exec "$REAL_PYTHON" "$@" ;;
    "-m pip show "*"${FAKE_SHOWN:-nothing}"*) echo "Version: 2.13.0+cpu"; exit 0 ;;
    "-m pip show "*) exit 1 ;;
    *device_count*) echo 8 ;;
    "-m sharded_emb.prepare "*)
        for word; do
            if [[ $word == data=* ]]; then mkdir -p "${word#*=}" && touch "${word#*=}/manifest.yaml"; fi
        done ;;
    "-m pytest"*) echo "threads $OMP_NUM_THREADS"; echo "== 3 passed in 0.1s ==" ;;
esac
if [[ -n ${FAKE_FAILS:-} && "$*" == *"$FAKE_FAILS"* ]]; then exit "${FAKE_CODE:-1}"; fi
"""


@dataclass
class Project:
    """A copy of the scripts with a fake Python, and a folder elsewhere to start them from."""

    root: Path
    elsewhere: Path

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.elsewhere / "log").write_text("")
        clean = {
            key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        }
        path = f"{self.elsewhere / 'bin'}{os.pathsep}{clean['PATH']}"
        fakes = {"FAKE_LOG": str(self.elsewhere / "log"), "REAL_PYTHON": sys.executable, "PATH": path}
        return subprocess.run(
            ["bash", os.path.relpath(self.root / script, self.elsewhere), *arguments],
            cwd=self.elsewhere,
            env={**clean, **fakes, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def started(self, prefix: str = "") -> list[str]:
        """What the last run gave to Python, in order."""
        return [line for line in (self.elsewhere / "log").read_text().splitlines() if line.startswith(prefix)]


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
