"""A plan as text."""

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table as Grid

from sharded_emb.planning.outcome import Outcome, TableOutcome
from sharded_emb.planning.units import shown_bytes, shown_seconds
from sharded_emb.tables import Table

_MOST_RANKS = 16  # that are listed; of more, the fullest and slowest ones
_WIDTH = 200


def report(outcome: Outcome, assumed: Mapping[str, str]) -> str:
    """Tables, ranks and what makes the slowest one slow. assumed: by feature, how many ids a sample has and why."""
    cluster, count = outcome.cluster, len(outcome.tables)
    lines = [
        f"{count} table{'s' * (count != 1)} on {cluster.told()}: {shown_bytes(cluster.cap)} of the "
        f"{shown_bytes(cluster.memory)} of a rank are for tables; global batch {outcome.costs.workload.batch:,}",
        "ids a sample: " + ", ".join(f"{name} {text}" for name, text in assumed.items()),
        "",
        _grid(_TABLE_HEAD, [_table_row(each) for each in outcome.tables]),
        "",
        _grid(_RANK_HEAD, list(_rank_rows(outcome))),
        "",
        *_summary(outcome),
    ]
    return "\n".join(lines)


_TABLE_HEAD = (
    "table", "rows", "dim", "dtype", "sharding", "kernel", "ranks",
    "weights", "state", "input", "output", "lookup", "communication",
)  # fmt: skip
_RANK_HEAD = ("rank", "memory", "of cap", "lookup", "communication", "step")


def kernel(table: Table) -> str:
    """How a table is looked up and updated."""
    return table.kernel or ("frozen" if table.freeze else table.update)


def _table_row(each: TableOutcome) -> list[str]:
    table = each.table
    return [
        table.name,
        f"{table.rows:,}",
        str(table.dim),
        table.dtype,
        each.placement.kind,
        kernel(table),
        _ranks(each.placement.ranks),
        *(shown_bytes(size) for size in each.bytes),
        shown_seconds(each.times.lookup),
        shown_seconds(each.times.communication),
    ]


def _ranks(ranks: list[int]) -> str:
    """`0`, `0-63`, or `3, 7` of some; the number of them where they are many."""
    some = sorted(set(ranks))
    if len(some) > 2 and some == list(range(some[0], some[-1] + 1)):
        return f"{some[0]}-{some[-1]}"
    return ", ".join(map(str, some)) if len(some) <= 6 else f"{len(some)} of {some[0]}-{some[-1]}"


def _rank_rows(outcome: Outcome) -> Iterator[list[str]]:
    ranks = range(outcome.cluster.world_size)
    if len(ranks) > _MOST_RANKS:
        by_time = sorted(ranks, key=lambda rank: -outcome.seconds_W[rank])
        by_size = sorted(ranks, key=lambda rank: -outcome.bytes_W[rank])
        shown = sorted({*by_time[:4], *by_time[-2:], *by_size[:4], *by_size[-2:]})
    else:
        shown = [*ranks]
    for rank in shown:
        size = float(outcome.bytes_W[rank])
        yield [
            str(rank),
            shown_bytes(size),
            f"{size / outcome.cluster.cap:.0%}",
            shown_seconds(float(outcome.lookup_W[rank])),
            shown_seconds(float(outcome.communication_W[rank])),
            shown_seconds(float(outcome.seconds_W[rank])),
        ]
    if len(shown) < len(ranks):
        yield [f"and {len(ranks) - len(shown)} between these", *[""] * 5]


def _summary(outcome: Outcome) -> Iterator[str]:
    slowest, fullest = outcome.slowest_rank, outcome.fullest_rank
    on_it = outcome.of_rank(slowest)
    seconds = float(outcome.seconds_W[slowest])
    why = ""
    if on_it and seconds > 0:
        name = max(on_it, key=lambda table: on_it[table][1])
        part = "lookup" if outcome.lookup_W[slowest] >= outcome.communication_W[slowest] else "communication"
        share = on_it[name][1] / seconds
        why = f"; most of it is {part}, and {share:.0%} of it table {name} ({outcome.placements[name].kind})"
    yield (
        f"a step takes {shown_seconds(outcome.step_seconds)} for tables, {shown_seconds(outcome.latency.total)} of it "
        f"the latency of lookups and exchanges; the slowest rank takes {outcome.imbalance:.2f} times as long as the "
        "mean"
    )
    yield f"slowest: rank {slowest} with {shown_seconds(seconds)}{why}"
    full = float(outcome.bytes_W[fullest])
    yield f"fullest: rank {fullest} with {shown_bytes(full)} of {shown_bytes(outcome.cluster.cap)}"
    if (of_host := float(outcome.host_bytes_H.max(initial=0))) > 0:
        cap = outcome.cluster.host_cap
        room = "" if cap is None else f" of {shown_bytes(cap)}"
        unsaid = "; cluster.host_memory does not say how much there is" if cap is None else ""
        held = f"{shown_bytes(of_host)}{room} of its own memory{unsaid}"
        yield f"fullest host: host {outcome.fullest_host} with {held}"


def _grid(head: tuple[str, ...], rows: list[list[str]]) -> str:
    left = {"table", "dtype", "sharding", "kernel", "ranks", "rank"}
    grid = Grid(box=None, pad_edge=False)
    for name in head:
        grid.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    console = Console(width=_WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())
