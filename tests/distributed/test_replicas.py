"""`sharding.replicas`: groups of ranks that hold all sharded tables train to the numbers of one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DMPCollection
from torchrec.distributed.types import ShardingPlan

from sharded_emb.distributed.cuts import ALONG_HOSTS
from tests.configs.problems import problems
from tests.distributed import parity_cases, replica_cases
from tests.distributed.ranks import WAIT_SECONDS, on_one_rank, run_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """By rank; two replicas of two."""
    return run_ranks(replica_cases.all_cases, 4, folder)


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return {name: parity_cases.train_plain(name) for name in parity_cases.OPTIMIZERS}


@pytest.mark.parametrize(("sharding", "optimizer"), replica_cases.CASES)
def test_every_optimizer_trains_to_plain_numbers(found: Any, plain: Any, sharding: str, optimizer: str) -> None:
    want_losses, want_tables = plain[optimizer]
    for of_rank in found:
        losses, tables = of_rank["trained"][sharding, optimizer]
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(want_losses), rtol=0, atol=1e-5)
        for name, table in tables.items():
            torch.testing.assert_close(table, want_tables[name], rtol=0, atol=1e-6)


def test_no_group_waits_longer_than_was_asked_for() -> None:
    for of_rank in run_ranks(replica_cases.timeouts, 4, per_host=2):
        assert len(of_rank) >= 6  # all ranks, those of a host and of its places, of a replica and across, of saves
        assert {*of_rank.values()} == {WAIT_SECONDS}


def test_each_replica_has_all_rows_and_they_stay_the_same_to_the_last_bit(found: Any) -> None:
    for one, other in ((0, 2), (1, 3)):
        assert found[one]["shards"]
        for (name, row, values), (same, at, others) in zip(found[one]["shards"], found[other]["shards"], strict=True):
            assert (name, row) == (same, at)
            assert torch.equal(values, others)
    rows = {
        name: sum(len(v) for n, _, v in found[0]["shards"] + found[1]["shards"] if n == name)
        for name in ("big", "pool")
    }
    assert rows == {name: parity_cases.ROWS[name] for name in rows}


def test_gradients_between_replicas_travel_in_the_dtype_that_was_asked_for(found: Any, plain: Any) -> None:
    exact = found[0]["trained"]["row_wise", "adagrad"][1]
    for name, table in found[0]["rounded"].items():
        assert not torch.equal(table, exact[name])
        torch.testing.assert_close(table, plain["adagrad"][1][name], rtol=0, atol=2 * 2**-10)


def test_a_checkpoint_holds_each_table_once_and_loads_with_and_without_replicas(found: Any, folder: Path) -> None:
    assert [of_rank["loaded"] for of_rank in found] == [[]] * 4
    assert on_one_rank(lambda place: replica_cases.loaded(place, folder, parity_cases.PLAIN)) == []


def test_what_replicas_cannot_have_is_refused(monkeypatch: pytest.MonkeyPatch, tiny_data: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    words = [f"data={tiny_data}", "device=cpu"]
    assert problems(*words, "sharding.replicas=2", files=True) == []
    assert problems(*words, "sharding.replicas=3", files=True) == [
        "sharding.replicas: want a divisor of the number of ranks, 4, got 3"
    ]
    (line,) = problems(*words, "sharding.replicas=2", "tables.item.update=fused", files=True)
    assert line.startswith(
        "tables.item.update: want auto or sparse, since sharding.replicas needs the gradients of the"
    )
    pooled = [*words, "+features.bag={table: other, column: items, pooling: sum}", "+tables.other={rows: 100, dim: 8}"]
    for kind in ALONG_HOSTS:
        assert problems(*pooled, "sharding.replicas=2", f"tables.other.sharding={kind}", files=True)[-1:] == [
            "tables.other.sharding: want table_wise, row_wise, column_wise, data_parallel or auto with "
            f"sharding.replicas=2, since TorchRec finds hosts among all ranks, got {kind}"
        ]


def test_torchrecs_own_collection_of_replicas_wants_a_gpu() -> None:
    def collection(_: Any) -> None:
        world, device = dist.group.WORLD, torch.device("cpu")
        DMPCollection(torch.nn.Linear(1, 1), device, ShardingPlan({}), 1, 1, world)

    with pytest.raises(AssertionError, match="DMPCollection only supports CUDA or MTIA"):
        on_one_rank(collection)
