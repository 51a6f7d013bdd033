"""Types, names and bounds: every problem in one list, each line beginning with the key that was typed."""

from pathlib import Path

import pytest
import yaml

from sharded_emb.cli import compose_tree
from tests.configs.problems import POOLINGS, problems


def test_nothing_is_said_of_what_is_right() -> None:
    assert problems("experiment=sasrec_beauty", "tables.item.dim=32", "model.dropout=0", "steps=10") == []


def test_all_problems_of_a_command_line_come_in_one_list() -> None:
    words = (
        "experiment=sasrec_beauty tables.item.dmi=64 tables.item.dim=6 features.history.table=itm gloabl_batch=3 "
        "global_batch=abc model.dropot=0.1 model.dropout=2 loss=sofmax steps data=nowhere"
    )
    assert sorted(problems(*words.split(), files=True)) == [
        "data: want a dataset folder, got nowhere, which is none; make it with prepare data=nowhere",
        "features.history.table: want a table, got 'itm'; did you mean item?",
        "gloabl_batch: unknown key; did you mean global_batch?",
        "global_batch: want an integer, got 'abc'",
        "loss: want an option, got 'sofmax'; did you mean softmax?",
        "model.dropot: unknown key; did you mean dropout?",
        "model.dropout: want a number below 1, got 2",
        "steps: want KEY=VALUE, got 'steps'",
        "tables.item.dim: want a multiple of 4, got 6; try 8",
        "tables.item.dmi: unknown key; did you mean dim?",
    ]


@pytest.mark.parametrize("command", ["train", "prepare", "plan", "evaluate"])
def test_a_key_like_no_other_is_a_problem_beside_the_others(command: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(compose_tree("train", [])))
    run = [f"run={tmp_path}"] if command == "evaluate" else []
    of_dim, of_key = problems("qqqq=1", "tables.item.dim=6", *run, command=command)
    assert of_dim == "tables.item.dim: want a multiple of 4, got 6; try 8"
    assert of_key.startswith("qqqq: unknown key; there are: accumulation, ")


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("epohcs=5", "epohcs: unknown key; did you mean epochs?"),
        ("lr=0.1", "lr: unknown key; did you mean embedding_optimizer.lr or dense_optimizer.lr?"),
        ("tables.item.dmi=8", "tables.item.dmi: unknown key; did you mean dim?"),
        ("tables.item.init.sdt=1", "tables.item.init.sdt: unknown key; did you mean std?"),
        ("embedding_optimizer.esp=1", "embedding_optimizer.esp: unknown key; did you mean eps?"),
        ("batches.windw=1", "batches.windw: unknown key; did you mean window?"),
        ("early_stopping.patence=1", "early_stopping.patence: unknown key; did you mean patience?"),
        (
            "dataset.layout.histories=1",
            "dataset.layout.histories: unknown key; there are: session_gap_seconds, split, test_fraction, "
            "valid_fraction; LabelledEvents (dataset=labelled_events) has it",
        ),
        (
            "dataset.layout=labelled_event",
            "dataset.layout: want one of next_item, labelled_events, or a mapping with _target_ naming a Layout, got "
            "'labelled_event'; did you mean labelled_events?",
        ),
        (
            "dataset.layout={label: clicked}",
            "dataset.layout.label: unknown key; there are: session_gap_seconds, split, test_fraction, valid_fraction; "
            "LabelledEvents (dataset=labelled_events) has it",
        ),
        ("global_batch=abc", "global_batch: want an integer, got 'abc'"),
        ("global_batch=1.5", "global_batch: want an integer, got 1.5"),
        ("global_batch=true", "global_batch: want a number, got true"),
        ("global_batch=0", "global_batch: want a number above 0, got 0"),
        ("global_batch=[1,2]", "global_batch: want an integer, got [1, 2]"),
        ("seed=-1", "seed: want a number of at least 0, got -1"),
        ("deterministic=maybe", "deterministic: want true or false, got 'maybe'"),
        ("model.dropout=null", "model.dropout: want a number, got null"),
        ("model.dropout=nan", "model.dropout: want a finite number, got nan"),
        ("model.dropout.x=1", "model.dropout: want a number, got a mapping with x"),
        ("embedding_optimizer.lr=0", "embedding_optimizer.lr: want a number above 0, got 0"),
        ("device=cdua", "device: want auto, cpu or cuda, got 'cdua'; did you mean cuda?"),
        ("name=a/b", "name: want text that matches ^[A-Za-z0-9_.-]+$, got 'a/b'"),
        ("data=", "data: missing; want a path, got ''; name one, or leave the key out"),
        ("run=''", "run: missing; want a path, got ''; name one, or leave the key out"),
        ("stream.folder=", "stream.folder: missing; want a path, got ''; name one, or leave the key out"),
        (
            "+tables.item.weights.path=",
            "tables.item.weights.path: missing; want a path, got ''; name one, or leave the key out",
        ),
        ("data=5", "data: want a path (./5 for a number), got 5"),
        ("tables.item=5", "tables.item: want a mapping, got 5"),
        ("tables.item.dim=10", "tables.item.dim: want a multiple of 4, got 10; try 12"),
        ("tables.item.rows=abc", "tables.item.rows: want auto or an integer, got 'abc'"),
        ("tables.item.rows=-3", "tables.item.rows: want auto or a number above 0, got -3"),
        (
            "tables.item.sharding=row_wize",
            "tables.item.sharding: want table_wise, row_wise, column_wise, table_row_wise, table_column_wise, grid, "
            "data_parallel or auto, got 'row_wize'; did you mean row_wise?",
        ),
        (
            "features.history.pooling=men",
            f"features.history.pooling: {POOLINGS}, got 'men'; did you mean mean?",
        ),
        ("~model", "model: missing; it has no default"),
        ("~tables.item.dim", "tables.item.dim: missing; it has no default"),
        ("early_stopping=5", "early_stopping: want a mapping, got 5"),
    ],
)
def test_a_value_is_named_with_its_key_and_what_is_wanted(word: str, problem: str) -> None:
    assert problems(word) == [problem]


def test_a_table_whose_padding_is_outside_is_named_by_that_key() -> None:
    (problem,) = problems("tables.item.rows=5", "tables.item.padding_row=9")
    assert problem == "tables.item.padding_row: want a padding_row below rows (5), got 9"


def test_a_rule_of_a_whole_config_names_the_key_that_it_is_about() -> None:
    (problem,) = problems("dataset=quickstart", "dataset.items=33")
    assert problem == "dataset.items: want a multiple of clusters (25), got 33"


def test_a_typo_in_the_name_of_an_entry_is_seen_though_it_makes_a_new_one() -> None:
    assert problems("tables.itme.dim=8") == ["tables.itme: unknown table, which no feature reads; did you mean item?"]
    assert problems("features.histroy.pooling=none") == [
        "features.histroy.table: missing; it has no default; did you mean features.history?",
        "features.histroy.column: missing; it has no default; did you mean features.history?",
    ]


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("sharded_emb.losses.softmax.Softmax", "which is none"),
        ("os.path", "which is none"),
        ("sharded_emb.models.sasrec.SASrec", "which is not there; did you mean SASRec?"),
        (
            "sharded_emb.models.saserc.SASRec",
            "which cannot be imported: there is no module sharded_emb.models.saserc; "
            "mend the name, or put its folder on PYTHONPATH",
        ),
        ("SASRec", "which is no path of a class; write it as package.module.Class"),
    ],
)
def test_a_target_has_to_be_of_the_slots_kind(target: str, problem: str) -> None:
    assert problems(f"model._target_={target}") == [f"model._target_: want a ModelConfig, got {target}, {problem}"]


def test_a_target_of_another_kind_is_not_called() -> None:
    words = ["tables.item.init._target_=sharded_emb.optim.sgd.SGD", "tables.item.init.lr=1"]
    assert problems(*words) == [
        "tables.item.init._target_: want an Initializer, got sharded_emb.optim.sgd.SGD, which is none"
    ]


def test_a_target_takes_the_keys_of_its_class_alone() -> None:
    assert problems("dense_optimizer._target_=sharded_emb.optim.base.DenseOptimizer") == [
        f"dense_optimizer.{key}: unknown key; there are: lr, weight_decay; AdamW (dense_optimizer=adamw), "
        "DenseAdam (dense_optimizer=adam) have it"
        for key in ("beta1", "beta2", "eps")
    ]


def test_a_chosen_option_does_not_get_the_keys_that_an_experiment_has_for_its_own() -> None:
    # sasrec_beauty sets loss.negatives, of sampled_softmax, and embedding_optimizer.lr, which all have
    assert problems("experiment=sasrec_beauty", "loss=softmax", "embedding_optimizer=sgd") == []
    assert problems("experiment=sasrec_beauty", "loss=softmax", "loss.negatives=5") == [
        "loss.negatives: unknown key; there are: label_smoothing, scores, weight; SampledSoftmax "
        "(loss=sampled_softmax), BPR (loss=bpr), SampledBinary (loss=sampled_bce) have it"
    ]


def test_what_stands_in_a_slot_is_a_name_or_has_a_target() -> None:
    words = ["dataset.layout=labelled_events", "dataset.layout.label=clicked"]  # the second replaces the first
    assert problems(*words, command="prepare") == [
        "dataset.layout: want one of next_item, labelled_events, or a mapping with _target_ naming a Layout, got a "
        "mapping with label"
    ]


def test_a_layout_may_take_the_place_of_that_of_events() -> None:
    words = ["dataset=events", "dataset.layout._target_=labelled_events", "dataset.layout.label=clicked"]
    assert problems(*words, command="prepare") == []


@pytest.mark.parametrize(
    ("words", "lr"),
    [
        ("embedding_optimizer=sgd", 0.1),  # of its own file: 0.2 is meant for the experiment's row-wise Adagrad
        ("embedding_optimizer=sgd embedding_optimizer.lr=0.3", 0.3),
        ("embedding_optimizer=adagrad", 0.05),
        ("embedding_optimizer=rowwise_adagrad", 0.2),  # the experiment's own class keeps what it says
    ],
)
def test_a_chosen_option_takes_its_own_values_and_what_is_typed(words: str, lr: float) -> None:
    assert compose_tree("train", ["experiment=sasrec_beauty", *words.split()])["embedding_optimizer"]["lr"] == lr


def test_a_chosen_option_refers_to_the_tree_of_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "dense_optimizer").mkdir()
    text = "_target_: somewhere.Else\nlr: ${embedding_optimizer.lr}\nweight_decay: 0.5\n"
    (tmp_path / "dense_optimizer" / "mine.yaml").write_text(text)
    tree = compose_tree("train", ["experiment=sasrec_beauty", "dense_optimizer=mine"], tmp_path)
    assert tree["dense_optimizer"] == {"_target_": "somewhere.Else", "lr": 0.2, "weight_decay": 0.5}


def test_a_limit_of_memory_is_a_size() -> None:
    for given in ("foo", "10"):
        said = problems("dataset.raw=x", "dataset=events", f"prepare.memory_limit={given}", command="prepare")
        assert said == [f"prepare.memory_limit: want a size such as 4GB, got {given}"]
    for given in ("4GB", "'1.5 GiB'", "null"):
        assert problems("dataset.raw=x", "dataset=events", f"prepare.memory_limit={given}", command="prepare") == []
