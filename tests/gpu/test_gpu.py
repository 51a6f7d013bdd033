"""The same numbers on a GPU as on the CPU: initial tables bitwise, training to rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sharded_emb.distributed.blocks import Blocks
from sharded_emb.distributed.process_group import process_group
from sharded_emb.optim.adam import Adam
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.optim.partial_rowwise_adam import PartialRowWiseAdam
from sharded_emb.sharding import KernelChoice
from sharded_emb.training.checkpoint import Checkpoints
from tests.distributed import parity_cases
from tests.distributed import plan_checkpoint_cases as plain

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("optimizer", parity_cases.OPTIMIZERS)
@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "data_parallel"])
def test_a_gpu_trains_to_the_numbers_of_plain_pytorch(sharding: str, optimizer: str) -> None:
    want_losses, want_tables = parity_cases.train_plain(optimizer)
    with process_group("cuda", wait_seconds=60) as place:
        assert place.device.type == "cuda"
        losses, tables = parity_cases.train_sharded(place, sharding, optimizer)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(want_losses), rtol=0, atol=1e-5)
    for name, table in tables.items():
        torch.testing.assert_close(table, want_tables[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", [{"kernel": "uvm"}, {"kernel": "uvm_caching", "cache_load_factor": 0.3}], ids=str)
def test_tables_in_the_memory_of_the_host_train_to_the_numbers_of_plain_pytorch(kernel: dict[str, Any]) -> None:
    want_losses, want_tables = parity_cases.train_plain("rowwise_adagrad")
    with process_group("cuda", wait_seconds=60) as place:
        where = parity_cases.Exchange(kernel=KernelChoice(**kernel))
        losses, tables = parity_cases.train_sharded(place, "row_wise", "rowwise_adagrad", where)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(want_losses), rtol=0, atol=1e-5)
    for name, table in tables.items():
        torch.testing.assert_close(table, want_tables[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "optimizer", [Adam(lr=0.01), PartialRowWiseAdam(lr=0.01)], ids=lambda each: type(each).__name__
)
def test_kernels_that_only_a_gpu_has_train_to_the_numbers_of_the_cpu(
    optimizer: EmbeddingOptimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity_cases.OPTIMIZERS, "its", optimizer)
    found = []
    for device in ("cpu", "cuda"):
        with process_group(device, wait_seconds=60) as place:
            found.append(parity_cases.train_sharded(place, "table_wise", "its"))
    (want_losses, want_tables), (losses, tables) = found
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(want_losses), rtol=0, atol=1e-4)
    for name, table in tables.items():
        torch.testing.assert_close(table, want_tables[name], rtol=0, atol=1e-3)


def test_lookups_of_a_cached_table_are_of_what_was_loaded(tmp_path: Path) -> None:
    with process_group("cuda", wait_seconds=60) as place:
        where = parity_cases.Exchange(kernel=KernelChoice(kernel="uvm_caching", cache_load_factor=0.5))
        sharded, dense = parity_cases.build(place, "table_wise", parity_cases.OPTIMIZERS["rowwise_adagrad"], where)
        checkpoints = Checkpoints(tmp_path, place, {})
        plain.train(place, sharded, dense)
        checkpoints.save(sharded, dense, 3, best=False)
        saved = {name: sharded.whole_table(name) for name in parity_cases.ROWS}
        plain.train(place, sharded, dense)  # the cache is full of later rows
        assert not torch.equal(sharded.whole_table("big"), saved["big"])
        checkpoints.load(sharded, dense, checkpoints.newest())
        plain.train(place, sharded, dense)
        again = {name: sharded.whole_table(name) for name in parity_cases.ROWS}
        checkpoints.load(sharded, dense, checkpoints.newest())
        assert all(torch.equal(sharded.whole_table(name), saved[name]) for name in saved)
        plain.train(place, sharded, dense)
        for name, table in again.items():
            torch.testing.assert_close(sharded.whole_table(name), table, rtol=0, atol=1e-5, msg=name)


def test_initial_tables_are_bitwise_those_of_the_cpu() -> None:
    with process_group("cuda", wait_seconds=60) as place:
        sharded, _ = parity_cases.build(place, "table_wise", parity_cases.OPTIMIZERS["sgd"])
        for name in parity_cases.ROWS:
            assert torch.equal(sharded.whole_table(name), parity_cases.initial_table(name))


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_blocks_that_travel_are_bitwise_those_of_the_cpu(dtype: Any) -> None:
    values = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * torch.logspace(-9, 9, 64)[:, None]
    blocks = Blocks(dtype, 16)
    sent = blocks.encode(values)
    assert torch.equal(blocks.encode(values.cuda()).cpu(), sent)
    assert torch.equal(blocks.decode(sent.cuda()).cpu(), blocks.decode(sent))
    values[3, 5] = torch.inf
    assert blocks.decode(blocks.encode(values.cuda())).cpu().isnan().nonzero()[:, 0].tolist() == [*range(96, 112)]
