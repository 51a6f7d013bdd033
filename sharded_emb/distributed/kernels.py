"""Takes the fused kernel out of sharded tables that are not updated by it, and leaves the rest of TorchRec in place.
The kernels that stay are told how many steps there were.

TorchRec routes ids to the ranks that own their rows, asks FBGEMM's table-batched kernel there, and routes vectors back.
For a table whose update is not "fused" the kernel's memory stays what it is (for checkpoints), and `LocalRows` stands
where its forward pass was.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding, BatchedFusedEmbeddingBag

from sharded_emb.embeddings.local_rows import LocalRows
from sharded_emb.embeddings.lookup import Embeddings

_SMALLEST_RATE = 2.0**-100


def unfused_rate(number: int) -> float:
    """The learning rate by which TorchRec is told of the number-th table that no kernel updates.

    TorchRec puts tables of equal optimizer arguments into one kernel; a rate of its own gives each a kernel of its
    own. No kernel ever runs with it.
    """
    return _SMALLEST_RATE * (number + 1)


def take_over(embeddings: Embeddings) -> list[LocalRows]:
    """Replaces the forward pass of each kernel with a table that is not fused. Returns this rank's parts of those."""
    found = []
    for kernel in _kernels(embeddings):
        parts = kernel.config.embedding_tables
        table = embeddings.tables[parts[0].name]
        if table.update == "fused":
            assert all(embeddings.tables[part.name].update == "fused" for part in parts)
            continue
        (part,) = parts
        row, column = part.local_metadata.shard_offsets
        (weight_RD,) = kernel.emb_module.split_embedding_weights()
        local = LocalRows(table, weight_RD, row, column)
        bags = isinstance(kernel, BatchedFusedEmbeddingBag)
        kernel.emb_module.forward = Lookup(local, len(part.feature_names) if bags else None)
        found.append(local)
    return found


def tell_steps(embeddings: Embeddings, steps: int) -> None:
    """Sets the number of steps behind every kernel, by which Adam corrects its moments.

    FBGEMM counts forward passes, those of an evaluation too, and a checkpoint does not hold its count.
    """
    for kernel in _kernels(embeddings):
        for count in (kernel.emb_module.iter_cpu, kernel.emb_module.iter):
            count.fill_(steps)


def _kernels(embeddings: Embeddings) -> Iterator[Any]:
    collections = [*([embeddings.pooled] if embeddings.pooled is not None else []), *embeddings.unpooled.values()]
    for collection in collections:
        for lookup in collection._lookups:  # TorchRec keeps them out of the module tree
            for module in lookup.modules():
                if isinstance(module, BatchedFusedEmbedding | BatchedFusedEmbeddingBag):
                    yield module


class Lookup:
    """In place of a kernel's forward pass. features: of the kernel's one table; None where it does not pool."""

    def __init__(self, local: LocalRows, features: int | None) -> None:
        self.local = local
        self.features = features

    def __call__(self, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None) -> Tensor:
        """Vectors (N, D) of all ids, or sums (B, features * D), as the kernel gives them."""
        assert per_sample_weights is None  # the kernel is only ever asked for plain sums
        if self.features is None:
            return self.local.vectors(indices)
        summed = self.local.sums(indices, offsets)
        return summed.view(self.features, -1, summed.shape[1]).transpose(0, 1).flatten(1)
