"""Takes the fused kernel out of sharded tables that are not updated by it, and leaves the rest of TorchRec in place.
The kernels that stay are told how many steps there were; ranks are made to send vectors of one dtype.

TorchRec routes ids to the ranks that own their rows, asks FBGEMM's table-batched kernel there, and routes vectors back.
For tables whose update is not "fused" the kernel's memory stays what it is (for checkpoints), and `LocalRows` stands
where its forward pass was.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import accumulate
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding, BatchedFusedEmbeddingBag

from sharded_emb.distributed.bare_kernel import BareKernel
from sharded_emb.distributed.communication import Communication
from sharded_emb.distributed.direct import Direct, parts_of
from sharded_emb.embeddings.local_rows import DTYPES, Cut, LocalRows, require_rows
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.tables import Table

_SMALLEST_RATE = 2.0**-100


def unfused_rates(tables: Iterable[Table], widths: Mapping[str, int]) -> dict[str, float]:
    """By name the learning rates by which TorchRec is told of tables that no kernel updates. widths: of their shards.

    TorchRec puts tables of equal optimizer arguments into one kernel: those that are alike have one rate. No kernel
    ever runs with it.
    """
    kinds = {table.name: (widths[table.name], table.likeness) for table in tables if table.update != "fused"}
    number = {kind: place for place, kind in enumerate(dict.fromkeys(kinds.values()), 1)}
    return {name: _SMALLEST_RATE * number[kind] for name, kind in kinds.items()}


@contextmanager
def without_draws() -> Iterator[None]:
    """Where TorchRec makes kernels, and does not draw rows for their tables, in one thread, which nobody is to see."""
    kinds = (BatchedFusedEmbedding, BatchedFusedEmbeddingBag)
    for kind in kinds:
        kind.init_parameters = _as_they_are
    try:
        yield
    finally:
        for kind in kinds:
            delattr(kind, "init_parameters")  # which is that of the base class again


def _as_they_are(_: nn.Module) -> None:
    """Of rows that are memory as it was found."""


def take_over(embeddings: Embeddings) -> list[LocalRows]:
    """Replaces the forward pass of each kernel with tables that are not fused. Returns what this rank has of those."""
    found = []
    for kernel in _kernels(embeddings):
        parts = kernel.config.embedding_tables
        tables = [embeddings.tables[part.name] for part in parts]
        if tables[0].update == "fused":
            assert all(table.update == "fused" for table in tables)
            continue
        cuts = []
        for table, part in zip(tables, parts, strict=True):
            row, column = part.local_metadata.shard_offsets
            cuts.append(Cut(table, range(row, row + part.local_rows), column))
        local = LocalRows(cuts, _one_under_the_other(kernel.emb_module.split_embedding_weights()))
        features = [len(part.feature_names) for part in parts]
        kernel.emb_module.forward = Lookup(local, features, isinstance(kernel, BatchedFusedEmbeddingBag))
        found.append(local)
    return found


def _one_under_the_other(weights: Sequence[Tensor]) -> Tensor:
    """The memory of tables that a kernel has side by side, as rows of one."""
    first, *others = [weight for weight in weights if len(weight)] or weights[:1]
    rows, end = 0, first.data_ptr()
    for weight in (first, *others):
        assert weight.shape[1] == first.shape[1]
        assert weight.is_contiguous()
        assert weight.data_ptr() == end
        rows, end = rows + len(weight), end + weight.nbytes
    return first.as_strided((rows, first.shape[1]), (first.shape[1], 1))


def ask_bare_kernels(embeddings: Embeddings) -> None:
    """Lets the fused kernels of a CPU be asked without the module around them, and those that do not pool sum bags of
    one id each: FBGEMM's own backward pass for such kernels takes up to 25 times as long there.
    """
    for kernel in _kernels(embeddings):
        parts, module = kernel.config.embedding_tables, kernel.emb_module
        if embeddings.tables[parts[0].name].update != "fused":
            continue
        if isinstance(kernel, BatchedFusedEmbedding):
            module.pooling_mode = PoolingMode.SUM
            module.forward = BagsOfOne(module, [len(part.feature_names) for part in parts])
        else:
            module.forward = BareKernel(module)


def ask_directly(embeddings: Embeddings) -> None:
    """Lets lookups ask the kernels of this rank, which has all of every table and needs no exchange. Comes last: what
    takes the place of a kernel's forward pass later is not asked.
    """
    for name, collection in embeddings.collections().items():
        kernels = [(kernel.emb_module.forward, parts_of(kernel)) for kernel in _of(collection)]
        embeddings.direct[name] = Direct(kernels, pooled=collection is embeddings.pooled)


def tell_steps(embeddings: Embeddings, steps: int) -> None:
    """Sets the number of steps behind every kernel, by which Adam corrects its moments.

    FBGEMM counts forward passes, those of an evaluation too, and a checkpoint does not hold its count.
    """
    for kernel in _kernels(embeddings):
        for count in (kernel.emb_module.iter_cpu, kernel.emb_module.iter):
            count.fill_(steps)


def forget_cached_rows(embeddings: Embeddings) -> None:
    """Lets kernels that keep rows of the host's memory in a cache of the device read them anew: they were written."""
    for kernel in _kernels(embeddings):
        kernel.emb_module.reset_cache_states()


def agree_on_dtypes(embeddings: Embeddings, communication: Communication) -> None:
    """Makes all ranks send the vectors of an exchange in the widest output dtype of its tables, or float32 to a codec.

    A rank sends what its own tables give, or float32 if it holds none, and expects the same of the others: where that
    differs, the exchange is torn apart.
    """
    for collection in embeddings.collections().values():
        by_type = getattr(collection, "_sharding_type_to_sharding", None)
        exchanges = collection._embedding_shardings if by_type is None else by_type.values()
        for sharding, lookup in zip(exchanges, collection._lookups, strict=True):
            groups = [group for of_rank in sharding._grouped_embedding_configs_per_rank for group in of_rank]
            names = {part.name for group in groups for part in group.embedding_tables}
            dtypes = [DTYPES[embeddings.tables[name].output_dtype] for name in names]
            dtype = reduce(torch.promote_types, dtypes) if communication.exact else torch.float32
            lookup.forward = Converted(lookup.forward, dtype)


def _kernels(embeddings: Embeddings) -> Iterator[Any]:
    for collection in embeddings.collections().values():
        yield from _of(collection)


def _of(collection: Any) -> Iterator[Any]:
    for lookup in collection._lookups:  # TorchRec keeps them out of the module tree
        for module in lookup.modules():
            if isinstance(module, BatchedFusedEmbedding | BatchedFusedEmbeddingBag):
                yield module


class Converted:
    """In place of the forward pass of all of a rank's kernels for an exchange: the same in one dtype."""

    def __init__(self, forward: Callable[..., Tensor], dtype: torch.dtype) -> None:
        self.forward = forward
        self.dtype = dtype

    def __call__(self, *features: Any) -> Tensor:
        """The vectors that are sent."""
        return self.forward(*features).to(self.dtype)


class BagsOfOne:
    """In place of the forward pass of a kernel that does not pool. module: of one that does. features: by table; they
    differ in how many ids they have, and a kernel wants as many bags of each, so each table is asked by itself.
    """

    def __init__(self, module: Any, features: Sequence[int]) -> None:
        self.ends = [*accumulate(features)]
        self.sums = [BareKernel(module, end - 1) for end in self.ends]

    def __call__(self, indices: Tensor, offsets: Tensor) -> Tensor:
        """Vectors (N, D) of all ids, feature by feature."""
        if len(self.sums) == 1:
            return _each(self.sums[0], indices)
        rows = (len(offsets) - 1) // self.ends[-1]
        counts = offsets[::rows][[0, *self.ends]].diff().tolist()
        return torch.cat([_each(*one) for one in zip(self.sums, indices.split(counts), strict=True)])


def _each(sums: BareKernel, ids_N: Tensor) -> Tensor:
    return sums(ids_N, torch.arange(len(ids_N) + 1))


class Lookup:
    """In place of a kernel's forward pass. features: how many each of the kernel's tables has. pools: whether vectors
    are summed by bag.
    """

    def __init__(self, local: LocalRows, features: Sequence[int], pools: bool) -> None:
        self.local, self.pools = local, pools
        number_F = [number for number, count in enumerate(features) for _ in range(count)]
        self._first_F = torch.tensor([local.firsts[each] for each in number_F], device=local.weight_RD.device)
        self._rows_F = torch.tensor([len(local.parts[each].weight_RD) for each in number_F])

    def __call__(self, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None) -> Tensor:
        """Vectors (N, D) of all ids, or sums (B, features * D), as the kernel gives them."""
        assert per_sample_weights is None  # the kernel is only ever asked for plain sums
        ids_N = self._rows(indices, offsets)
        if not self.pools:
            return self.local.vectors(ids_N)
        summed = self.local.sums(ids_N, offsets)
        return summed.view(len(self._first_F), -1, summed.shape[1]).transpose(0, 1).flatten(1)

    def _rows(self, ids_N: Tensor, offsets: Tensor) -> Tensor:
        """Those of all tables together that ids, of one table after the other, are."""
        if len(self.local.parts) == 1 or not ids_N.numel():
            return ids_N
        bags = (len(offsets) - 1) // len(self._first_F)
        counts_F = offsets[::bags].diff()
        if ids_N.device.type == "cpu":  # asking a GPU would be to wait for it
            require_rows(ids_N, torch.repeat_interleave(self._rows_F, counts_F, output_size=len(ids_N)))
        return ids_N + torch.repeat_interleave(self._first_F, counts_F, output_size=len(ids_N))
