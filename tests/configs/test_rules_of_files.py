"""Rules about files: labels, numbers of rows, places to write, and the home folder."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml

from sharded_emb.cli import compose_all, compose_tree
from sharded_emb.config.against_rules import labels_of
from sharded_emb.config.run import EvaluateConfig, RunConfig
from sharded_emb.data.dataset import Column, Dataset, read_manifest, write_manifest
from sharded_emb.errors import InputError
from sharded_emb.training import predictions
from tests.configs.problems import of_tables, problems
from tests.distributed.ranks import on_one_rank

DIN = "experiment=din_ml100k"


@pytest.fixture
def run_folder(tiny_data: Path, tmp_path: Path) -> Path:
    """A folder with the run.yaml of a next-item model."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text(yaml.safe_dump(compose_tree("train", [f"data={tiny_data}"])))
    return tmp_path / "run"


@pytest.mark.parametrize(("label", "kind"), [("time", "int64"), ("user", "int64"), ("items", "list<int64>")])
def test_a_label_is_a_column_of_labels(tiny_data: Path, tmp_path: Path, label: str, kind: str) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    manifest = read_manifest(tiny_data)
    more = {"time": Column(type="int64"), "label": Column(type="float32")}
    write_manifest(tmp_path / "data", manifest.model_copy(update={"columns": {**manifest.columns, **more}}))

    def said(name: str) -> list[str]:
        found = problems(DIN, f"data={tmp_path}/data", f"loss.label={name}", files=True)
        return [line for line in found if line.startswith("loss.label")]

    assert said("label") == []
    assert said(label) == [f"loss.label: want a column of labels (float32), got {label!r}, which holds {kind}"]


def test_training_stops_by_the_auc_within_users_where_there_are_any(tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    manifest = read_manifest(tiny_data)

    def said(metric: str, columns: dict[str, Column]) -> list[str]:
        write_manifest(tmp_path / "data", manifest.model_copy(update={"columns": columns}))
        found = problems(DIN, f"data={tmp_path}/data", f"early_stopping.metric={metric}", files=True)
        return [line for line in found if line.startswith("early_stopping")]

    nobody = {name: column for name, column in manifest.columns.items() if name != "user"}
    assert said("group_auc", manifest.columns) == []
    assert said("auc", nobody) == []
    assert said("group_auc", nobody) == [
        f"early_stopping.metric: want a metric without users for {tmp_path}/data, which has no column user, got "
        "'group_auc'; take auc"
    ]


def test_a_next_item_model_does_not_take_what_came_before_labelled_events_for_sequences(
    tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    manifest = read_manifest(tiny_data)

    def said(**more: Column) -> list[str]:
        columns = {**manifest.columns, **more}
        write_manifest(tmp_path / "data", manifest.model_copy(update={"columns": columns, "layout": "Mine"}))
        return problems(f"data={tmp_path}/data", files=True)

    item, label = Column(type="int64", vocabulary="item"), Column(type="float32")
    assert said(item=item, label=label) == [
        f"data: want sequences of a next-item layout, got labelled events in {tmp_path}/data; prepare the log with "
        "dataset=events"
    ]
    assert said(label=label) == said(item=item, label=Column(type="list<float32>")) == []


def test_numbers_are_no_ids_of_a_feature(tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    manifest = read_manifest(tiny_data)
    columns = {**manifest.columns, "price": Column(type="float32")}
    write_manifest(tmp_path / "data", manifest.model_copy(update={"columns": columns}))
    words = ["+tables.price={rows: 9, dim: 8}", "+features.price={table: price, column: price, pooling: sum}"]
    assert of_tables(*words, f"data={tmp_path}/data", files=True) == [
        "features.price.column: want a column of ids, got 'price', which holds float32; an attribute of numbers "
        "becomes ids by edges or buckets in dataset.attributes"
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_tf32_wants_a_gpu(tiny_data: Path, device: str) -> None:
    said = problems(f"data={tiny_data}", "dense.dtype=tf32", f"device={device}", files=True)
    assert said == ["dense.dtype: want fp32 or bf16 on a CPU, got tf32; choose one"]


def test_a_number_of_rows_is_that_of_the_vocabulary(tiny_data: Path) -> None:
    rows = Dataset.open(tiny_data).rows("item")

    def said(*words: str) -> list[str]:
        return of_tables(f"data={tiny_data}", *words, files=True)

    assert said(f"tables.item.rows={rows}") == []
    assert said(f"tables.item.rows={rows - 1}") == [
        f"tables.item.rows: want at least {rows}, the rows of vocabulary item, got {rows - 1}; use auto"
    ]
    assert said(f"tables.item.rows={rows + 1}") == [
        f"tables.item.rows: want auto or {rows}, the rows of vocabulary item, as rows beyond it would be ranked as "
        f"items, got {rows + 1}; use auto"
    ]
    # a table that is not scored may have more; one of another name has the rows of the ids that it is read by
    users = ["+features.user.table=user", "+features.user.column=user", "+tables.user.dim=8"]
    assert said(*users, "+tables.user.rows=5000") == []
    assert said(*users, "+tables.user.rows=5")[0].startswith("tables.user.rows: want at least ")
    other = ["+tables.other.dim=64", "features.history.table=other"]
    assert said(*other) == []
    assert said(*other, "+tables.other.rows=5000") == [
        f"tables.other.rows: want auto or {rows}, the rows of vocabulary item, as rows beyond it would be ranked as "
        "items, got 5000; use auto"
    ]


def test_predictions_want_a_place_before_anything_is_evaluated(run_folder: Path, tmp_path: Path) -> None:
    def said(file: object) -> list[str]:
        return problems(f"run={run_folder}", f"predictions={file}", command="evaluate", files=True)

    want = "predictions: want a file that can be written, got"
    (tmp_path / "file").touch()
    assert said(f"{tmp_path}/new/lists.parquet") == []
    assert said(f"{tmp_path}/file") == []  # replaced
    for name in ("top.CSV", "top.csv.gz", "top.json"):
        assert said(f"{tmp_path}/{name}") == [
            f"predictions: want a Parquet file, got {tmp_path}/{name}; name it {tmp_path}/top.parquet"
        ]
    assert said(tmp_path) == [f"{want} {tmp_path}, which is a folder; name a file in it"]
    assert said(f"{tmp_path}/file/lists.parquet") == [
        f"{want} {tmp_path}/file/lists.parquet, but {tmp_path}/file is no folder; choose another place"
    ]


def test_predictions_want_a_folder_that_may_be_written(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharded_emb.config.run_rules.os.access", lambda *_: False)  # root may write anywhere
    assert problems(f"run={run_folder}", f"predictions={tmp_path}/new/x", command="evaluate", files=True) == [
        f"predictions: want a file that can be written, got {tmp_path}/new/x, but {tmp_path} may not be written; "
        "choose another place"
    ]


def test_a_run_begins_with_one_that_is_there_and_has_a_checkpoint(run_folder: Path, tiny_data: Path) -> None:
    def said(*words: str) -> list[str]:
        return problems(f"data={tiny_data}", *words, files=True)

    assert said(f"warm_start.run={run_folder.parent}/rnu") == [
        f"warm_start.run: want a run folder, got {run_folder.parent}/rnu, which has no run.yaml; did you mean run?"
    ]
    assert said(f"warm_start.run={run_folder}") == [
        f"warm_start.run: want a run with a checkpoint, got {run_folder} without one; train it first"
    ]
    # one that goes on has begun already
    assert said(f"warm_start.run={run_folder.parent}/rnu", f"run={run_folder}", "resume=true") == []
    managed = ["tables.item.ids=managed_collision", "tables.item.rows=100"]
    assert said(*managed, f"warm_start.run={run_folder}", "warm_start.states=false")[0] == (
        "warm_start.states: want true with tables.item.ids: managed_collision, whose rows go by steps, got false"
    )
    assert said("checkpoint.grow_tables=[itm]") == [
        "checkpoint.grow_tables: want names or patterns of tables, got 'itm'; did you mean item?"
    ]


def test_a_list_has_an_item(run_folder: Path) -> None:
    (problem,) = problems(f"run={run_folder}", "top_k=0", command="evaluate")
    assert problem == "top_k: want a number above 0, got 0"


def test_predictions_that_cannot_be_written_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(table: pa.Table, file: Path) -> None:  # noqa: ARG001
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predictions.pq, "write_table", fails)
    with pytest.raises(InputError, match=r"^predictions: want a file that can be written, got .*No space left"):
        on_one_rank(lambda place: predictions._write(lambda: pa.table({}), tmp_path / "x.parquet", place))
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder(
    run_folder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").symlink_to(tiny_data)
    config = compose_all("train", ["data=~/data", "run=~/new"]).validated(RunConfig)
    assert (config.data, config.run) == (tmp_path / "data", tmp_path / "new")
    assert problems("data=~/data", "run=~/run", "seed=x", files=True) == [
        "seed: want an integer, got 'x'",
        f"run: want a new folder, got {run_folder}, which exists; choose another run=, or go on with it by resume=true",
    ]
    assert problems("data=~/data", "dataset=quickstart", command="prepare", files=True) == [
        f"data: want a new folder, got {tmp_path}/data, which holds a dataset; overwrite=true replaces it"
    ]
    composed = compose_all("evaluate", ["run=~/run", "data=~/data", "predictions=~/x"], of_run=True)
    evaluated = composed.validated(EvaluateConfig)
    assert (evaluated.run, evaluated.predictions) == (run_folder, tmp_path / "x")
    assert problems("run=~/nun", command="evaluate")[0].startswith(f"run: want a run folder, got {tmp_path}/nun, ")
    assert problems("data=~nobody_of_this_name/x", files=True)[0].startswith("data: want a dataset folder, got ~nobody")


def test_a_table_that_counts_ids_cannot_be_asked_for_each_once(tiny_data: Path) -> None:
    words = ["sharding.distinct_ids=true", "tables.item.scale_grad_by_freq=true", f"data={tiny_data}"]
    assert problems(*words, files=True) == [
        "sharding.distinct_ids: want false with tables.item.scale_grad_by_freq, which counts how often an id is there, "
        "got true"
    ]
    assert problems(*words, "sharding=data_parallel", files=True) == []


def test_a_stream_and_what_a_run_begins_from_have_to_be_there(tiny_data: Path, tmp_path: Path) -> None:
    gone, here = tmp_path / "gone", tmp_path / "here"
    here.mkdir()
    assert problems(f"data={tiny_data}", f"stream.folder={gone}", f"warm_start.run={here}", files=True) == [
        f"stream.folder: want a folder of parts, got {gone}, which does not exist; make it, or check the path",
        f"warm_start.run: want a run folder, got {here}, which has no run.yaml",
    ]
    assert problems(f"data={tiny_data}", f"stream.folder={here}", "verify=true", files=True) == [
        "verify: want false with stream.folder, since what is compared is trained on the train split, got true"
    ]
    assert problems("stream.fodler=x", "stream.poll_seconds=0") == [
        "stream.poll_seconds: want a number above 0, got 0",
        "stream.fodler: unknown key; did you mean folder?",
    ]


def test_what_adds_to_a_stream_leaves_the_dataset_as_it_is(tiny_data: Path, tmp_path: Path) -> None:
    def found(*words: str) -> list[str]:
        return problems("dataset=quickstart", f"stream.folder={tmp_path}", *words, command="prepare", files=True)

    assert found(f"data={tiny_data}") == []
    assert found() == [
        "data: missing; want the dataset folder whose vocabularies the stream is to have, as data=FOLDER"
    ]
    assert found(f"data={tmp_path}/x", "overwrite=true", f"extend={tiny_data}") == [
        f"data: want a dataset folder, got {tmp_path}/x, which is none; make it with prepare data={tmp_path}/x",
        "overwrite: want none with stream.folder, which leaves the dataset as it is, got True",
        f"extend: want none with stream.folder, which leaves the dataset as it is, got {tiny_data}",
    ]


def test_runs_of_several_tasks_are_compared_by_the_first_one() -> None:
    """Which is the same only if tasks come in the same order."""
    like, love = {"column": "label", "weight": 2.0}, {"column": "rating", "at_least": 5.0}
    own = {"like": like, "love": love}
    assert labels_of({"tasks": own}) == labels_of({"tasks": {**own, "like": {"column": "label"}}})
    assert labels_of({"tasks": own}) != labels_of({"tasks": {"love": love, "like": like}})
    assert labels_of({"tasks": own}) != labels_of({"tasks": {"like": like, "love": {"column": "rating"}}})
    assert labels_of({"tasks": own}) != labels_of({"label": "label"})


def test_a_table_that_counts_ids_is_trained_with_a_next_item_model_in_one_piece_on_one_rank(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["tables.item.scale_grad_by_freq=true", f"data={tiny_data}"]
    assert problems(*words, files=True) == []
    assert problems(*words, "accumulation=2", files=True) == [
        "accumulation: want 1 with tables.item.scale_grad_by_freq, got 2"
    ]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for more in ([], ["sharding.replicas=2"]):
        assert problems(*words, *more, files=True) == [
            "tables.item.scale_grad_by_freq: want false for a next-item model on several ranks, which all read "
            "the candidates, got true; train on one"
        ]


def test_the_padding_row_of_a_vocabulary_is_no_id_of_it(tiny_data: Path) -> None:
    assert problems("tables.item.padding_row=null", f"data={tiny_data}", files=True) == []
    want = "tables.item.padding_row: want 0 or null with the rows of vocabulary item"
    for row in (1, 5):
        said = problems(f"tables.item.padding_row={row}", f"data={tiny_data}", files=True)
        assert said == [f"{want}, got {row}, which is that of an id"]
