"""launch/Dockerfile: what is in the image, who runs it, and what a linter says. `dockerfile.py` plays its steps."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.dockerfile import ROOT, copied, stages

FILE = ROOT / "launch" / "Dockerfile"
BUILD, FINAL = stages(FILE.read_text())


def test_the_image_holds_what_runs_and_nothing_else_of_the_folder(tmp_path: Path) -> None:
    names = ["pyproject.toml", "sharded_emb/train.py", "conf/base.yaml", "launch/multi_node.sh"]
    others = [
        ".git/config",
        ".venv/complete",
        "runs/a/run.yaml",
        "data/x",
        "tests/test.py",
        "sharded_emb/__pycache__/a.pyc",
    ]
    for name in [*names, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ignore = (ROOT / "launch" / "Dockerfile.dockerignore").read_text()
    assert [str(path) for path in copied(tmp_path, ignore)] == sorted(names)


def test_the_final_stage_installs_nothing_and_is_not_root() -> None:
    assert FINAL.last("USER") == "1000"
    assert all(run.startswith("useradd ") for run in FINAL.all("RUN"))
    assert FINAL.all("COPY") == ["--from=build /opt/sharded_emb /opt/sharded_emb"]
    # an editable install and the stamp of .venv hold in the folder alone that they were made in
    assert BUILD.last("WORKDIR") == FINAL.last("WORKDIR") == "/opt/sharded_emb"
    assert BUILD.base == FINAL.base == "python:${PYTHON}-slim-bookworm"
    assert BUILD.all("RUN") == ['bash launch/setup.sh "$DEVICE" --no-dev']


def test_its_first_comment_names_all_build_arguments() -> None:
    text = FILE.read_text()
    comment = text[: text.index("\nARG ")]
    assert set(re.findall(r"^ARG (\w+)", text, flags=re.MULTILINE)) == {"PYTHON", "DEVICE"}
    assert "build arguments DEVICE (cpu or cuda) and PYTHON" in comment
    for line in re.findall(r"docker build (.*)", comment):
        assert line.startswith("-f launch/Dockerfile -t sharded_emb:")


HADOLINT = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint on this machine; the extra [checks] has it")
def test_hadolint_finds_nothing() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, str(FILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
