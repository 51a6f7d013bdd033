"""What a command shows and how it ends: 0 done, 2 wrong input with a list and no traceback."""

from pathlib import Path

import pytest

from sharded_emb.cli import show
from sharded_emb.config.where import conf_folder
from sharded_emb.errors import InputError
from tests.cli.commands import run
from tests.cli.in_process import Commands

COMMANDS = ("prepare", "train", "evaluate")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_group_with_its_options(command: str, start: Commands) -> None:
    ended = start(command, "--help", "no such word")
    assert (ended.code, ended.err) == (0, "")
    for group in (folder for folder in conf_folder().iterdir() if folder.is_dir()):
        assert f"  {group.name}: {', '.join(sorted(file.stem for file in group.glob('*.yaml')))}\n" in ended.out


def test_help_lists_options_of_ones_own(start: Commands, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").touch()
    models = sorted(["mine", *(file.stem for file in (conf_folder() / "model").glob("*.yaml"))])
    assert f"  model: {', '.join(models)}\n" in start("train", "--config-dir", str(tmp_path), "--help").out


def test_cfg_prints_the_tree_and_options_may_stand_anywhere(start: Commands) -> None:
    ended = start("train", "seed=7", "--local-rank=0", "model.dropout=0", "--cfg", "experiment=sasrec_beauty")
    assert (ended.code, ended.err) == (0, "")
    assert "name: sasrec_beauty\n" in ended.out
    assert "seed: 7\n" in ended.out
    assert "  dropout: 0\n" in ended.out


def test_cfg_of_wrong_words_shows_what_is_wrong(start: Commands) -> None:
    ended = start("train", "--cfg", "model=sasrce")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "train: 1 problem\n  model: want an option, got 'sasrce'; did you mean sasrec?\n"


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("--config-dri=x", "--config-dri: unknown option; did you mean --config-dir?"),
        ("--config-dir", "--config-dir: expected one argument"),
    ],
)
def test_an_option_that_there_is_not_is_a_problem_like_any_other(word: str, problem: str, start: Commands) -> None:
    ended = start("train", "steps=3", word)
    assert (ended.code, ended.err) == (2, f"train: 1 problem\n  {problem}\n")


def test_prepare_shows_all_problems_and_writes_nothing(start: Commands, tmp_path: Path) -> None:
    ended = start("prepare", "experiment=sasrec_beauty", "dataset.raw=Beauty.txt", "data=new", "tables.item.dim=6")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == [
        "prepare: 2 problems",
        "  tables.item.dim: want a multiple of 4, got 6; try 8",
        "  dataset.raw: want the raw data, got Beauty.txt, which does not exist; check the path",
    ]
    assert not list(tmp_path.iterdir())


def test_evaluate_without_a_run_says_what_it_wants(start: Commands) -> None:
    ended = start("evaluate", "split=test")
    assert (ended.code, ended.err) == (2, "evaluate: 1 problem\n  run: missing; want a run folder, as run=FOLDER\n")


def test_wrong_versions_are_refused_before_anything_is_imported(
    start: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharded_emb.versions.problem", lambda _: "versions: found none; want others")
    for command in ("prepare", "train"):
        ended = start(command, "seed=x")
        assert (ended.code, ended.err) == (2, f"{command}: 1 problem\n  versions: found none; want others\n")


def test_a_start_with_everything_wrong_ends_with_2_and_no_traceback() -> None:
    words = (
        "tables.item.dmi=64 tables.item.dim=6 features.history.table=itm gloabl_batch=3 global_batch=abc "
        "model.dropot=0.1 model.dropout=2 experiment=sasrec_beauty data=nowhere"
    )
    err = run("train", *words.split(), code=2)
    assert err.splitlines()[0] == "train: 8 problems"
    assert {line.strip().partition(":")[0] for line in err.splitlines()[1:]} == {
        "tables.item.dmi", "tables.item.dim", "features.history.table", "gloabl_batch", "global_batch",
        "model.dropot", "model.dropout", "data",
    }  # fmt: skip
    assert "Traceback" not in err


@pytest.mark.slow
def test_two_ranks_show_one_list() -> None:
    err = run("train", "model=sasrce", "seed=x", ranks=2, code=1)
    assert err.count("train: 3 problems") == 1
    assert err.count("seed: want an integer, got 'x'") == 1
    assert "rank 1)" not in err.partition("train: 3 problems")[2].partition("ChildFailedError")[0]


def test_a_rank_that_is_left_alone_with_a_problem_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "WAIT_FOR_FIRST_RANK_SECONDS", 0)
    monkeypatch.setenv("RANK", "3")
    assert show.show_problems("train", InputError("data: not here")) == 2
    assert capsys.readouterr().err == "train: 1 problem (rank 3)\n  data: not here\n"
