"""Into which parts a table of each sharding type is cut, on which ranks they are, and what cannot be cut so.

TorchRec's own generators cut columns at 128 and more, and name no kernel for two of the types; the parts are ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch.distributed._shard.metadata import ShardMetadata
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import CacheParams, EnumerableShardingSpec, ParameterSharding, ShardingType

from sharded_emb.distributed.process_group import Place
from sharded_emb.planning.shapes import Placement, Ranks, Shard, blocks, column_shards
from sharded_emb.tables import Table

_KERNELS = {
    "uvm": EmbeddingComputeKernel.FUSED_UVM.value,
    "uvm_caching": EmbeddingComputeKernel.FUSED_UVM_CACHING.value,
}
TORCHRECS_NAMES = {"grid": ShardingType.GRID_SHARD.value}  # of the others ours are TorchRec's
CUT_BY_COLUMNS = ("column_wise", "table_column_wise", "grid")
ALONG_HOSTS = ("table_row_wise", "table_column_wise", "grid")  # TorchRec's unpooled collections have no such type

_MOST_ROWS = 2**31 - 1  # TorchRec keeps the number in an int32 where rows are cut along hosts


def kernel_of(table: Table) -> str:
    """TorchRec's name of the kernel that a sharded table is given; of one without a kernel, of its memory."""
    return _KERNELS.get(table.kernel or "", EmbeddingComputeKernel.FUSED.value)


def cache_of(table: Table) -> CacheParams | None:
    """What a kernel with a cache is told of it."""
    return None if table.cache_load_factor is None else CacheParams(load_factor=table.cache_load_factor)


def columns_of(table: Table, ranks: int) -> int:
    """Into how many column shards a table is cut over so many ranks, each at least of its min_partition."""
    return column_shards(table.dim, max(1, min(ranks, table.dim // (table.min_partition or 4))))


def problems(tables: Sequence[Table], ranks: Ranks) -> list[str]:
    """What cannot be sharded as asked, one line each beginning with the key; empty if all can."""
    return [f"tables.{table.name}.sharding: {text}" for table in tables for text in _problems(table, ranks)]


def _problems(table: Table, ranks: Ranks) -> Iterator[str]:
    kind = table.sharding
    if kind in ALONG_HOSTS and not table.pooled:
        sequence = next(f for f in table.features if f.of is not None or not f.pooling.from_sum)
        yield (
            f"want table_wise, row_wise, column_wise, data_parallel or auto, since {sequence.name} reads vectors and "
            f"not only their sums, got {kind}"
        )
    if kind in CUT_BY_COLUMNS and (reads := reads_whole_rows(table)):
        yield (
            f"{kind} with {reads}, which reads whole rows, would give the numbers of no other plan; "
            "use table_wise, row_wise or data_parallel, or an optimizer such as adagrad"
        )
    if kind in ALONG_HOSTS and ranks.world_size % ranks.per_host:
        yield (
            f"{kind} wants hosts of equal size, got {ranks.world_size} ranks with {ranks.per_host} on this one; "
            "start as many on each, or use table_wise, row_wise or column_wise"
        )
    if table.ranks is not None:
        yield from _unfit_ranks(table, table.ranks, ranks.world_size)
    over = {"row_wise": ranks.world_size, "table_row_wise": ranks.per_host, "grid": ranks.per_host}.get(kind)
    if over is not None and (empty := rank_without_row(table.rows, over)) is not None:
        where = f"{over} ranks" if kind == "row_wise" else f"the {over} ranks of a host"
        yield (
            f"{kind} over {where} leaves rank {empty} without one of the {table.rows} rows; "
            "use table_wise or data_parallel"
        )
    if over is not None and kind != "row_wise" and (block := -(-table.rows // over)) > _MOST_ROWS:
        yield f"want at most {_MOST_ROWS} rows a rank with {kind}, got {block}; use row_wise"


def _unfit_ranks(table: Table, wanted: tuple[int, ...], world_size: int) -> Iterator[str]:
    got = ", ".join(map(str, wanted))
    if max(wanted) >= world_size:
        yield f"want ranks below {world_size}, got {got}; start more, or set tables.{table.name}.sharding"
    if (fit := column_shards(table.dim, len(wanted))) < len(wanted):
        yield f"want ranks that {table.dim} columns make equal multiples of 4 for, got {got}; try {fit} of them"


def reads_whole_rows(table: Table) -> str | None:
    """What of a table cannot be computed from some of its columns."""
    if table.max_norm is not None:
        return "max_norm"
    return type(table.optimizer).__name__ if table.optimizer.reads_whole_rows and not table.freeze else None


def rank_without_row(rows: int, over: int) -> int | None:
    """The first of so many ranks that row-wise sharding leaves empty; None if it leaves none."""
    block = -(-rows // over)  # TorchRec gives every rank this many rows while they last
    first_empty = -(-rows // block)
    return first_empty if first_empty < over else None


class Cutter:
    """Cuts tables one after the other; a table that may be on any rank or host goes where the fewest elements are."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._elements = [0] * ranks.world_size

    def cut(self, table: Table) -> Placement:
        """Where the parts of a table go whose type is named, and is not data-parallel."""
        assert table.sharding != "auto"
        assert table.sharding != "data_parallel"
        shards = [Shard(r, rows.start, cols.start, len(rows), len(cols)) for rows, cols, r in self._blocks(table)]
        for shard in shards:
            self._elements[shard.rank] += shard.rows * shard.columns
        return Placement(table.sharding, tuple(shards))

    def _blocks(self, table: Table) -> Iterator[tuple[range, range, int]]:
        """Rows, columns and rank of each shard, in the order in which TorchRec expects them."""
        ranks, kind = self.ranks, table.sharding
        rows, columns = range(table.rows), range(table.dim)
        if kind == "table_wise":
            alone = self._emptiest([range(rank, rank + 1) for rank in range(ranks.world_size)])
            yield rows, columns, (table.ranks or alone)[0]
        elif kind == "row_wise":
            yield from ((part, columns, rank) for rank, part in enumerate(blocks(rows, ranks.world_size)))
        elif kind == "column_wise":
            among = table.ranks or range(ranks.world_size)
            parts = blocks(columns, columns_of(table, len(among)))
            yield from ((rows, part, rank) for part, rank in zip(parts, among, strict=False))
        elif kind == "table_row_wise":
            among = self._emptiest([ranks.of_host(host) for host in range(ranks.hosts)])
            yield from ((part, columns, rank) for part, rank in zip(blocks(rows, len(among)), among, strict=True))
        elif kind == "table_column_wise":
            among = self._emptiest([ranks.of_host(host) for host in range(ranks.hosts)])
            parts = blocks(columns, column_shards(table.dim, len(among)))
            yield from ((rows, part, rank) for part, rank in zip(parts, among, strict=False))
        else:
            assert kind == "grid"
            for host, wide in enumerate(blocks(columns, column_shards(table.dim, ranks.hosts))):
                parts = blocks(rows, ranks.per_host)
                yield from ((tall, wide, rank) for tall, rank in zip(parts, ranks.of_host(host), strict=True))

    def _emptiest(self, choices: Sequence[range]) -> range:
        """The ranks, of these sets of them, that hold the fewest elements so far."""
        return min(choices, key=lambda ranks: sum(self._elements[rank] for rank in ranks))


def assembled(table: Placement, place: Place, kernel: str) -> ParameterSharding:
    """TorchRec's sharding of a table that is there and not data-parallel, in the order of its shards."""
    shards = [
        ShardMetadata(
            [shard.row, shard.column],
            [shard.rows, shard.columns],
            placement(place.device.type, shard.rank, place.local_world_size),
        )
        for shard in table.shards
    ]
    return ParameterSharding(
        sharding_type=TORCHRECS_NAMES.get(table.kind, table.kind),
        compute_kernel=kernel,
        ranks=table.ranks,
        sharding_spec=EnumerableShardingSpec(shards),
    )


def moved(sharding: ParameterSharding, place: Place, first_rank: int) -> ParameterSharding:
    """The same for the replica that begins with this rank: TorchRec counts from there, but torch places shards on ranks
    of the whole group.
    """
    if not first_rank:
        return sharding
    assert isinstance(sharding.sharding_spec, EnumerableShardingSpec)
    shards = []
    for shard in sharding.sharding_spec.shards:
        where = placement(place.device.type, first_rank + shard.placement.rank(), place.local_world_size)
        shards.append(ShardMetadata(shard.shard_offsets, shard.shard_sizes, where))
    return replace(sharding, sharding_spec=EnumerableShardingSpec(shards))
