"""Lookups of a rank that shares its tables with no other: it asks its kernels itself, and nothing is exchanged.

TorchRec walks the way of many ranks with one: ids and vectors are copied into exchanges that go nowhere.

N  ids    B  rows    D  dim
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

Part = tuple[str, int, int]  # a feature, the first column that is read of its table, and how many


@dataclass
class Direct:
    """In place of the forward pass of a sharded collection. kernels: how each is asked, and what it reads, in order.
    pooled: whether vectors of features stand side by side; else one under the other.
    """

    kernels: list[tuple[Callable[..., Tensor], list[Part]]]
    pooled: bool

    def __call__(self, ids: KeyedJaggedTensor) -> dict[str, Tensor]:
        """By feature its sums (B, D), or the vectors (N, D) of its ids."""
        place = {name: number for number, name in enumerate(ids.keys())}
        found: dict[str, list[tuple[int, Tensor]]] = {}
        for kernel, parts in self.kernels:
            wanted = [place[name] for name, _, _ in parts]
            read = ids if wanted == [*range(len(place))] else ids.permute(wanted)
            answer = kernel(indices=read.values(), offsets=read.offsets())
            if len(parts) == 1:  # the backward pass of a split copies all of it
                vectors = [answer]
            elif self.pooled:
                vectors = answer.split([columns for _, _, columns in parts], dim=1)
            else:
                vectors = answer.split(read.length_per_key())
            for (name, column, _), each in zip(parts, vectors, strict=True):
                found.setdefault(name, []).append((column, each))
        return {name: _joined(parts) for name, parts in found.items()}


def _joined(parts: list[tuple[int, Tensor]]) -> Tensor:
    """All columns of what is cut by them."""
    if len(parts) == 1:
        return parts[0][1]
    return torch.cat([each for _, each in sorted(parts, key=lambda part: part[0])], dim=1)


def parts_of(kernel: Any) -> list[Part]:
    """What one of TorchRec's kernels reads, in order."""
    return [
        (feature, part.local_metadata.shard_offsets[1], part.local_cols)
        for part in kernel.config.embedding_tables
        for feature in part.feature_names
    ]
