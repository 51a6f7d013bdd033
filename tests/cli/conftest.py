"""Fixtures of the command tests."""

import shutil
from pathlib import Path

import pytest

from tests.cli.in_process import Commands
from tests.cli.scratch import FAKE_PYTHON, ROOT, Project, executable


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    """Starts a command in this process, in an empty folder."""
    return Commands(monkeypatch, capsys, tmp_path)


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """A project without .venv, on a machine without a GPU."""
    project = Project(tmp_path / "my project", tmp_path / "elsewhere")
    for folder in ("launch", ".ci"):
        shutil.copytree(ROOT / folder, project.root / folder)
    shutil.copy(ROOT / "pyproject.toml", project.root)
    (project.root / "sharded_emb").mkdir()
    shutil.copy(ROOT / "sharded_emb" / "versions.py", project.root / "sharded_emb")
    for command in ("prepare", "train", "evaluate"):
        (project.root / "sharded_emb" / f"{command}.py").touch()
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        executable(project.elsewhere / "bin" / name, FAKE_PYTHON)
    executable(project.elsewhere / "bin" / "nvidia-smi", "#!/usr/bin/env bash\nexit 9\n")
    return project


@pytest.fixture
def project(bare: Project) -> Project:
    """A project whose .venv is complete."""
    assert bare.run("launch/setup.sh").returncode == 0
    return bare
