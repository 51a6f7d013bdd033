"""Predicted times of a shard in a step, forward and backward together.

A lookup takes as long as its bytes take from and to memory: rows read, vectors written, and on the way back gradients
read, rows and optimizer state read and written. Communication takes as long as what a rank sends takes, ids, vectors
and gradients; in an exchange between all ranks a rank receives about what it sends. Both add up over the shards of a
rank, and a step waits for the slowest one; each lookup and each exchange has a latency besides. The dense part of a
model is not in it.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

from sharded_emb.planning.cluster import Cluster
from sharded_emb.planning.sizes import (
    ELEMENT_BYTES,
    ID_BYTES,
    Bytes,
    Reads,
    Workload,
    different_rows,
    length_bytes,
    on_device,
    reads,
    received_bytes,
    replica_bytes,
    shard_bytes,
    state_places,
    vectors_of,
)
from sharded_emb.sharding import ShardingType
from sharded_emb.tables import Table

# a row costs at least this much of memory's bandwidth, however narrow: a cache line, or two sectors of a GPU's
LEAST_READ_BYTES = 64
# between a GPU and its host: PCIe 4.0 x16 in one direction
HOST_BYTES_A_SECOND = 32e9
# lengths, ids, vectors, gradients
_EXCHANGES_A_STEP = 4


class Times(NamedTuple):
    """Seconds of a step."""

    lookup: float
    communication: float

    @property
    def total(self) -> float:
        """Both."""
        return self.lookup + self.communication


@dataclass(frozen=True)
class Cost:
    """What a shard takes of its rank."""

    bytes: Bytes
    times: Times


@dataclass(frozen=True)
class _Work:
    """What a lookup does on a rank: ids that are read, vectors that are given, of so many rows and columns."""

    ids: float
    vectors: float
    rows: int
    columns: int


class Costs:
    """Of shards in one cluster, under one workload."""

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self.cluster, self.workload = cluster, workload
        self._known: dict[tuple[Hashable, ...], Cost] = {}
        self._likeness: dict[int, tuple[Table, Hashable]] = {}

    def reads(self, table: Table) -> Reads:
        """What a step reads of the table."""
        return reads(table, self.workload, self.cluster.world_size)

    def likeness(self, table: Table) -> Hashable:
        """What two tables have in common that cost the same wherever they are."""
        known = self._likeness.get(id(table))
        if known is None or known[0] is not table:
            own = (table.rows, table.dim, table.dtype, table.state_dtype, table.output_dtype, table.update)
            optimizer = (*table.optimizer.states().values(), table.optimizer.weight_decay_mode)
            known = (
                table,
                (*own, table.kernel, on_device(table), table.freeze, table.pooled, *optimizer, self.reads(table)),
            )
            self._likeness[id(table)] = known
        return known[1]

    def of(self, table: Table, kind: ShardingType, rows: int, columns: int) -> Cost:
        """Of a shard with so many rows and columns; of a data-parallel table on each rank."""
        key = (self.likeness(table), kind, rows, columns)
        if key not in self._known:
            read = self.reads(table)
            if kind == "data_parallel":
                taken = replica_bytes(table, read, self.cluster.world_size)
                times = self._replica_times(table, read)
            else:
                taken = shard_bytes(table, read, rows, columns)
                times = self._shard_times(table, read, kind, (rows, columns))
            self._known[key] = Cost(taken, times)
        return self._known[key]

    def received(self, table: Table) -> float:
        """Bytes on every rank, wherever the table is."""
        return received_bytes(table, self.reads(table), self.cluster.world_size)

    def latency(self, lookups: int, exchanges: int) -> Times:
        """Of a step with so many lookups, and exchanges of their vectors; nothing between a rank and itself."""
        rates, pieces = self.cluster.rates, self.workload.pieces
        waiting = _EXCHANGES_A_STEP * exchanges * rates.latency if self.cluster.world_size > 1 else 0.0
        return Times(pieces * lookups * rates.lookup_latency, pieces * waiting)

    def _shard_times(self, table: Table, read: Reads, kind: ShardingType, shape: tuple[int, int]) -> Times:
        rows, columns = shape
        share = rows / table.rows
        work = _Work(read.ids * share, vectors_of(table, read, share), rows, columns)
        sent = work.ids * ID_BYTES + length_bytes(read)
        vector_bytes = work.vectors * columns * (read.vector_bytes + (0 if table.freeze else read.gradient_bytes))
        seconds = self.cluster.seconds_a_byte
        each = self.cluster.seconds_a_summed_byte if kind in ("table_row_wise", "grid") else seconds
        return Times(self._lookup(table, work), sent * seconds + vector_bytes * each)

    def _replica_times(self, table: Table, read: Reads) -> Times:
        """A rank reads for its own samples; its gradients of touched rows go to all others, and all theirs come."""
        world_size = self.cluster.world_size
        work = _Work(read.ids / world_size, read.vectors / world_size, table.rows, table.dim)
        if table.freeze:
            return Times(self._lookup(table, work), 0.0)
        touched = different_rows(work.ids, table.rows) * world_size
        merging = touched * table.dim * ELEMENT_BYTES["fp32"] / self.cluster.rates.memory
        sent = touched * (table.dim * read.gradient_bytes + 2 * ID_BYTES)
        return Times(self._lookup(table, work) + merging, sent * self.cluster.seconds_a_byte)

    def _lookup(self, table: Table, work: _Work) -> float:
        """Seconds of what goes to and from memory in a step."""
        row = max(work.columns * ELEMENT_BYTES[table.dtype], LEAST_READ_BYTES)
        vectors = work.vectors * work.columns * ELEMENT_BYTES[table.output_dtype]
        moved, rows, there = work.ids * ID_BYTES + vectors, work.ids * row, on_device(table)
        updated, on_host = 0.0, (1 - there) * rows
        if not table.freeze:
            every = table.update == "dense" or table.optimizer.weight_decay_mode == "all_decoupled"
            touched = float(work.rows) if every else different_rows(work.ids, work.rows)
            state, of_host = state_places(table, 1, work.columns)
            moved, updated = moved + vectors, 2 * touched * (there * row + state)
            on_host += 2 * touched * ((1 - there) * row + of_host)
        rates = self.cluster.rates
        return (moved + there * rows) / rates.memory + updated / rates.updates + on_host / HOST_BYTES_A_SECOND
