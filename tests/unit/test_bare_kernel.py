"""The operator that `BareKernel` calls is the one that FBGEMM's module calls, with the same arguments.

N  ids    B  bags
"""

from typing import Any

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor

from sharded_emb.distributed.bare_kernel import BareKernel

OPTIMIZERS = [EmbOptimType.EXACT_SGD, EmbOptimType.EXACT_ADAGRAD, EmbOptimType.EXACT_ROWWISE_ADAGRAD]
ROWS, DIMS = [50, 7], [8, 16]


def made(optimizer: EmbOptimType, dtype: SparseType = SparseType.FP32) -> Any:
    """Two tables, of which the second has two features."""
    specs = [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows, dim in zip(ROWS, DIMS, strict=True)]
    arguments: dict[str, Any] = {"learning_rate": 0.1, "eps": 1e-8, "feature_table_map": [0, 1, 1]}
    kernel: Any = SplitTableBatchedEmbeddingBagsCodegen(
        specs, optimizer=optimizer, weights_precision=dtype, output_dtype=SparseType.FP32, **arguments
    )
    draw = torch.Generator().manual_seed(0)
    for weight in kernel.split_embedding_weights():
        weight.copy_(torch.randn(weight.shape, generator=draw))
    return kernel


def batches() -> list[tuple[Tensor, Tensor]]:
    """Ids and offsets of some batches of different sizes, one without ids."""
    draw, found = torch.Generator().manual_seed(1), []
    for rows in (5, 1, 9):
        lengths_B = torch.randint(0, 4, (3 * rows,), generator=draw)
        first, second = int(lengths_B[:rows].sum()), int(lengths_B[rows:].sum())
        ids = [torch.randint(0, high, (n,), generator=draw) for high, n in zip(ROWS, (first, second), strict=True)]
        found.append((torch.cat(ids), torch.nn.functional.pad(lengths_B.cumsum(0), (1, 0))))
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(3 * 2 + 1, dtype=torch.int64)
    return [*found, nothing]


@pytest.mark.parametrize("dtype", [SparseType.FP32, SparseType.FP16], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_training_is_bitwise_that_of_the_module(optimizer: EmbOptimType, dtype: SparseType) -> None:
    module, asked = made(optimizer, dtype), made(optimizer, dtype)
    bare = BareKernel(asked)
    for step, (ids, offsets) in enumerate(batches()):
        for kernel in (module, asked):
            kernel.set_learning_rate(0.1 / (step + 1))  # schedules have to reach it
        want, found = module(ids, offsets), bare(ids, offsets)
        assert torch.equal(found, want)
        for each in (want, found):
            (each * torch.arange(each.numel()).view_as(each)).sum().backward()
        for kept, wanted in zip(asked.split_embedding_weights(), module.split_embedding_weights(), strict=True):
            assert torch.equal(kept, wanted)
        assert torch.equal(asked.momentum1_host, module.momentum1_host)
    assert not torch.equal(asked.weights_host, made(optimizer, dtype).weights_host)


@pytest.mark.parametrize("wrong", [50, -1, 2**31, 2**63 - 1])
@pytest.mark.parametrize("dtype", [SparseType.FP32, SparseType.FP16], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_an_id_that_is_no_row_is_refused(optimizer: EmbOptimType, dtype: SparseType, wrong: int) -> None:
    bare = BareKernel(made(optimizer, dtype))
    for place in range(3):
        ids = torch.tensor([1, 2, 3])
        ids[place] = wrong
        with pytest.raises(RuntimeError, match="out of bounds"):
            bare(ids, torch.tensor([0, 2, 3, 3]))
