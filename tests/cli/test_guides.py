"""docs/guides.md: its commands compose, its links lead somewhere; `python -m tests.cli.guides` types all of it in."""

import re
import shlex

import pytest

from sharded_emb import cli
from sharded_emb.cli.sweep_words import read_sweep
from sharded_emb.config.run import PlanConfig, PrepareConfig, RunConfig
from tests.cli.guides import BLOCKS, ROOT

TEXT = (ROOT / "docs" / "guides.md").read_text()
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
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


@pytest.mark.parametrize("line", [line for line in COMMANDS if "conf" not in line and "PYTHONPATH" not in line])
def test_a_command_of_a_guide_composes_and_its_types_are_right(line: str) -> None:
    words = shlex.split(line)
    at = next(number for number, word in enumerate(words) if word.startswith("sharded_emb."))
    own = [word for word in words[at + 1 :] if word != "--multirun"]
    if len(own) < len(words[at + 1 :]):
        own = read_sweep(own).fixed
    command = words[at].removeprefix("sharded_emb.")
    cli.compose_all(command, own).validated(CONFIGS[command], files=False)


def test_its_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
    for script in re.findall(r"`(launch/[^` ]+)`", TEXT):
        assert (ROOT / script).exists(), script
