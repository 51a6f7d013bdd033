"""Rules between parts of the config, and about files: in the same list as everything else."""

from pathlib import Path

import pytest

from sharded_emb.config.rules import rules
from sharded_emb.config.run import RunConfig
from sharded_emb.data.dataset import SplitInfo, read_manifest, write_manifest
from tests.configs.problems import POOLINGS, of_tables, problems
from tests.distributed.next_item_data import write_dataset

DIN = "experiment=din_ml100k"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("features.history.table=itm", "features.history.table: want a table, got 'itm'; did you mean item?"),
        ("model.history=histroy", "model.history: want a feature, got 'histroy'; did you mean history?"),
        (
            "features.history.pooling=mean",
            "features.history.pooling: want none, since model.history reads a sequence, got mean",
        ),
        (
            "features.history.max_length=null",
            "features.history.max_length: want a number of events, since SASRec has a vector a place",
        ),
        ("model.heads=3", "model.heads: want a divisor of tables.item.dim (64), got 3"),
        (
            "loss=binary_cross_entropy",
            "loss: want a loss for a next-item model, as SASRec is one, got BinaryCrossEntropy, "
            "which is for a binary model",
        ),
        (f"{DIN} loss=softmax", "loss: want a loss for a binary model, as DIN is one, got Softmax, "
         "which is for a next-item model"),
        (
            "experiment=ple_ml100k model.tasks=[like,lvoe]",
            "model.tasks: want the names of loss.tasks, like, love, got like, lvoe; give these",
        ),
        (
            f"{DIN} model=ple loss=multi_task",
            "loss.tasks: want two or more, as {like: {column: label}, buy: {column: bought}}, got none; name them",
        ),
        (
            "experiment=ple_ml100k model=dcn",
            "model: want shared_bottom, mmoe or ple with loss MultiTask, got DCN; choose another model or loss",
        ),
        (
            "experiment=ple_ml100k loss=binary_cross_entropy",
            "model: want one of a single task with loss BinaryCrossEntropy, got PLE; choose another model or loss",
        ),
        (
            f"{DIN} evaluation.counts.weight=2",
            "evaluation.counts: want null with a binary model, which scores no items, got "
            "2 log(1 + 20 sequence_knn); leave it out",
        ),
        (f"{DIN} model.target=itme", "model.target: want a feature, got 'itme'; did you mean item?"),
        (f"{DIN} model.histories=[histroy]", "model.histories: want a feature, got 'histroy'; did you mean history?"),
        (
            "early_stopping.metric=ndgc@10",
            "early_stopping.metric: want a metric of a next-item model, got 'ndgc@10'; did you mean ndcg@10?",
        ),
        (
            f"{DIN} early_stopping.metric=mrr",
            "early_stopping.metric: want a metric of a binary model, got 'mrr'; "
            "there are: accuracy, auc, group_auc, log_loss, mean_squared_error, normalized_entropy",
        ),
        (
            "early_stopping=null epochs=null",
            "epochs: want steps, epochs or early_stopping, got null for all three: the run would not end",
        ),
        (
            "schedule.decay=cosine",
            "schedule.decay_steps: want the step at which the cosine decay ends, got null",
        ),
        (
            "schedule.decay=linear schedule.decay_steps=50",
            "schedule.decay_steps: want more than schedule.warmup_steps (100), got 50",
        ),
    ],
)  # fmt: skip
def test_parts_have_to_fit_each_other(words: str, problem: str) -> None:
    assert problems(*words.split()) == [problem]


def test_a_run_on_a_stream_ends_with_the_stream() -> None:
    assert problems("early_stopping=null", "epochs=null", "stream.folder=parts") == []


def test_rules_run_where_a_type_is_wrong_too() -> None:
    assert problems("tables.item.dim=6", "model.dropot=1", "model.history=histroy", "schedule.decay=cosine") == [
        "tables.item.dim: want a multiple of 4, got 6; try 8",
        "model.dropot: unknown key; did you mean dropout?",
        "model.history: want a feature, got 'histroy'; did you mean history?",
        "schedule.decay_steps: want the step at which the cosine decay ends, got null",
    ]


def test_what_follows_from_a_mistake_is_no_second_one() -> None:
    # without its column the feature is lost, and the model does not find it
    assert problems("~features.history.column") == ["features.history.column: missing; it has no default"]
    assert problems("features.history.pooling=maen") == [
        f"features.history.pooling: {POOLINGS}, got 'maen'; did you mean mean?"
    ]


def test_train_wants_a_dataset_folder_and_says_how_to_make_it(tmp_path: Path) -> None:
    assert problems(files=True) == ["data: missing; want a dataset folder, made by prepare data=FOLDER"]
    nowhere = tmp_path / "nowhere"
    assert problems(f"data={nowhere}", "seed=x", files=True) == [
        "seed: want an integer, got 'x'",
        f"data: want a dataset folder, got {nowhere}, which is none; make it with prepare data={nowhere}",
    ]


@pytest.mark.parametrize(
    ("words", "unread"),
    [
        (["experiment=sasrec_beauty", "+features.seen={table: item, column: items, pooling: sum}"], ["seen"]),
        (["experiment=sasrec_beauty", "+features.kind={table: item, column: kind, pooling: sum, of: history}"], []),
        (
            [
                "experiment=sasrec_beauty",
                "+features.hour={table: item, column: hours, max_length: 50}",
                "model.beside=[hour]",
            ],
            [],
        ),
        (["experiment=din_ml100k", "model.histories=[history]"], ["disliked"]),
        (["experiment=din_ml100k", "+features.seen={table: item, column: items, pooling: sum}"], []),
        (["experiment=deepfm_ml100k"], []),
    ],
)
def test_a_feature_that_the_model_does_not_read_is_refused(words: list[str], unread: list[str]) -> None:
    model = "SASRec" if "experiment=sasrec_beauty" in words else "DIN"
    assert problems(*words) == [
        f"features.{name}: want a feature that {model} reads, got one that it does not; name it where the model says "
        "what it reads, or leave it out"
        for name in unread
    ]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "accumulation=129",
            "accumulation: want at most global_batch (128), of whose rows each piece has some, got 129",
        ),
        (
            "tables.item.norm_type=1",
            "tables.item.norm_type: want max_norm with it, got max_norm=null; set that, or leave it out",
        ),
        ("wait_seconds=3000000", "wait_seconds: want a number of at most 2e+06, got 3000000"),
        ("threads_per_rank=5000", "threads_per_rank: want a number of at most 4096, got 5000"),
    ],
)
def test_what_has_no_effect_or_no_end_is_refused(word: str, line: str) -> None:
    assert problems("global_batch=128", word) == [line]


def test_train_reads_columns_that_are_there(tiny_data: Path) -> None:
    data = f"data={tiny_data}"
    assert of_tables(data, files=True) == []
    assert of_tables(data, "features.history.column=itemss", "tables.item.dim=5", files=True) == [
        "tables.item.dim: want a multiple of 4, got 5; try 8",
        f"features.history.column: want a column of {tiny_data}, got 'itemss'; did you mean items?",
    ]
    assert of_tables(data, "features.history.column=times", files=True) == [
        "features.history.column: want ids of a vocabulary, got 'times', which holds list<int64> without one; set "
        "tables.item.ids to hash or managed_collision"
    ]
    (problem,) = of_tables(data, "features.history.column=user", files=True)
    assert problem == (
        "tables.item.rows: want a number, or one vocabulary for auto, got features.history.column with ids of user "
        "beside those of item; give a number of rows, or a table to each"
    )
    more = ["+features.seen={table: seen, column: items, pooling: sum}", "+tables.seen.dim=8"]
    assert of_tables(data, *more, files=True) == []
    assert of_tables(data, *more, "+features.who={table: seen, column: user, pooling: sum}", files=True) == [
        f"tables.seen.rows: want a number, or one vocabulary for auto, got features.{feature}.column with ids of {of} "
        "beside those of several; give a number of rows, or a table to each"
        for feature, of in (("seen", "item"), ("who", "user"))
    ]


def test_a_problem_of_a_part_of_a_composed_table_stands_under_the_key_that_was_typed(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    few = ["tables.item.ids={_target_: quotient_remainder, remainders: 5000}", f"data={tiny_data}"]
    ending = "row_wise over 4 ranks leaves rank 3 without one of the 3 rows; use table_wise or data_parallel"
    assert problems("sharding=row_wise", *few, files=True) == [f"sharding: table item: its quotients: {ending}"]
    assert problems("tables.item.sharding=row_wise", *few, files=True) == [
        f"tables.item.sharding: its quotients: {ending}"
    ]


@pytest.mark.parametrize("name", ["a/b", "/a", "a\nb"])
def test_a_table_has_the_name_of_a_file(name: str) -> None:
    assert (
        f"tables.{name}: want a name that a file may have, got {name!r}; "
        in rules(RunConfig, {"tables": {name: {}}}, {})[0]
    )


@pytest.mark.parametrize("group", ["tables", "features"])
def test_names_have_no_colon(group: str) -> None:
    want = "want a name without a colon, which parts of composed tables have"
    assert rules(RunConfig, {group: {"a:b": {}, "c": {}}}, {})[0] == f"{group}.a:b: {want}, got 'a:b'"
    assert not [line for line in rules(RunConfig, {group: {"c": {}}}, {}) if want in line]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["+tables.other={dim: 8, rows: 40, ids: {_target_: managed_collision, evicton: lru}}"],
            "tables.other.ids.evicton: unknown key; did you mean eviction?",
        ),
        (
            ["+tables.other={dim: 8, rows: 40, optimizer: {_target_: adam, lr: 0.1, epz: 1}}"],
            "tables.other.optimizer.epz: unknown key; did you mean eps?",
        ),
        (
            ["+features.other={table: item, column: items, pooling: {_target_: weighted, wieghts: w}}"],
            "features.other.pooling.wieghts: unknown key; did you mean weights?",
        ),
    ],
)
def test_a_mistyped_option_of_a_class_by_its_short_name_gets_the_nearest(words: list[str], line: str) -> None:
    assert line in problems(*words)


def test_din_on_a_folder_without_labels_misses_its_columns(tiny_data: Path) -> None:
    found = problems(DIN, f"data={tiny_data}", files=True)
    assert f"loss.label: want a column of {tiny_data}, got 'label'; there are: items, times, user" in found
    assert f"features.item.column: want a column of {tiny_data}, got 'item'; did you mean items?" in found


def test_what_is_sent_is_of_a_dtype_that_is_known() -> None:
    assert problems("sharding.communication={forward: int8, backward: fp8}") == []
    assert problems("sharding.communication.forward=fp64") == [
        "sharding.communication.forward: want fp32, fp16, bf16, fp8 or int8, got 'fp64'; did you mean fp16?"
    ]


def test_a_run_folder_that_is_taken_is_an_error_on_run(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").touch()
    assert problems(f"data={tiny_data}", f"run={tmp_path}", files=True) == [
        f"run: want a new folder, got {tmp_path}, which exists; choose another run=, or go on with it by resume=true"
    ]


def test_prepare_wants_the_raw_log_and_a_free_place(tmp_path: Path, tiny_data: Path) -> None:
    (tmp_path / "Beauty.txt").touch()
    raw = tmp_path / "Beaty.txt"
    words = ["experiment=sasrec_beauty", f"dataset.raw={raw}", f"data={tiny_data}", "tables.item.dim=6"]
    assert problems(*words, command="prepare", files=True) == [
        "tables.item.dim: want a multiple of 4, got 6; try 8",
        f"dataset.raw: want the raw data, got {raw}, which does not exist; did you mean Beauty.txt?",
        f"data: want a new folder, got {tiny_data}, which holds a dataset; overwrite=true replaces it",
    ]
    words = ["dataset=events", "dataset.users=users.csv", "dataset.attributes.age={of: user}", "overwrite=maybe"]
    assert problems(*words, command="prepare", files=True) == [
        "overwrite: want true or false, got 'maybe'",
        "dataset.raw: missing; want the raw data, give it as dataset.raw=PATH",
        "dataset.users: want a file, got users.csv, which does not exist; check the path",
        "data: missing; want the folder to write, as data=FOLDER",
    ]


@pytest.mark.parametrize(
    ("empty", "problem"),
    [
        ("train", "data: want rows in the train split of {data}, got none; prepare it from more events"),
        ("valid", "early_stopping: want rows in the valid split of {data}, got none; set early_stopping=null"),
        ("test", None),
    ],
)
def test_an_empty_split_is_said_before_a_run_that_would_not_end(
    tmp_path: Path, empty: str, problem: str | None
) -> None:
    data = tmp_path / "data"
    write_dataset(data)
    manifest = read_manifest(data)
    splits = {**manifest.splits, empty: SplitInfo(rows=0, parts=0)}
    write_manifest(data, manifest.model_copy(update={"splits": splits}))
    want = [] if problem is None else [problem.format(data=data)]
    assert problems("experiment=sasrec_beauty", f"data={data}", files=True) == want
