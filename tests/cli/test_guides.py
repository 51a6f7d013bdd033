"""docs/guides.md: its commands compose, its links lead somewhere; `python -m tests.cli.guides` types all of it in."""

import re
import shlex
from pathlib import Path

import pytest

from sharded_emb import cli
from sharded_emb.cli.options import read_options
from sharded_emb.cli.sweep_words import read_sweep
from sharded_emb.config.run import PlanConfig, PrepareConfig, RunConfig
from tests.cli.guides import BLOCKS, ROOT

TEXT = (ROOT / "docs" / "guides.md").read_text()
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
FILES = re.findall(r"^cat > (\S+) <<'EOF'\n(.*?)^EOF$", "".join(BLOCKS), flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for line in LINES if re.search(r"sharded_emb\.(prepare|train|plan) ", line)]
CONFIGS = {"prepare": PrepareConfig, "train": RunConfig, "plan": PlanConfig}


def test_the_guides_are_those_that_are_promised() -> None:
    assert [heading.lower() for heading in re.findall(r"^## (.*)", TEXT, flags=re.MULTILINE)] == [
        "a first data set of your own",
        "reading the numbers",
        "resuming",
        "a click log of your own",
        "choosing a plan",
        "from one machine to many",
        "a pooling, a model or a data set from outside the package",
        "when something fails",
    ]
    assert len(COMMANDS) >= 10


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in which the guides are typed in, with the configs and the package that they write."""
    for name, text in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_a_guide_composes_and_its_types_are_right(line: str) -> None:
    words = shlex.split(line)
    at = next(number for number, word in enumerate(words) if word.startswith("sharded_emb."))
    command = words[at].removeprefix("sharded_emb.")
    options = read_options(command, words[at + 1 :])
    own = read_sweep(options.overrides).fixed if options.multirun else options.overrides
    cli.compose_all(command, own, options.config_dirs).validated(CONFIGS[command], files=False)


def test_its_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
    for script in re.findall(r"`(launch/[^` ]+)`", TEXT):
        assert (ROOT / script).exists(), script
