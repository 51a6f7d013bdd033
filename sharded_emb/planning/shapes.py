"""Into which parts tables are cut: shards, and the ranks that they may be on."""

from dataclasses import dataclass

from sharded_emb.sharding import ShardingType


@dataclass(frozen=True)
class Ranks:
    """How many there are. per_host: on each host, which all have as many as the others."""

    world_size: int
    per_host: int

    @property
    def hosts(self) -> int:
        """Those that have all their ranks."""
        return self.world_size // self.per_host

    def of_host(self, host: int) -> range:
        """The ranks of a host."""
        return range(host * self.per_host, (host + 1) * self.per_host)


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a table on a rank: so many rows and columns, from these on."""

    rank: int
    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Placement:
    """Where a table is. shards: in the order in which TorchRec expects them; of data_parallel one whole a rank."""

    kind: ShardingType
    shards: tuple[Shard, ...]

    @property
    def ranks(self) -> list[int]:
        """Of the shards."""
        return [shard.rank for shard in self.shards]


def column_shards(dim: int, most: int) -> int:
    """Into how many column shards a table is cut: the most, up to `most`, with each a multiple of 4 wide."""
    return max(n for n in range(1, most + 1) if dim % n == 0 and (dim // n) % 4 == 0)


def blocks(whole: range, number: int) -> list[range]:
    """As many blocks, each as long as the first while there is something left."""
    block = -(-len(whole) // number)
    return [whole[start : start + block] for start in range(0, number * block, block)]


def whole_on_all(rows: int, dim: int, world_size: int) -> Placement:
    """A data-parallel table."""
    return Placement("data_parallel", tuple(Shard(rank, 0, 0, rows, dim) for rank in range(world_size)))
