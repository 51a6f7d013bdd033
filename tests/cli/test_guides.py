"""docs/guides.md: its commands compose; `python -m tests.cli.guides` types all of it in."""

import re
from pathlib import Path

import pytest

from tests.cli.guides import BLOCKS, ROOT
from tests.cli.lines import commands, composed, write_runs

TEXT = (ROOT / "docs" / "guides.md").read_text()
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
FILES = re.findall(r"^cat > (\S+) <<'EOF'\n(.*?)^EOF$", "".join(BLOCKS), flags=re.MULTILINE | re.DOTALL)
COMMANDS = commands(LINES)


def test_the_guides_are_those_that_are_promised() -> None:
    assert [heading.lower() for heading in re.findall(r"^## (.*)", TEXT, flags=re.MULTILINE)] == [
        "a first data set of your own",
        "reading the numbers",
        "resuming",
        "a click log of your own",
        "choosing a plan",
        "from one machine to many",
        "a pooling, a model or a data set from outside the package",
        "serving",
        "looking at a table",
        "when something fails",
    ]
    for name in ("prepare", "train", "evaluate", "export", "explore", "plan", "doctor"):
        assert any(f"sharded_emb.{name}" in line for line in COMMANDS), name
    assert len([line for line in COMMANDS if "sharded_emb.evaluate run=" in line]) >= 3
    assert len(COMMANDS) >= 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the guides are typed in, with the configs and the package that they write, and their runs."""
    folder: Path = tmp_path_factory.mktemp("guides")
    for name, text in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.syspath_prepend(str(folder))
        write_runs(COMMANDS)
    return folder


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_a_guide_composes_and_its_types_are_right(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    composed(line)


def test_the_scripts_that_it_names_are_there() -> None:
    for script in re.findall(r"`(launch/[^` ]+)`", TEXT):
        assert (ROOT / script).exists(), script
