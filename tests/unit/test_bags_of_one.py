"""Vectors of ids, asked for as sums of bags of one id: FBGEMM's own kernel without pooling is the slow twin."""

from collections import Counter
from typing import Any

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor

from sharded_emb.distributed.kernels import BagsOfOne

DIM = 8


def kernel(tables: list[int], optimizer: EmbOptimType = EmbOptimType.EXACT_ROWWISE_ADAGRAD) -> Any:
    """Without pooling. tables: of each feature."""
    spec = [(rows, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in (5, 7)[: max(tables) + 1]]
    made: Any = SplitTableBatchedEmbeddingBagsCodegen(
        spec,
        feature_table_map=tables,
        pooling_mode=PoolingMode.NONE,
        optimizer=optimizer,
        learning_rate=0.1,
    )
    draw = torch.Generator().manual_seed(0)
    for weight in made.split_embedding_weights():
        weight.copy_(torch.randn(weight.shape, generator=draw))
    return made


def step(made: Any, ids: list[list[list[int]]], forward: Any) -> tuple[Tensor, list[Tensor]]:
    """Vectors of a step, and all rows after it. ids: of each feature by sample."""
    values = torch.tensor([value for feature in ids for bag in feature for value in bag], dtype=torch.int64)
    lengths = torch.tensor([len(bag) for feature in ids for bag in feature])
    found = forward(indices=values, offsets=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)))
    found.backward(torch.sin(torch.arange(found.numel()).float()).view_as(found))
    return found.detach(), [weight.clone() for weight in made.split_embedding_weights()]


@pytest.mark.parametrize(
    ("tables", "ids"),
    [
        ([0], [[[1, 4, 1], [], [0]]]),
        ([0, 0], [[[1, 4, 1], [2], []], [[], [4, 4], [3]]]),  # as a history and its candidates
        ([0, 1], [[[3], [3], [3]], [[], [], []]]),
        ([0, 0, 1], [[[1], [2], [3]], [[1], [2], [3]], [[1], [2], [3]]]),  # as parts of columns on one rank
        ([0, 1, 1], [[[4, 0], [], [4]], [[6], [5, 6], []], [[], [6, 0, 6], [1]]]),
        ([0, 1], [[[], []], [[6, 6], [1]]]),
    ],
)
@pytest.mark.parametrize(
    "optimizer", [EmbOptimType.EXACT_SGD, EmbOptimType.EXACT_ADAGRAD, EmbOptimType.EXACT_ROWWISE_ADAGRAD], ids=str
)
def test_bags_of_one_id_are_the_vectors_of_the_ids(
    optimizer: EmbOptimType, tables: list[int], ids: list[list[list[int]]]
) -> None:
    slow, fast = kernel(tables, optimizer), kernel(tables, optimizer)
    vectors, rows = step(slow, ids, slow.forward)
    fast.pooling_mode = PoolingMode.SUM
    found, found_rows = step(fast, ids, BagsOfOne(fast, [*Counter(tables).values()]))
    assert torch.equal(found, vectors)
    for one, other in zip(found_rows, rows, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    torch.testing.assert_close(fast.momentum1_host, slow.momentum1_host, atol=1e-5, rtol=1e-6)
    read = {table for table, of_feature in zip(tables, ids, strict=True) if any(of_feature)}
    initial = kernel(tables).split_embedding_weights()
    assert {table for table, weight in enumerate(found_rows) if not torch.equal(weight, initial[table])} == read


def test_a_rank_without_ids_gets_no_vectors() -> None:
    vectors, _ = step(kernel([0, 0]), [[[], []], [[], []]], BagsOfOne(_of_sums([0, 0]), [2]))
    assert vectors.shape == (0, DIM)


def _of_sums(tables: list[int]) -> Any:
    made = kernel(tables)
    made.pooling_mode = PoolingMode.SUM
    return made
