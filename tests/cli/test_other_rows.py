"""A model meets rows of another dataset than the one it was trained on: another split of the same log, with its ids."""

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sharded_emb
from sharded_emb.config import facts
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.layouts.labelled_events import LabelledEvents
from sharded_emb.data.layouts.next_item import NextItem
from sharded_emb.data.prepare import How, prepare
from sharded_emb.data.sequence_text import SequenceText

WORDS = ("tables.item.dim=8", "epochs=null", "model=gru4rec", "model.hidden=8")
USERS = range(1, 31)
SPLITS = ("split by_user, not leave_one_out", "split leave_one_out, not by_user")


def prepared(folder: Path, log: Path, **keys: Any) -> Path:
    prepare(SequenceText(raw=str(log), layout=NextItem(**keys)), folder, seed=0, overwrite=True)
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "log.txt"
    lines = [
        " ".join(str(each) for each in (user, *(item % 17 + 1 for item in range(user, user + 8)))) for user in USERS
    ]
    file.write_text("\n".join(lines))
    return file


def trained(folder: Path, data: Path, *words: str, steps: int = 2, loss: str = "softmax") -> Path:
    return sharded_emb.train(
        sharded_emb.compose(*WORDS, f"loss={loss}", f"data={data}", f"run={folder}", f"steps={steps}", *words)
    ).path


def evaluated(run: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation_test.json").read_text())
    return found


def warned(run: Path, data: Path, difference: str) -> str:
    best = (run / "checkpoints" / "best").resolve()
    return f"{best} was trained on other rows than the train split of {data} ({difference}"


def test_evaluate_says_that_a_run_was_trained_on_another_split(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = prepared(tmp_path / "one", log), prepared(tmp_path / "other", log, split="by_user")
    moved = Path(shutil.copytree(one, tmp_path / "moved"))
    mine, its = trained(tmp_path / "mine", one), trained(tmp_path / "its", other)
    for data in (one, moved):
        sharded_emb.evaluate(mine, f"data={data}", f"against={mine}")
        assert "warnings" not in evaluated(mine)
        assert "trained_on" not in evaluated(mine)["protocol"]["test"]
    capsys.readouterr()
    sharded_emb.evaluate(mine, f"against={its}")
    (line,) = evaluated(mine)["warnings"]
    assert line.startswith(warned(its, one, SPLITS[1]))
    assert line.endswith("): what is scored here may be among them")
    assert f"warning: {line}\n" in capsys.readouterr().out
    assert "trained_on" not in evaluated(mine)["protocol"]["test"], "it is the other one's"
    sharded_emb.evaluate(mine, f"data={other}")
    assert evaluated(mine)["warnings"][0].startswith(warned(mine, other, SPLITS[0]))
    for protocol in evaluated(mine)["protocol"].values():
        assert protocol["trained_on"] == "other rows than the train split of these data"


def test_a_run_that_began_with_one_of_other_rows_says_so_ever_after(tmp_path: Path, log: Path) -> None:
    one, other = prepared(tmp_path / "one", log), prepared(tmp_path / "other", log, split="by_user")
    its = trained(tmp_path / "its", other)
    second = trained(tmp_path / "second", one, f"warm_start.run={its}")
    assert f"which was trained on other rows ({SPLITS[1]}" in (second / "log" / "rank-0.log").read_text()
    assert (
        SPLITS[1].removeprefix("split ")
        in json.loads((second / "result.json").read_text())["warm_start"]["other_rows"][0]
    )
    third = trained(tmp_path / "third", one, f"warm_start.run={second}")
    assert f"which began with other rows ({SPLITS[1]}" in (third / "log" / "rank-0.log").read_text()
    for run in (second, third):
        sharded_emb.evaluate(run)
        best = (run / "checkpoints" / "best").resolve()
        said = f"{best} is of a run that began with one trained on other rows than those of {one} ({SPLITS[1]}"
        assert evaluated(run)["warnings"][0].startswith(said)
        assert evaluated(run)["protocol"]["test"]["trained_on"] == "these data, after other rows by what it began with"


def test_weights_of_a_run_on_other_rows_are_told_of(tmp_path: Path, log: Path) -> None:
    one, other = prepared(tmp_path / "one", log), prepared(tmp_path / "other", log, split="by_user")
    its, same = trained(tmp_path / "its", other), trained(tmp_path / "same", one)
    for name, weights, warns in (("second", its, True), ("third", tmp_path / "second", True), ("fourth", same, False)):
        run = trained(tmp_path / name, one, f"+tables.item.weights={{path: {weights}}}")
        said = f"tables.item.weights: they are of a run on other rows than the train split of these data ({SPLITS[1]}"
        assert (said in (run / "log" / "rank-0.log").read_text()) == warns
        sharded_emb.evaluate(run)
        found = evaluated(run)
        assert any(SPLITS[1] in line for line in found.get("warnings", [])) == warns
        after = "these data, after other rows by what it began with" if warns else None
        assert found["protocol"]["test"].get("trained_on") == after


def test_a_run_does_not_go_on_with_rows_that_were_prepared_otherwise(tmp_path: Path, log: Path) -> None:
    data = prepared(tmp_path / "data", log)
    run = trained(tmp_path / "run", data)
    before = sorted(file.name for file in run.rglob("*"))
    prepared(data, log, split="by_user")
    with pytest.raises(sharded_emb.InputError) as wrong:
        trained(run, data, "resume=true", steps=4)
    (problem,) = wrong.value.problems
    assert problem.startswith(f"data: want the rows with which {run} was started, got others in {data} ({SPLITS[0]}")
    assert problem.endswith(f"; prepare them as they were, or begin another run with warm_start.run={run}")
    assert sorted(file.name for file in run.rglob("*")) == before
    prepared(data, log)
    assert trained(run, data, "resume=true", steps=4) == run
    assert json.loads((run / "result.json").read_text())["steps"] == 4


def test_explore_counts_reads_of_other_rows_and_says_so(tmp_path: Path, log: Path) -> None:
    one, other = prepared(tmp_path / "one", log), prepared(tmp_path / "other", log, split="by_user")
    run = trained(tmp_path / "run", one, "early_stopping=null")
    note = sharded_emb.explore(run, f"data={other}")["tables"]["item"]["notes"][0]
    said = f"reads are of the train split of {other}; the run trained on other rows ({SPLITS[0]}"
    assert note.startswith(said)
    notes = sharded_emb.explore(run)["tables"]["item"]["notes"]
    assert not any("other rows" in note for note in notes)


def test_a_log_that_grew_is_other_rows(tmp_path: Path, log: Path) -> None:
    one = prepared(tmp_path / "one", log)
    run = trained(tmp_path / "run", one)
    log.write_text(log.read_text() + " 3\n")
    other = tmp_path / "other"
    prepare(SequenceText(raw=str(log)), other, seed=0, overwrite=False, how=How(extend=one))
    sharded_emb.evaluate(run, f"data={other}")
    assert "(events 241, not 240; column items of train)" in evaluated(run)["warnings"][0]


def clicks(folder: Path, log: Path, **keys: Any) -> Path:
    raw = {"raw": str(log), "items": str(log.with_name("items.csv")), "max_bad_rows": 0}
    attributes = {"brand": {"of": "item"}, "request": {"of": "event", **keys}}
    config = EventLog.model_validate({**raw, "layout": LabelledEvents(label="clicked"), "attributes": attributes})
    prepare(config, folder, seed=0, overwrite=True)
    return folder


def test_rows_are_known_by_what_they_hold_and_not_by_where_they_came_from(tmp_path: Path, log: Path) -> None:
    one, again = prepared(tmp_path / "one", log), tmp_path / "again"
    packed = tmp_path / "other name.txt.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    prepare(SequenceText(raw=str(packed)), again, seed=3, overwrite=False)  # of which nothing is drawn
    run = trained(tmp_path / "run", one)
    sharded_emb.evaluate(run, f"data={again}")
    assert "warnings" not in evaluated(run)
    shutil.rmtree(one)
    again.rename(one)
    assert trained(run, one, "resume=true", steps=4) == run


def test_ids_of_another_meaning_are_other_rows_though_nothing_else_is(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    lines = [f"{at % 9},{at % 7},{at},{at % 3 % 2},{at * 7 % 40}" for at in range(200)]
    log.write_text("\n".join(["user,item,time,clicked,request", *lines]))
    (tmp_path / "items.csv").write_text("\n".join(["item,brand", *(f"{at},b{at % 3}" for at in range(7))]))
    data = clicks(tmp_path / "data", log, raw=True)
    words = ("model=dlrm", "loss=binary_cross_entropy", "tables.item.dim=8", "early_stopping=null", "epochs=null")
    words += ("features.history.pooling=mean", "+tables.request={rows: 50, dim: 8, ids: hash}")
    words += ("+features.request={table: request, column: request, pooling: sum}",)

    def train(steps: int, *more: str) -> Path:
        config = sharded_emb.compose(*words, f"data={data}", f"run={tmp_path / 'run'}", f"steps={steps}", *more)
        return sharded_emb.train(config).path

    run = train(2)
    elsewhere = tmp_path / "elsewhere"  # the same log and its table of items
    elsewhere.mkdir()
    for name in ("log.csv", "items.csv"):
        shutil.copy(tmp_path / name, elsewhere / name)
    clicks(data, elsewhere / "log.csv", raw=True)
    assert train(3, "resume=true") == run
    clicks(data, log)
    with pytest.raises(sharded_emb.InputError, match="column request of train"):
        train(4, "resume=true")


def test_other_attributes_of_items_are_others_where_they_are_read(tmp_path: Path) -> None:
    lines = [f"{user},{(user + step) % 9},{step}" for user in range(20) for step in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *lines]))

    def made(shift: int) -> None:
        brands = [f"{item},b{(item + shift) % 3}" for item in range(9)]
        (tmp_path / "items.csv").write_text("\n".join(["item,brand", *brands]))
        raw = {"raw": str(tmp_path / "log.csv"), "items": str(tmp_path / "items.csv")}
        config = EventLog.model_validate({**raw, "attributes": {"brand": {"of": "item"}}})
        prepare(config, tmp_path / "data", seed=0, overwrite=True)

    made(0)
    blind = trained(tmp_path / "blind", tmp_path / "data")
    words = (
        "+tables.brand={rows: auto, dim: 8}",
        "+features.brand={table: brand, column: brand, pooling: mean, of: history}",
    )
    run = trained(tmp_path / "run", tmp_path / "data", *words)
    made(1)
    assert trained(blind, tmp_path / "data", "resume=true", steps=3) == blind
    with pytest.raises(sharded_emb.InputError, match=r"got others in .*data \(column brand of items\); prepare"):
        trained(run, tmp_path / "data", "resume=true", *words, steps=3)


def test_a_checkpoint_of_an_earlier_version_knows_the_folder_that_it_read(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "said_of_dataset", lambda _: {})  # as a version says nothing that did not know of it
    one, other = prepared(tmp_path / "one", log), prepared(tmp_path / "other", log, split="by_user")
    run = trained(tmp_path / "run", one)
    sharded_emb.evaluate(run)
    assert "warnings" not in evaluated(run)
    sharded_emb.evaluate(run, f"data={other}")
    assert evaluated(run)["warnings"][0].startswith(warned(run, other, SPLITS[0]))
    shutil.rmtree(one)
    sharded_emb.evaluate(run, f"data={other}")
    (line,) = evaluated(run)["warnings"]
    assert line.endswith(f" read {one}, which is none any more: whether {other} has its rows is not known")


def test_a_run_does_not_go_on_with_other_hard_negatives(tmp_path: Path, log: Path) -> None:
    data, file = prepared(tmp_path / "data", log), tmp_path / "hard.parquet"
    words = ("loss.negatives=3", f"loss.hard={{path: {file}, per_event: 1}}")

    def write(shift: int) -> None:
        items = [*range(1, 18)]
        negatives = [[(item + shift) % 17 + 1] for item in items]
        pq.write_table(pa.table({"item": items, "negatives": negatives}), file)

    write(3)
    run = trained(tmp_path / "run", data, *words, loss="sampled_softmax")
    write(5)
    with pytest.raises(
        sharded_emb.InputError, match=f"^loss.hard.path: want the negatives with which {run} was started"
    ):
        trained(run, data, *words, "resume=true", steps=4, loss="sampled_softmax")
    write(3)
    trained(run, data, *words, "resume=true", steps=4, loss="sampled_softmax")


def test_a_row_is_not_ranked_as_several_items(tmp_path: Path, log: Path) -> None:
    data = prepared(tmp_path / "data", log)
    with pytest.raises(sharded_emb.InputError) as wrong:
        trained(tmp_path / "run", data, "tables.item.rows=9", "features.history.unknown=hash")
    (problem,) = wrong.value.problems
    assert problem.startswith("tables.item.rows: want auto or 19, the rows of vocabulary item, with unknown=hash, as")
    trained(tmp_path / "run", data, "tables.item.rows=9", "features.history.unknown=row", "early_stopping=null")
