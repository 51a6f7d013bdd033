"""What the README shows is what happens."""

import re
import shlex

import pytest

from sharded_emb import cli
from sharded_emb.cli.sweep_words import read_sweep
from sharded_emb.config.run import PlanConfig, PrepareConfig, RunConfig
from sharded_emb.errors import InputError
from tests.cli.commands import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
BLOCKS = [block for language, block in FENCES if language in ("bash", "")]
LINES = [line.partition("    #")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [
    line
    for line in LINES
    if re.match(r"(python|torchrun).* sharded_emb\.(prepare|train|plan) |python -m .*\.(prepare|train|plan) ", line)
]
SCRIPTS = {line.split()[1] for line in LINES if line.startswith("bash ")}


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 8
    assert {"launch/quickstart.sh", "launch/test.sh", "launch/local.sh"} <= SCRIPTS


@pytest.mark.parametrize("line", [line for line in COMMANDS if "--config-dir" not in line])
def test_a_command_composes_and_its_types_are_right(line: str) -> None:
    words = shlex.split(line)
    at = next(i for i, word in enumerate(words) if word.startswith("sharded_emb."))
    command = words[at].removeprefix("sharded_emb.")
    config_class = {"prepare": PrepareConfig, "plan": PlanConfig}.get(command, RunConfig)
    own = words[at + 1 :]
    if "--multirun" in own:
        sweep = read_sweep(own[1:])
        assert sweep.tried
        own = sweep.fixed
    cli.compose_all(command, own).validated(config_class, files=False)


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_is_there(script: str) -> None:
    assert (ROOT / script).is_file()


def test_the_list_of_problems_is_the_one_shown() -> None:
    (block,) = [block for block in BLOCKS if block.startswith("$ python -m sharded_emb.train")]
    command, head, *lines = block.splitlines()
    with pytest.raises(InputError) as caught:
        cli.compose_all("train", shlex.split(command)[4:]).validated(RunConfig)
    assert head == f"train: {len(caught.value.problems)} problems"
    assert [line.strip() for line in lines] == caught.value.problems
