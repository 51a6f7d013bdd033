"""Finds where tables go: the least time of the slowest rank that memory allows.

Each table takes, the largest first, the kind of sharding that costs all ranks together the least and still fits every
rank under a limit of time; the limit is halved down to the smallest one under which all tables find a place. What is
left on the slowest rank is then moved or exchanged one table at a time for as long as that helps. Tables that cost the
same share their options, so that a thousand tables of a few sizes are not a thousand problems.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sharded_emb.planning.estimates import Costs
from sharded_emb.planning.improve import improve
from sharded_emb.planning.loads import Limits, Loads
from sharded_emb.planning.options import Ints, Legal, Option, options
from sharded_emb.planning.shapes import Placement, Ranks
from sharded_emb.sharding import ShardingType
from sharded_emb.tables import Table

_HALVINGS = 12
_PRECISION = 1.005
# sets of kinds that are tried beside all: every kind is a lookup and an exchange of its own, which have a latency
_FEW_KINDS: tuple[frozenset[ShardingType], ...] = (
    frozenset({"table_wise"}),
    frozenset({"row_wise"}),
    frozenset({"table_wise", "row_wise"}),
    frozenset({"table_wise", "column_wise"}),
    frozenset({"table_row_wise"}),
    frozenset({"table_wise", "table_row_wise"}),
)


@dataclass(frozen=True)
class Choice:
    """A table that may go to several places. collection: the one that it is in; tables of one that are of the same
    kind are exchanged together. options: the cheapest first.
    """

    table: Table
    collection: Hashable
    options: tuple[Option, ...]


@dataclass
class Found:
    """For each choice an option and the ranks of its parts."""

    taken: list[tuple[Option, Ints]]
    loads: Loads


def collection_of(table: Table) -> Hashable:
    """Which of TorchRec's collections a table is in."""
    return "pooled" if table.pooled else table.dim


def search(
    tables: Sequence[Table], costs: Costs, legal: Legal, fixed: Mapping[str, tuple[Table, Placement]]
) -> dict[str, Placement] | None:
    """The placements of tables that may be anywhere, by name; None if none is found that fits.

    fixed: those of the other tables. legal: whether a table may have the type that it names. Deterministic.
    """
    choices = choices_of(tables, costs, legal)
    start = start_loads([*tables, *(table for table, _ in fixed.values())], fixed, costs)
    exchanged = {(collection_of(t), p.kind) for t, p in fixed.values() if p.kind != "data_parallel"}

    def seconds(found: Found) -> float:
        kinds = {(c.collection, option.kind) for c, (option, _) in zip(choices, found.taken, strict=True)}
        groups = len(kinds | exchanged)
        return float(found.loads.seconds.max()) + costs.latency(groups, groups).total

    found = find(choices, start, costs.cluster.cap, seconds)
    if found is None:
        return None
    return {c.table.name: option.placed(ranks) for c, (option, ranks) in zip(choices, found.taken, strict=True)}


def find(choices: Sequence[Choice], start: Loads, cap: float, seconds: Callable[[Found], float]) -> Found | None:
    """The best that is found; None if nothing fits. seconds: what a step takes."""
    best = _find(choices, start, cap)
    if best is None:
        return None
    for kinds in _FEW_KINDS:
        # without latency fewer kinds are never better
        if seconds(best) - float(best.loads.seconds.max()) < 0.01 * seconds(best):
            break
        fewer = [_restricted(choice, kinds) for choice in choices]
        found = _find(fewer, start, cap)
        if found is not None and seconds(found) < seconds(best):
            best = found
    return best


def _restricted(choice: Choice, kinds: frozenset[ShardingType]) -> Choice:
    kept = tuple(option for option in choice.options if option.kind in kinds)
    return Choice(choice.table, choice.collection, kept or choice.options)


def _find(choices: Sequence[Choice], start: Loads, cap: float) -> Found | None:
    """The best over all kinds, whatever exchanges cost."""
    if not choices:
        return Found([], start.copy()) if start.bytes.max() <= cap else None
    lowest = least_seconds(choices, start)
    best = _greedy(choices, start, Limits(cap, np.inf, lowest)) or _most_even(choices, start, cap)
    if best is None:
        return None
    low, high = lowest, float(best.loads.seconds.max())
    for _ in range(_HALVINGS):
        if high <= low * _PRECISION:
            break
        middle = (low * high) ** 0.5
        found = _greedy(choices, start, Limits(cap, middle, middle))
        if found is None:
            low = middle
        else:
            best, high = found, float(found.loads.seconds.max())
    improve(best.taken, [choice.options for choice in choices], best.loads, cap)
    return best


def least_seconds(choices: Sequence[Choice], start: Loads) -> float:
    """No plan is faster: the mean over ranks, and the fastest that each table can be."""
    mean = (start.seconds.sum() + sum(choice.options[0].total_seconds for choice in choices)) / len(start.seconds)
    each = max(min(float(option.seconds.max()) for option in choice.options) for choice in choices)
    return max(float(mean), each, float(start.seconds.max()), 1e-12)


def _greedy(choices: Sequence[Choice], start: Loads, limits: Limits) -> Found | None:
    """The first order of tables in which each finds a place within the limits."""
    seconds = np.array([choice.options[0].seconds.max() / limits.scale for choice in choices])
    size = np.array([choice.options[0].bytes.max() / limits.bytes for choice in choices])
    for weight in (np.maximum(seconds, size), seconds, size):
        found = _in_order(choices, np.argsort(-weight, kind="stable"), start, limits)
        if found is not None:
            return found
    return None


def _most_even(choices: Sequence[Choice], start: Loads, cap: float) -> Found | None:
    """Each table by the option whose largest shard is smallest: what fits if anything does, but for corners."""
    even = [
        Choice(c.table, c.collection, tuple(sorted(c.options, key=lambda o: float(o.bytes.max())))) for c in choices
    ]
    size = np.array([choice.options[0].bytes.max() for choice in even])
    return _in_order(even, np.argsort(-size, kind="stable"), start, Limits(cap, np.inf, np.inf))


def _in_order(choices: Sequence[Choice], order: Ints, start: Loads, limits: Limits) -> Found | None:
    loads, taken = start.copy(), {}
    for index in order:
        for option in choices[index].options:
            ranks = loads.fit(option, limits)
            if ranks is not None:
                loads.add(option, ranks)
                taken[index] = (option, ranks)
                break
        else:
            return None
    return Found([taken[index] for index in range(len(choices))], loads)


def choices_of(tables: Sequence[Table], costs: Costs, legal: Legal) -> list[Choice]:
    """What there is to choose from, for each of these tables."""
    known: dict[Hashable, tuple[Option, ...]] = {}
    found = []
    for table in tables:
        like = (costs.likeness(table), type(table.optimizer), table.max_norm, table.min_partition)
        if like not in known:
            known[like] = tuple(sorted(options(table, costs, legal), key=lambda option: option.total_seconds))
        found.append(Choice(table, collection_of(table), known[like]))
    return found


def start_loads(tables: Sequence[Table], fixed: Mapping[str, tuple[Table, Placement]], costs: Costs) -> Loads:
    """What ranks have before anything is searched: vectors of all tables for their own samples, and fixed tables."""
    ranks = Ranks(costs.cluster.world_size, costs.cluster.per_host)
    bytes_, seconds = np.zeros(ranks.world_size), np.zeros(ranks.world_size)
    bytes_ += sum(costs.received(table) for table in tables)
    for table, placement in fixed.values():
        for shard in placement.shards:
            cost = costs.of(table, placement.kind, shard.rows, shard.columns)
            bytes_[shard.rank] += cost.bytes.total
            seconds[shard.rank] += cost.times.total
    return Loads(ranks, bytes_, seconds)
