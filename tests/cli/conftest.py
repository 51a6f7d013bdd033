"""Fixtures of the command tests."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import sharded_emb
from tests.cli.in_process import Commands
from tests.cli.scratch import FAKE_PYTHON, ROOT, Project, executable

LABELLED = """
_target_: sharded_emb.data.event_log.EventLog
attributes:
  rating: {of: event, number: true}
  film: {of: event, column: film, raw: true}
  kinds: {of: item, separator: "|"}
layout: {_target_: sharded_emb.data.layouts.labelled_events.LabelledEvents, label: rating, threshold: 4}
"""


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


@pytest.fixture(scope="session")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users and items of texts, ratings, kinds of items, and ids of 64 bits."""
    folder, draw = tmp_path_factory.mktemp("clicks"), np.random.default_rng(0)
    films = draw.integers(-(2**62), 2**62, 90)
    lines = ["user,item,rating,film,time"]
    for at in range(900):
        item = int(90 * draw.random() ** 2)
        lines.append(f"ü{draw.integers(30)},item {item},{draw.integers(1, 6)},{films[item]},{86_400 * at}")
    (folder / "log.csv").write_text("\n".join(lines))
    kinds = ["|".join(f"k{each}" for each in draw.choice(9, draw.integers(0, 4), replace=False)) for _ in range(90)]
    (folder / "items.csv").write_text("\n".join(["item,kinds", *(f"item {i},{each}" for i, each in enumerate(kinds))]))
    (folder / "conf" / "dataset").mkdir(parents=True)
    (folder / "conf" / "dataset" / "rated.yaml").write_text(LABELLED)
    words = ["dataset=rated", f"dataset.raw={folder / 'log.csv'}", f"dataset.items={folder / 'items.csv'}"]
    config = sharded_emb.compose(*words, f"data={folder / 'data'}", "tables.item.dim=8", config_dir=folder / "conf")
    sharded_emb.prepare(config)
    return folder / "data"


@pytest.fixture(scope="session")
def sequences(clicks: Path) -> Path:
    """The same log as sequences, with times, a kind of each event, and kinds of items."""
    folder = clicks.parent
    words = ["dataset=events", f"dataset.raw={folder / 'log.csv'}", f"dataset.items={folder / 'items.csv'}"]
    words += ["+dataset.attributes={kinds: {of: item, separator: '|'}, rating: {of: event}}"]
    sharded_emb.prepare(sharded_emb.compose(*words, f"data={folder / 'sequences'}", "tables.item.dim=8"))
    return folder / "sequences"
