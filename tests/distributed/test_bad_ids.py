"""A run on two ranks meets an id that is no row of its table: all say so, and nothing has moved."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sharded_emb.data.dataset import Dataset
from tests.distributed import bad_id_cases as cases
from tests.distributed.ranks import run_ranks

BAD = 2**31 + 11
TABLES = {"history": "item", "category": "category"}  # by feature


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("bad") / "good"
    cases.write_clicks(folder)
    return folder


@pytest.fixture(scope="module")
def found(clicks: Path) -> list[dict[str, Any]]:
    """On each rank."""
    bad = {feature: clicks.with_name(f"bad {feature}") for feature in cases.COLUMNS}
    for feature, folder in bad.items():
        cases.spoil(clicks, folder, cases.COLUMNS[feature], BAD)
    return run_ranks(cases.everything, 2, clicks, bad, clicks.with_name("runs"))


@pytest.mark.parametrize("ids_ahead", [True, False], ids=["ids ahead", "not ahead"])
@pytest.mark.parametrize("feature", cases.COLUMNS)
def test_a_bad_id_ends_both_ranks_with_its_name_and_changes_no_number(
    found: Any, clicks: Path, feature: str, ids_ahead: bool
) -> None:
    rows = Dataset.open(clicks).rows(TABLES[feature])
    for of_rank in found:
        said, steps, last, now = of_rank["refused"][feature, ids_ahead]
        before, earlier = of_rank["before"], of_rank["earlier"]
        assert said == (
            f"OutOfRangeIdError: table {TABLES[feature]}, feature {feature}: id {BAD} is out of range [0, {rows}) "
            "(rank 1, step 3, row 2 of the batch)"
        )
        assert (steps, last) == (2, "step-2")
        assert now.keys() == before.keys()
        assert [name for name in now if not torch.equal(now[name], before[name])] == []
        assert {"item", "category"} <= now.keys()
        assert [name for name in now if torch.equal(before[name], earlier[name])] == [], "a step moves all of them"
