"""What the README and the pages of docs/ show is what happens; the guides have tests of their own (test_guides.py)."""

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import sharded_emb
from tests.cli.commands import ROOT, result
from tests.cli.in_process import Commands
from tests.cli.lines import commands, composed, write_runs

README = ROOT / "README.md"
GUIDES = ROOT / "docs" / "guides.md"
PAGES = [README, *sorted({*(ROOT / "docs").glob("*.md")} - {GUIDES})]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
FENCES = FENCE.findall(TEXT)
BLOCKS = [block for language, block in FENCES if language in ("bash", "")]
PYTHON = [block for language, block in FENCES if language == "python"]
SERVING = next(block for block in PYTHON if "from serving import" in block)
SHOWN = sorted({block for block in BLOCKS if block.startswith("$ python -m sharded_emb.")})
LINES = [line.partition("    #")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
IN_TEXT = [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", FENCE.sub("", TEXT))]
COMMANDS = [*dict.fromkeys(commands(LINES))]
COMMANDS_IN_TEXT = [
    line
    for line in dict.fromkeys(IN_TEXT)
    if re.match(r"(train|evaluate|prepare|plan|doctor) [\w.]+=\w|python -m sharded_emb\.[a-z]", line)
]
SCRIPTS = {line.split()[1] for line in LINES if line.startswith("bash ")}
OPTION = re.compile(r" (--(?!nproc|nnodes|rdzv|nodes|gpus|time)[\w-]+)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands were typed in, as far as one of them begins from what another one left."""
    folder: Path = tmp_path_factory.mktemp("docs")
    cluster = folder / "mine" / "cluster"
    cluster.mkdir(parents=True)
    shutil.copy(ROOT / "conf" / "cluster" / "cpu.yaml", cluster / "calibrated.yaml")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_runs(COMMANDS)
    for other in ("runs/monday", "FOLDER"):  # which the text speaks of
        shutil.copytree(folder / "runs" / "beauty", folder / other)
    return folder


def test_there_are_commands_to_check() -> None:
    by_name = {name: [line for line in COMMANDS if f"{name} " in line] for name in ("prepare", "train", "plan")}
    assert all(len(lines) >= 2 for lines in by_name.values())
    assert sum("sharded_emb.evaluate run=" in line for line in COMMANDS) >= 2
    assert sum("sharded_emb.doctor" in line for line in COMMANDS) >= 1
    assert {option for line in COMMANDS for option in OPTION.findall(line)} == {
        "--config-dir",
        "--config-name",
        "--multirun",
    }
    assert {"launch/quickstart.sh", "launch/test.sh", "launch/local.sh"} <= SCRIPTS
    assert {line.split()[0] for line in COMMANDS_IN_TEXT} >= {"train", "evaluate", "prepare", "plan", "python"}
    assert PYTHON
    assert len(SHOWN) >= 2


@pytest.mark.parametrize("line", [*COMMANDS, *COMMANDS_IN_TEXT])
def test_a_command_composes_and_its_types_are_right(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    composed(line)


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_is_there(script: str) -> None:
    assert (ROOT / script).is_file()


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.split()[3])
def test_the_list_of_problems_is_the_one_shown(block: str, start: Commands) -> None:
    command, *lines = block.splitlines()
    name, *words = shlex.split(command)[3:]
    ended = start(name.removeprefix("sharded_emb."), *words)
    assert (ended.code, ended.err.splitlines()) == (2, lines)


def test_what_a_notebook_is_told_to_type_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in PYTHON:
        if block == SERVING:
            continue
        names: dict[str, Any] = {}
        exec(compile(block, str(README), "exec"), names)
        outcome = names["outcome"]
        assert (outcome.status, result(outcome.path)["status"]) == ("finished", "finished")
        assert 0 < outcome.metrics["test"]["ndcg@10"] < 1
        assert (outcome.path / "evaluation_valid.json").is_file()
        assert (tmp_path / names["config"].data / "manifest.yaml").is_file()


def test_what_serves_a_run_is_told_to_type_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    events = [f"u{user},B{(7 * user + time) % 19:04},{time}" for user in range(30) for time in range(6)]
    Path("events.csv").write_text("\n".join(["user,item,time", *events]))
    words = ["dataset=events", "dataset.raw=events.csv", "data=data", "tables.item.dim=8", "model.hidden=8"]
    config = sharded_emb.compose(*words, "steps=3", "global_batch=16", "run=runs/mine")
    sharded_emb.prepare(config)
    sharded_emb.train(config)
    sharded_emb.export("runs/mine")
    names: dict[str, Any] = {}
    try:
        exec(compile(SERVING, "docs/serving.md", "exec"), names)
        exported = names["exported"]
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "serving"]:
            del sys.modules[name]
    assert exported.vectors("item", ["B0001", "B0002"]).shape == (2, 8)
    lists = exported.recommend({"items": [["B0001", "B0002"], ["B0003"]]})
    assert [len(each) for each in lists] == [10, 10]
    assert not {"B0001", "B0002"} & {item for item, _ in lists[0]}
    assert exported.columns == {"items": "item"}


@pytest.mark.parametrize(
    "page", [*PAGES, GUIDES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"], ids=lambda page: page.name
)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", page.read_text(encoding="utf-8")):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", FENCE.sub("", linked.read_text(encoding="utf-8")), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor


def test_every_page_is_named_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert all(f"(docs/{page.name})" in text for page in [*PAGES[1:], GUIDES])
    assert len(text.splitlines()) < 260  # one sitting; what is longer belongs to a page
