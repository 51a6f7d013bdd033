"""What a plan comes to: bytes and times by table and by rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sharded_emb.planning.estimates import Costs, Times
from sharded_emb.planning.options import Floats
from sharded_emb.planning.search import collection_of
from sharded_emb.planning.shapes import Placement
from sharded_emb.planning.sizes import Bytes, on_host
from sharded_emb.tables import Table


@dataclass(frozen=True)
class TableOutcome:
    """bytes: over all ranks. times: of its slowest shard."""

    table: Table
    placement: Placement
    bytes: Bytes
    times: Times


class Outcome:
    """Of a plan of all tables. `Costs` says of which cluster and work.

    bytes_W, lookup_W, communication_W: by rank; seconds of a step. host_bytes_H: by host, in its own memory.
    """

    def __init__(self, tables: Sequence[Table], placements: Mapping[str, Placement], costs: Costs) -> None:
        self.tables_by_name = {table.name: table for table in tables}
        self.placements, self.costs, self.cluster = placements, costs, costs.cluster
        world_size = self.cluster.world_size
        self.bytes_W, self.lookup_W, self.communication_W = (np.zeros(world_size) for _ in range(3))
        self.host_bytes_H = np.zeros(self.cluster.hosts)
        self.tables = [self._add(table, placements[table.name]) for table in tables]

    def _add(self, table: Table, placement: Placement) -> TableOutcome:
        received = self.costs.received(table)
        self.bytes_W += received
        total, slowest = np.zeros(4), Times(0.0, 0.0)
        for shard in placement.shards:
            cost = self.costs.of(table, placement.kind, shard.rows, shard.columns)
            self.bytes_W[shard.rank] += cost.bytes.total
            self.host_bytes_H[shard.rank // self.cluster.per_host] += on_host(table, shard.rows, shard.columns)
            self.lookup_W[shard.rank] += cost.times.lookup
            self.communication_W[shard.rank] += cost.times.communication
            total += cost.bytes
            slowest = max(slowest, cost.times, key=lambda times: times.total)
        weights, state, taken, given = map(float, total)
        return TableOutcome(
            table, placement, Bytes(weights, state, taken, given + received * self.cluster.world_size), slowest
        )

    @cached_property
    def seconds_W(self) -> Floats:
        """By rank, without latency."""
        seconds_W: Floats = self.lookup_W + self.communication_W
        return seconds_W

    @property
    def latency(self) -> Times:
        """Of the lookups and exchanges of a step. There is one for each kind of sharding in a collection; data-parallel
        tables that are alike have one lookup, and all of them one exchange.
        """
        whole = [each.table for each in self.tables if each.placement.kind == "data_parallel"]
        cut = [each for each in self.tables if each.placement.kind != "data_parallel"]
        exchanged = {(collection_of(each.table), each.placement.kind) for each in cut}
        read = {(table.pooled, table.dim, table.likeness) for table in whole}
        return self.costs.latency(len(exchanged) + len(read), len(exchanged) + bool(whole))

    @property
    def step_seconds(self) -> float:
        """Of lookups and communication, which wait for the slowest rank."""
        return float(self.seconds_W.max(initial=0)) + self.latency.total

    @property
    def imbalance(self) -> float:
        """The time of the slowest rank by that of the mean one."""
        mean = float(self.seconds_W.mean())
        return float(self.seconds_W.max()) / mean if mean > 0 else 1.0

    @property
    def slowest_rank(self) -> int:
        """The first one."""
        return int(self.seconds_W.argmax())

    @property
    def fullest_rank(self) -> int:
        """The first one."""
        return int(self.bytes_W.argmax())

    @property
    def fullest_host(self) -> int:
        """The first one."""
        return int(self.host_bytes_H.argmax())

    @property
    def fits_ranks(self) -> bool:
        """Whether every rank has the memory."""
        return float(self.bytes_W.max(initial=0)) <= self.cluster.cap

    @property
    def fits(self) -> bool:
        """Whether every rank and every host has the memory."""
        cap = self.cluster.host_cap
        return self.fits_ranks and (cap is None or float(self.host_bytes_H.max(initial=0)) <= cap)

    @property
    def misfit(self) -> str:
        """Of a plan that does not fit, what each rank or host has, and what the fullest one would need."""
        if self.fits_ranks:
            full, host = float(self.host_bytes_H.max()), self.fullest_host
            return f"{self.cluster.host_cap:,} bytes of a host's own memory, got {full:,.0f} on host {host}"
        return f"{self.cluster.cap:,} bytes a rank, got {self.bytes_W.max():,.0f} on rank {self.fullest_rank}"

    def of_rank(self, rank: int) -> dict[str, tuple[float, float]]:
        """By table bytes and seconds of its shards on a rank."""
        found = {}
        for each in self.tables:
            costs = [
                self.costs.of(each.table, each.placement.kind, shard.rows, shard.columns)
                for shard in each.placement.shards
                if shard.rank == rank
            ]
            if costs:
                found[each.table.name] = (sum(c.bytes.total for c in costs), sum(c.times.total for c in costs))
        return found

    def predictions(self) -> dict[str, Any]:
        """Of ranks and of the whole, for `plan.json`."""
        rates = self.cluster.rates
        return {
            "cluster": {
                "hosts": self.cluster.hosts,
                "ranks_per_host": self.cluster.per_host,
                "memory_bytes_per_rank": self.cluster.memory,
                "cap_bytes_per_rank": self.cluster.cap,
                "memory_bytes_per_host": self.cluster.host_memory,
                "cap_bytes_per_host": self.cluster.host_cap,
                "memory_bytes_per_second": rates.memory,
                "update_bytes_per_second": rates.updates,
                "intra_bytes_per_second": rates.intra,
                "inter_bytes_per_second": rates.inter,
                "latency_seconds": rates.latency,
                "lookup_latency_seconds": rates.lookup_latency,
            },
            "assumed": {
                "global_batch": self.costs.workload.batch,
                "ids_per_sample": dict(self.costs.workload.ids),
                "candidates": dict(self.costs.workload.candidates),
            },
            "predicted": {
                "step_seconds": self.step_seconds,
                "latency_seconds": self.latency.total,
                "imbalance": self.imbalance,
                "slowest_rank": self.slowest_rank,
                "bytes_by_rank": [round(each) for each in self.bytes_W],
                "bytes_by_host": [round(each) for each in self.host_bytes_H],
                "lookup_seconds_by_rank": self.lookup_W.tolist(),
                "communication_seconds_by_rank": self.communication_W.tolist(),
            },
        }

    def predictions_of(self, table: TableOutcome) -> dict[str, Any]:
        """Of a table, for `plan.json`: bytes over all ranks, seconds of the slowest shard."""
        return {
            "input_bytes": round(table.bytes.input),
            "output_bytes": round(table.bytes.output),
            "lookup_seconds": table.times.lookup,
            "communication_seconds": table.times.communication,
        }
