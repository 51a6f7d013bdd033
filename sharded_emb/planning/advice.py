"""What to change where no plan fits: each change is tried before it is proposed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.planning.cluster import Cluster
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.sizes import on_host, state_bytes, weight_bytes
from sharded_emb.planning.units import shown_bytes
from sharded_emb.tables import Table

_MOST_CHANGES = 2
_MOST_HOSTS = 1 << 10
_TRIED = f"other sharding of that table, fp16, row-wise Adagrad, {_MOST_HOSTS:,} hosts"

Try = Callable[[Sequence[Table], Cluster], bool]
"""Whether these tables have a legal plan that fits this cluster."""


def misfit(tables: Sequence[Table], cluster: Cluster, outcome: Outcome | None, attempt: Try) -> str:
    """The problem of a plan that does not fit, with a change that would. outcome: of the plan, where there is one."""
    lack = _lack(tables, cluster, outcome)
    largest = max(lack.tables, key=lambda table: weight_bytes(table) + state_bytes(table))
    everything = sum(weight_bytes(table) + state_bytes(table) for table in lack.tables)
    changes = [*islice(_changes(tables, cluster, largest, attempt), _MOST_CHANGES)]
    what = f"would fit: {', or '.join(changes)}" if changes else f"nothing that was tried fits ({_TRIED})"
    needs = (
        f"{shown_bytes(weight_bytes(largest))} of weights and {shown_bytes(state_bytes(largest))} of optimizer state"
    )
    return (
        f"{lack.wanted}, got none: the largest table, {largest.name} ({largest.sharding}), needs {needs}, all tables "
        f"together {shown_bytes(everything)}{lack.fullest}; {what}"
    )


class _Lack(NamedTuple):
    """What there is too little of. wanted: with its key. fullest: what it would have. tables: that are in it."""

    wanted: str
    fullest: str
    tables: Sequence[Table]


def _lack(tables: Sequence[Table], cluster: Cluster, outcome: Outcome | None) -> _Lack:
    if outcome is not None and outcome.fits_ranks and cluster.host_cap is not None:
        hosts = f"{cluster.hosts} host{'s' * (cluster.hosts > 1)}"
        full = f"; host {outcome.fullest_host} would have {shown_bytes(float(outcome.host_bytes_H.max()))}"
        there = [table for table in tables if on_host(table, table.rows, table.dim)]
        room = f"{shown_bytes(cluster.host_cap)} of its own memory for tables of the kernels uvm and uvm_caching each"
        return _Lack(f"cluster.host_memory: want a plan that fits {hosts} with {room}", full, there)
    ranks = f"{cluster.world_size} rank{'s' * (cluster.world_size > 1)}"
    full = ""
    if outcome is not None:
        full = f"; rank {outcome.fullest_rank} would have {shown_bytes(float(outcome.bytes_W.max()))}"
    wanted = f"cluster: want a plan that fits {ranks} with {shown_bytes(cluster.cap)} for tables each"
    return _Lack(wanted, full, tables)


def _changes(tables: Sequence[Table], cluster: Cluster, largest: Table, attempt: Try) -> Iterator[str]:
    """Changes that were tried and fit, the least intrusive first."""
    name = largest.name.partition(":")[0]
    parts = [table for table in tables if table.name.partition(":")[0] == name]
    for sharding in ("auto", "row_wise"):
        cut = _changed(tables, parts, sharding=sharding, ranks=None, min_partition=None)
        if largest.sharding not in (sharding, "auto") and attempt(cut, cluster):
            yield f"tables.{name}.sharding={sharding}"
    some = "all tables" + " without an optimizer of their own" * any(table.own_optimizer for table in tables)
    smaller = state_bytes_of(small := _with_rowwise(tables)) < state_bytes_of(tables)
    if smaller and attempt(small, cluster):
        yield f"row-wise Adagrad for {some}, whose state is a number a row (embedding_optimizer=rowwise_adagrad)"
    for which, what in ((parts, f"tables.{name}.dtype=fp16"), (tables, "dtype=fp16 of all tables")):
        if any(table.dtype == "fp32" for table in which):
            if attempt(_changed(tables, which, dtype="fp16"), cluster):
                yield what
            if smaller and attempt(_changed(small, which, dtype="fp16"), cluster):
                yield f"{what} and row-wise Adagrad for {some} (embedding_optimizer=rowwise_adagrad)"
    hosts = _hosts(tables, cluster, attempt)
    if hosts is not None:
        more = hosts - cluster.hosts
        each = f"{cluster.per_host} rank{'s' * (cluster.per_host > 1)}"
        yield f"cluster.hosts={hosts}, {more} more host{'s' * (more > 1)} of {each}"


def _hosts(tables: Sequence[Table], cluster: Cluster, attempt: Try) -> int | None:
    """The fewest hosts on which the tables fit, as far as doubling and halving finds them."""
    low, high = cluster.hosts, cluster.hosts + 1
    while not attempt(tables, replace(cluster, hosts=high)):
        low, high = high, 2 * high
        if high > _MOST_HOSTS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if attempt(tables, replace(cluster, hosts=middle)) else (middle, high)
    return high


def state_bytes_of(tables: Sequence[Table]) -> int:
    """Of all of them."""
    return sum(map(state_bytes, tables))


def _with_rowwise(tables: Sequence[Table]) -> list[Table]:
    """With another optimizer of all tables, which keeps their rate and decay; it does not change a table's own one."""
    return [t if t.own_optimizer or t.freeze else replace(t, optimizer=_rowwise(t.optimizer)) for t in tables]


def _rowwise(o: EmbeddingOptimizer) -> RowWiseAdagrad:
    return RowWiseAdagrad(lr=o.lr, weight_decay=o.weight_decay, weight_decay_mode=o.weight_decay_mode)


def _changed(tables: Sequence[Table], which: Sequence[Table], **values: Any) -> list[Table]:
    names = {table.name for table in which}
    return [replace(table, **values) if table.name in names else table for table in tables]
