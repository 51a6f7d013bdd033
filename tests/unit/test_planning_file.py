"""plan.json: what is written is read back, and what does not fit a run is refused by its key."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sharded_emb.config.plan_rules import misfits_of_plan
from sharded_emb.errors import InputError
from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.plan_file import PlanFile, written
from sharded_emb.planning.search import search
from sharded_emb.planning.shapes import Placement, Ranks, Shard, whole_on_all
from sharded_emb.tables import Table
from tests.unit.planning import cluster, costs, legal, tables

RANKS = Ranks(4, 2)
CONFIGS = {"item": {"rows": 10, "dim": 16}, "user": {"rows": 100, "dim": 8}}


def made(**changed: Any) -> list[Table]:
    return tables({**CONFIGS, "item": {**CONFIGS["item"], **changed}})


def plan_of(path: Path, item: Placement | None = None, some: list[Table] | None = None) -> dict[str, Any]:
    """The file of a plan of both tables, in which item is as given; it is written to `path`."""
    all_tables = some or made()
    where = cluster(2, 2)
    of = costs(all_tables, where)
    found = search(all_tables, of, legal(where), {})
    assert found is not None
    placements = found | ({"item": item} if item else {})
    file = written(Outcome(all_tables, placements, of))
    path.write_text(json.dumps(file))
    return file


def misfits(path: Path, some: list[Table] | None = None, ranks: Ranks = RANKS) -> list[str]:
    file = PlanFile(path)
    return [line.replace(str(path), "FILE") for line in misfits_of_plan(file, some or made(), ranks)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"


def shards(*blocks: tuple[int, int, int, int, int]) -> tuple[Shard, ...]:
    return tuple(Shard(*block) for block in blocks)


RIGHT = [
    Placement("table_wise", shards((3, 0, 0, 10, 16))),
    Placement("row_wise", shards(*((rank, 3 * rank, 0, 3 if rank < 3 else 1, 16) for rank in range(4)))),
    Placement("column_wise", shards((2, 0, 0, 10, 4), (0, 0, 4, 10, 12))),
    Placement("table_row_wise", shards((2, 0, 0, 5, 16), (3, 5, 0, 5, 16))),
    Placement("table_column_wise", shards((3, 0, 0, 10, 8), (2, 0, 8, 10, 8))),
    Placement("grid", shards((2, 0, 0, 5, 8), (3, 5, 0, 5, 8), (0, 0, 8, 5, 8), (1, 5, 8, 5, 8))),
    whole_on_all(10, 16, 4),
]


@pytest.mark.parametrize("item", RIGHT, ids=lambda placement: placement.kind)
def test_what_is_written_is_read_back(path: Path, item: Placement) -> None:
    plan_of(path, item)
    assert misfits(path) == []
    assert PlanFile(path).placements()["item"] == item


@pytest.mark.parametrize("item", RIGHT, ids=lambda placement: placement.kind)
def test_the_order_in_which_a_file_has_its_shards_is_of_no_matter(path: Path, item: Placement) -> None:
    file = plan_of(path, item)
    file["tables"]["item"]["shards"].reverse()
    path.write_text(json.dumps(file))
    assert misfits(path) == []
    assert PlanFile(path).placements()["item"] == item


WRONG = [
    ("table_wise", [(4, 0, 0, 10, 16)], "want ranks below 4, got 4"),
    ("table_wise", [(0, 0, 0, 9, 16)], "want all of its 10 rows in each column shard of table_wise, got 0-8"),
    ("column_wise", [(0, 0, 0, 10, 8)], "want shards that cover its 16 columns once, got 0-7"),
    (
        "column_wise",
        [(0, 0, 0, 10, 8), (1, 0, 4, 10, 12)],
        "want shards that cover its 16 columns once, got 0-7, 4-15",
    ),
    (
        "column_wise",
        [(0, 0, 0, 10, 6), (1, 0, 6, 10, 10)],
        "want column shards that are multiples of 4 wide, got 6 columns on rank 0",
    ),
    (
        "column_wise",
        [(1, 0, 0, 10, 8), (1, 0, 8, 10, 8)],
        "want each shard on a rank of its own, got ranks 1, 1",
    ),
    (
        "row_wise",
        [(0, 0, 0, 4, 16), (1, 4, 0, 2, 16), (2, 6, 0, 2, 16), (3, 8, 0, 2, 16)],
        "want all of its 10 rows in each column shard of row_wise, 3 a rank while they last, got 0-3, 4-5, 6-7, 8-9",
    ),
    (
        "row_wise",
        [(1, 0, 0, 3, 16), (0, 3, 0, 3, 16), (2, 6, 0, 3, 16), (3, 9, 0, 1, 16)],
        "want its rows rank after rank, got ranks 1, 0, 2, 3",
    ),
    (
        "table_row_wise",
        [(1, 0, 0, 5, 16), (2, 5, 0, 5, 16)],
        "want table_row_wise on 1 host of 2 ranks, got 2",
    ),
    (
        "table_column_wise",
        [(0, 0, 0, 10, 8), (2, 0, 8, 10, 8)],
        "want table_column_wise on 1 host of 2 ranks, got 2",
    ),
    ("table_wise", [(0, 0, 0, 10, 8), (1, 0, 8, 10, 8)], "want all columns in each shard of table_wise, got 2 column"),
    ("grid", [(0, 0, 0, 5, 16), (2, 5, 0, 5, 16)], "want its rows rank after rank, got ranks 0, 2"),
    ("table_wise", [], "want shards that cover its 16 columns once, got none"),
]


@pytest.mark.parametrize(("kind", "blocks", "text"), WRONG)
def test_shards_that_torchrec_would_not_serve_are_refused(path: Path, kind: Any, blocks: Any, text: str) -> None:
    file = plan_of(path)
    file["tables"]["item"] |= {
        "sharding": kind,
        "shards": [{"rank": block[0], "offsets": block[1:3], "sizes": block[3:]} for block in blocks],
    }
    path.write_text(json.dumps(file))
    (line,) = misfits(path)
    assert line.startswith(f"sharding.plan: table item: {text}")
    assert line.endswith(" in FILE; make it anew with plan out=FOLDER")


def test_column_shards_of_what_reads_vectors_are_of_one_width(path: Path) -> None:
    some = tables(CONFIGS, pooling="none")
    plan_of(path, RIGHT[2], some)
    assert misfits(path, some) == [
        "sharding.plan: table item: want column shards of one width, since a feature reads vectors, got 0-3, 4-15 in "
        "FILE; make it anew with plan out=FOLDER"
    ]
    assert misfits(path) == []  # sums are put together by their offsets


def test_another_number_of_ranks_is_refused(path: Path) -> None:
    plan_of(path)
    assert misfits(path, ranks=Ranks(2, 2)) == [
        "sharding.plan: want a plan for 2 ranks, got one for 4 in FILE; plan for as many, or start 4"
    ]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"rows": 11}, "want rows 11, got 10 in FILE"),
        ({"dim": 8}, "want dim 8, got 16 in FILE"),
        ({"dtype": "fp16"}, "want dtype fp16, got fp32 in FILE"),
    ],
)
def test_another_table_is_refused(path: Path, changed: dict[str, Any], text: str) -> None:
    plan_of(path)
    assert misfits(path, made(**changed)) == [f"sharding.plan: table item: {text}; make it anew with plan out=FOLDER"]


def test_other_features_are_refused(path: Path) -> None:
    file = plan_of(path)
    file["tables"]["item"]["features"] = ["f_item", "f_more"]
    path.write_text(json.dumps(file))
    (line,) = misfits(path)
    assert line.startswith("sharding.plan: table item: want features f_item, got f_item, f_more in FILE;")


def test_a_table_too_few_and_one_too_many_are_refused(path: Path) -> None:
    plan_of(path)
    other = tables({"item": CONFIGS["item"], "usr": CONFIGS["user"]})
    assert misfits(path, other) == [
        "sharding.plan: table user of FILE is none of this config; did you mean usr?",
        "sharding.plan: want every table in FILE, which has no usr; make it anew with plan out=FOLDER",
    ]


def test_a_type_that_the_config_names_is_not_overruled(path: Path) -> None:
    plan_of(path, RIGHT[0])
    assert misfits(path, made(sharding="row_wise")) == [
        "sharding.plan: table item: want row_wise, which the config asks for, got table_wise in FILE; set "
        "tables.item.sharding=auto, or make it anew with plan out=FOLDER"
    ]


def test_columns_of_what_reads_whole_rows_are_refused_in_a_plan_too(path: Path) -> None:
    some = tables(CONFIGS, Adagrad(lr=1))
    plan_of(path, RIGHT[2], some)
    (line,) = misfits(path, tables(CONFIGS, RowWiseAdagrad(lr=1)))
    assert line.startswith("sharding.plan: table item: column_wise with RowWiseAdagrad, which reads whole rows")


def test_parts_of_a_table_are_data_parallel_all_or_none(path: Path) -> None:
    from sharded_emb.tables import held

    composed = tables({"t": {"rows": 1000, "dim": 8, "ids": "quotient_remainder"}})
    file = plan_of(path, some=held(composed))
    assert misfits(path, composed) == []
    file["tables"]["t:quotient"] |= {"sharding": "data_parallel", "shards": []}
    path.write_text(json.dumps(file))
    assert misfits(path, composed) == [
        "sharding.plan: table t: want all of its parts data_parallel, or none, got data_parallel, "
        f"{file['tables']['t:remainder']['sharding']} in FILE"
    ]
    file["tables"]["t:remainder"] |= {"sharding": "data_parallel", "shards": []}
    path.write_text(json.dumps(file))
    (applied,) = PlanFile(path).applied(composed)
    assert applied.sharding == "data_parallel"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "want a plan.json, got FILE, which is not there; make one with plan out=FOLDER"),
        ("not json", "want JSON in FILE, got: Expecting value in line 1; make it anew with plan out=FOLDER"),
        ("[]", "want a plan in FILE, got: the whole: "),
        ('{"world_size": 2}', "want a plan in FILE, got: tables: Field required; make it anew with plan out=FOLDER"),
        (
            '{"world_size": 0, "tables": {}}',
            "want a plan in FILE, got: world_size: Input should be greater than 0; make it anew with plan out=FOLDER",
        ),
    ],
)
def test_what_is_no_plan_is_refused(path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as wrong:
        PlanFile(path)
    (line,) = wrong.value.problems
    assert line.replace(str(path), "FILE").startswith(f"sharding.plan: {problem}")


def test_a_folder_is_no_plan(path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^sharding\.plan: want a plan\.json, got .*, which cannot be read \(Is a dir"
    ):
        PlanFile(path.parent)


def test_kernels_are_those_of_the_plan(path: Path) -> None:
    caching = [replace(made()[0], kernel="uvm_caching", cache_load_factor=0.3), made()[1]]
    plan_of(path, RIGHT[0], caching)
    assert misfits(path) == []
    item, user = PlanFile(path).applied(made())
    assert (item.kernel, item.cache_load_factor) == ("uvm_caching", 0.3)
    assert user.kernel is None
    other = [replace(made()[0], kernel="uvm"), made()[1]]
    assert misfits(path, other) == [
        "sharding.plan: table item: want kernel uvm, which the config asks for, got uvm_caching in FILE; make it anew "
        "with plan out=FOLDER"
    ]
    less = [replace(made()[0], kernel="uvm_caching", cache_load_factor=0.1), made()[1]]
    assert misfits(path, less) == [
        "sharding.plan: table item: want cache_load_factor 0.1, as the config has it, got 0.3 in FILE; make it anew "
        "with plan out=FOLDER"
    ]
