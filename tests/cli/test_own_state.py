"""Models of somebody else that keep more than weights: their numbers stay the same, or they are told why not."""

from pathlib import Path

import pytest

from tests.cli.commands import losses, result, run
from tests.cli.in_process import Commands

WORDS = ["model=mine", "loss=binary_cross_entropy", "global_batch=100", "early_stopping=null", "log_every_steps=1"]
WORDS += ["~features.history", "tables.item.dim=8", "+tables.user.dim=8"]
WORDS += [f"+features.{table}={{table: {table}, column: {table}, pooling: sum}}" for table in ("user", "item")]


@pytest.fixture
def words(tmp_path: Path, clicks: Path) -> list[str]:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    text = "_target_: tests.cli.own_stateful.Stateful\nkeeps: pretrained\n"
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(text)
    return ["--config-dir", str(tmp_path / "conf"), *WORDS, f"data={clicks}"]


def test_a_part_that_is_in_evaluation_mode_stays_so(start: Commands, words: list[str]) -> None:
    often = ["evaluation.every_epochs=1", f"run={start.folder / 'often'}"]
    assert start("train", *words, "epochs=3", *often).code in (0, None)
    rarely = ["evaluation.every_epochs=3", f"run={start.folder / 'rarely'}"]
    assert start("train", *words, "epochs=3", *rarely).code in (0, None)
    assert losses(start.folder / "often") == losses(start.folder / "rarely")
    resumed = ["evaluation.every_epochs=1", f"run={start.folder / 'resumed'}"]
    assert start("train", *words, "epochs=1", *resumed).code in (0, None)
    assert start("train", *words, "epochs=3", "resume=true", *resumed).code in (0, None)
    assert losses(start.folder / "resumed") == losses(start.folder / "often")
    assert result(start.folder / "resumed")["metrics"] == result(start.folder / "often")["metrics"]


def test_a_buffer_of_what_a_rank_has_read_ends_a_run_of_several(start: Commands, words: list[str]) -> None:
    said = run("train", *words, "model.keeps=running", "steps=3", f"run={start.folder / 'two'}", ranks=2, code=1)
    want = (
        "model: want buffers that are the same on every rank, got another model.mean on rank 1 than on rank 0; a step"
    )
    assert want in said
    counting = ["model.keeps=counter", "steps=3", f"run={start.folder / 'counter'}"]
    run("train", *words, *counting, ranks=2)
    assert result(start.folder / "counter")["status"] == "finished"
    assert start("train", *words, "model.keeps=running", "steps=3", f"run={start.folder / 'one'}").code in (0, None)


def test_a_buffer_that_no_checkpoint_keeps_is_warned_of_once(start: Commands, words: list[str]) -> None:
    ended = start("train", *words, "model.keeps=unsaved", "steps=4", "checkpoint.every_steps=2")
    assert ended.code in (0, None), ended.err
    assert (ended.out + ended.err).count("model: buffer model.mean has changed and is in no checkpoint") == 1


def test_buffers_of_any_layout_are_taken_and_those_that_come_late_told_of(start: Commands, words: list[str]) -> None:
    ended = start("train", *words, "model.keeps=sparse", "steps=3")
    assert ended.code in (0, None), ended.err
    assert "has changed" not in ended.out + ended.err
    ended = start("train", *words, "model.keeps=late", "steps=3")
    assert ended.code in (0, None), ended.err
    assert (ended.out + ended.err).count("model: buffer model.mean has changed and is in no checkpoint") == 1


@pytest.mark.parametrize(
    ("keeps", "want"),
    [
        ("instance", "model: want each row computed from itself alone, got InstanceNorm1d in part, whose statistics"),
        (
            "kept",
            "model: want dense numbers where a checkpoint keeps them, got model.links of torch.sparse_coo; register",
        ),
        ("double", "model: want weights of float32 where they are trained, got scale of float64"),
    ],
)
def test_what_cannot_be_the_same_everywhere_is_refused(
    keeps: str, want: str, start: Commands, words: list[str]
) -> None:
    ended = start("train", *words, f"model.keeps={keeps}", "steps=1")
    assert (ended.code, want in ended.err) == (2, True), ended.err


def test_a_weight_that_is_not_trained_may_be_of_any_dtype(start: Commands, words: list[str]) -> None:
    run("train", *words, "model.keeps=frozen", "steps=3", f"run={start.folder / 'two'}", ranks=2)
    assert start("train", *words, "model.keeps=frozen", "steps=3", f"run={start.folder / 'one'}").code in (0, None)
    assert losses(start.folder / "one") == pytest.approx(losses(start.folder / "two"), abs=1e-6)
