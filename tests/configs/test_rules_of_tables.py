"""Rules about tables: their ids, types, sharding and kernels."""

from pathlib import Path

import pytest

from tests.configs.problems import of_tables, problems

DECOUPLED = ("embedding_optimizer.weight_decay_mode=touched_decoupled", "embedding_optimizer.weight_decay=0.01")


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["tables.item.state_dtype=fp16", "embedding_optimizer=adam"],
            [
                "tables.item.state_dtype: want fp32 or bf16 with Adam, whose squares of gradients are often below the "
                "smallest number of fp16 and would be 0, got fp16"
            ],
        ),
        (["tables.item.state_dtype=fp16", "embedding_optimizer=lars"], []),
        (["tables.item.state_dtype=fp16", "embedding_optimizer=adam", "tables.item.freeze=true"], []),
        (["tables.item.state_dtype=bf16", "embedding_optimizer=rowwise_adagrad"], []),
        (
            ["tables.item.dtype=bf16", "embedding_optimizer=adam", "embedding_optimizer.lr=0.05", *DECOUPLED],
            [
                "tables.item.dtype: want fp32 with weight_decay_mode=touched_decoupled and lr * weight_decay = 0.0005, "
                "whose factor of nearly 1 would be rounded away, got bf16"
            ],
        ),
        (["tables.item.dtype=fp16", "embedding_optimizer=adam", "embedding_optimizer.lr=0.05", *DECOUPLED], []),
    ],
)
def test_types_hold_what_the_optimizer_keeps_there(tiny_data: Path, words: list[str], lines: list[str]) -> None:
    assert problems(f"data={tiny_data}", *words, files=True) == lines


def test_an_item_table_that_is_ranked_has_a_row_an_item(tiny_data: Path) -> None:
    for ids in ("hash", "managed_collision"):
        (problem,) = problems(f"tables.item.ids={ids}", "tables.item.rows=40", f"data={tiny_data}", files=True)
        assert problem == f"tables.item.ids: want rows, since each row is ranked as an item, got {ids}"
    assert problems("tables.item.ids=quotient_remainder", f"data={tiny_data}", files=True) == []


def test_ids_without_a_vocabulary_want_a_table_that_takes_any(tiny_data: Path) -> None:
    other = ["+tables.other={rows: 40, dim: 8}", "+features.other={table: other, column: times, pooling: sum}"]
    (problem,) = of_tables(*other, f"data={tiny_data}", files=True)
    assert problem == (
        "features.other.column: want ids of a vocabulary, got 'times', which holds list<int64> without one; set "
        "tables.other.ids to hash or managed_collision"
    )
    for ids in ("hash", "managed_collision"):
        assert of_tables(*other, f"+tables.other.ids={ids}", f"data={tiny_data}", files=True) == []
    (problem,) = of_tables(*other, "+tables.other.ids=hashed", f"data={tiny_data}", files=True)
    assert problem.startswith("tables.other.ids: want one of rows, hash, "), "and nothing about the column"
    (problem,) = of_tables(
        *other, "+tables.other.ids=hash", "+features.other.unknown=drop", f"data={tiny_data}", files=True
    )
    assert problem == (
        "features.other.unknown: want error with 'times', which has no vocabulary to which an id could be unknown, got "
        "drop"
    )


def test_all_that_does_not_go_with_the_ids_of_a_table_is_said_at_once(tiny_data: Path) -> None:
    other = [
        "+tables.other={dim: 12, ids: managed_collision, weights: {path: w.npy}}",
        "+features.other={table: other, column: times, pooling: sum}",
    ]
    assert of_tables(*other, f"data={tiny_data}", files=True) == [
        "tables.other.rows: want a number of at least 18, two a bucket and 2 more, which ids are given, got 'auto'",
        "tables.other.weights: want null with ids: managed_collision, since no row belongs to an id before it is met, "
        "got a mapping with path",
    ]


def test_ids_of_a_table_that_gives_rows_to_them_cannot_go_ahead() -> None:
    managed = [
        "+tables.other={dim: 8, rows: 40, ids: managed_collision}",
        "+features.other={table: other, column: times, pooling: sum}",
    ]
    assert of_tables(*managed, "prefetch.ids=true") == [
        "prefetch.ids: want auto or false with tables.other.ids: managed_collision, whose rows are known in their step "
        "and not before, got true; leave it out"
    ]
    for words in ([*managed, "prefetch.ids=false"], managed, ["prefetch.ids=true"]):
        assert of_tables(*words) == []
    assert of_tables("prefetch.ids=yess") == ["prefetch.ids: want auto or true or false, got 'yess'"]


def test_a_table_that_cannot_be_sharded_as_asked_is_in_the_list_under_the_key_that_was_typed(tiny_data: Path) -> None:
    ending = (
        "column_wise with RowWiseAdagrad, which reads whole rows, would give the numbers of no other plan; "
        "use table_wise, row_wise or data_parallel, or an optimizer such as adagrad"
    )
    assert problems("sharding=column_wise", "seed=x", f"data={tiny_data}", files=True) == [
        "seed: want an integer, got 'x'",
        f"sharding: table item: {ending}",
    ]
    assert problems("tables.item.sharding=column_wise", f"data={tiny_data}", files=True) == [
        f"tables.item.sharding: {ending}"
    ]


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("sharding.tables={itme: row_wise}", "itme: want the name or a pattern of tables; did you mean item?"),
        ("sharding.tables={user_*: row_wise}", "user_*: want the name or a pattern of tables; there are: item"),
        (
            "sharding.tables={item: row_wize}",
            "item: want table_wise, row_wise, column_wise, table_row_wise, table_column_wise, grid, data_parallel or "
            "auto, got 'row_wize'; did you mean row_wise?",
        ),
        (
            "sharding.tables={it*: {type: row_wise, ranks: [0]}}",
            "it*.ranks: want null with row_wise, which has ranks of its own, got 0",
        ),
        (
            "sharding.tables={item: {type: table_wise, ranks: [0, 1]}}",
            "item.ranks: want one rank with table_wise, got 0, 1; use column_wise",
        ),
        (
            "sharding.tables={item: {type: column_wise, ranks: [1, 1]}}",
            "item.ranks: want each rank once, got 1, 1",
        ),
        (
            "sharding.tables={item: {type: row_wise, min_partition: 8}}",
            "item.min_partition: want null with row_wise, got 8; use type=auto",
        ),
        ("sharding.tables={item: {typ: row_wise}}", "item.typ: unknown key; did you mean type?"),
    ],
)
def test_a_pattern_of_tables_is_named_with_its_key(word: str, problem: str) -> None:
    assert problems(word) == [f"sharding.tables.{problem}"]


def test_what_a_pattern_cannot_have_is_said_under_the_pattern(tiny_data: Path) -> None:
    assert problems("sharding.tables={it*: grid}", f"data={tiny_data}", files=True)[0].startswith(
        "sharding.tables.it*: table item: want table_wise, row_wise, column_wise, data_parallel or auto, since history "
    )
    words = ["sharding.tables={item: {type: table_wise, ranks: [1]}}", f"data={tiny_data}"]
    assert problems(*words, files=True) == [
        "sharding.tables.item: table item: want ranks below 1, got 1; start more, or set tables.item.sharding"
    ]
    assert problems(*words, "tables.item.sharding=row_wise", files=True) == []


CPU = "want fused or dense on a CPU, which has its tables in the host's memory, got"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["sharding.kernel=uvm"], f"kernel: table item: {CPU} uvm; use fused"),
        (
            ["sharding.tables={it*: {kernel: uvm_caching}}"],
            f"tables.it*.kernel: table item: {CPU} uvm_caching; use fused",
        ),
        (
            ["sharding.kernel=key_value", "sharding.tables={item: row_wise}"],
            f"kernel: table item: {CPU} key_value; use fused",
        ),
        (
            ["sharding.kernel=key_value", "device=cuda"],
            "kernel: table item: want fused, uvm or uvm_caching, whose rows can be filled and saved, got key_value",
        ),
        (
            ["sharding.kernel=fused", "embedding_optimizer=adam"],
            "kernel: table item: want null or dense, since FBGEMM has no kernel of Adam on cpu, got fused",
        ),
        (
            ["sharding.kernel=fused", "tables.item.output_dtype=bf16"],
            "kernel: table item: want null or dense, since FBGEMM gives no bf16 vectors on a CPU, got fused",
        ),
        (
            ["sharding.kernel=uvm", "device=cuda", "tables.item.sharding=data_parallel"],
            "kernel: table item: want null or dense, since a data-parallel table is whole on every rank, and no kernel "
            "exchanges its gradients, got uvm",
        ),
        (
            ["sharding.kernel=dense", "tables.item.update=sparse"],
            "kernel: table item: want null with tables.item.update=sparse, got dense; leave one of them out",
        ),
    ],
)
def test_a_kernel_that_cannot_be_had_is_refused(words: list[str], problem: str, tiny_data: Path) -> None:
    device = [] if "device=cuda" in words else ["device=cpu"]
    assert problems(*words, *device, f"data={tiny_data}", files=True) == [f"sharding.{problem}"]


def test_a_cache_is_of_the_kernel_that_has_one() -> None:
    assert problems("sharding.kernel=uvm", "sharding.cache_load_factor=0.2") == [
        "sharding.cache_load_factor: want null with kernel=uvm, got 0.2; use kernel=uvm_caching"
    ]
    assert problems("sharding.kernel=uvm_caching", "sharding.cache_load_factor=2") == [
        "sharding.cache_load_factor: want a number of at most 1, got 2"
    ]
    assert problems("sharding.kernel=uvn") == [
        "sharding.kernel: want fused, dense, uvm, uvm_caching or key_value, got 'uvn'; did you mean uvm?"
    ]


@pytest.mark.parametrize("name", ["type", "items", "values"])
def test_a_table_has_no_name_that_a_module_needs(name: str) -> None:
    """TorchRec would end with a KeyError."""
    line = f"tables.{name}: want a name that torch's modules have no use for, got {name!r}; call it {name}_table"
    words = [f"tables.{name}={{dim: 8}}", f"features.f={{table: {name}, column: c, pooling: sum}}"]
    assert of_tables(*words) == [line]
