"""A plan as a picture: memory and time of each rank, stacked by table, as SVG that any browser shows."""

from collections.abc import Iterator, Sequence
from html import escape

from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.units import shown_bytes, shown_seconds

_WIDTH, _HEIGHT, _LEFT, _GAP = 960, 200, 90, 70
_MOST_TABLES = 12  # with a colour of their own; the smaller ones share one
_MOST_RANKS = 256  # that are drawn: of more, every so many
COLOURS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#eeca3b",
    "#b279a2", "#ff9da6", "#9d755d", "#a0cbe8", "#8cd17d", "#d4a6c8",
)  # fmt: skip
_OTHERS, _VECTORS = "#c8c8c8", "#e8e8e8"

Stack = list[tuple[str, float]]


def picture(outcome: Outcome) -> str:
    """SVG of two rows of bars."""
    ranks = range(0, outcome.cluster.world_size, -(-outcome.cluster.world_size // _MOST_RANKS))
    of_ranks = {rank: outcome.of_rank(rank) for rank in ranks}
    biggest = _biggest(outcome)
    colours = dict(zip(biggest, COLOURS, strict=False))
    memory, time = ([_stack(of_ranks[rank], biggest, what) for rank in ranks] for what in (0, 1))
    for stack, rank in zip(memory, ranks, strict=True):
        stack.append(("vectors of a rank's own samples", float(outcome.bytes_W[rank]) - sum(s for _, s in stack)))
    height = 3 * _GAP + 2 * _HEIGHT + 18 * (len(colours) // 4 + 1)
    cap = outcome.cluster.cap
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        *_bars("memory by rank", ranks, memory, colours, (_GAP, float(cap))),
        *_bars("time of a step by rank", ranks, time, colours, (2 * _GAP + _HEIGHT, None)),
        *_legend(colours, 2 * _GAP + 2 * _HEIGHT + 50),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _biggest(outcome: Outcome) -> list[str]:
    """The tables that take most of memory or of time, in their order."""
    bytes_, seconds = float(outcome.bytes_W.sum()) or 1.0, float(outcome.seconds_W.sum()) or 1.0
    share = {
        each.table.name: max(each.bytes.total / bytes_, each.times.total * len(each.placement.shards) / seconds)
        for each in outcome.tables
    }
    kept = sorted(share, key=lambda name: -share[name])[:_MOST_TABLES]
    return [name for name in share if name in kept]


def _stack(on_rank: dict[str, tuple[float, float]], biggest: Sequence[str], what: int) -> Stack:
    """Of a rank: tables with a colour, then all others together."""
    stack = [(name, on_rank[name][what]) for name in biggest if name in on_rank]
    others = sum(values[what] for name, values in on_rank.items() if name not in biggest)
    return [*stack, ("other tables", others)] if others else stack


def _bars(
    title: str, ranks: Sequence[int], stacks: Sequence[Stack], colours: dict[str, str], at: tuple[int, float | None]
) -> Iterator[str]:
    """A row of stacked bars, one a rank. at: where it begins, and a limit to draw, which is of bytes."""
    top, limit = at
    most = max([sum(size for _, size in stack) for stack in stacks] + [limit or 0.0]) or 1.0
    shown = shown_seconds if limit is None else shown_bytes
    width = (_WIDTH - _LEFT - 20) / len(stacks)
    yield f'<text x="{_LEFT}" y="{top - 12}" font-weight="bold">{escape(title)}</text>'
    for part in (0.0, 0.5, 1.0):
        y = top + _HEIGHT * (1 - part)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{shown(most * part)}</text>'
    for number, (rank, stack) in enumerate(zip(ranks, stacks, strict=True)):
        x, y = _LEFT + number * width, float(top + _HEIGHT)
        for name, size in stack:
            height = _HEIGHT * size / most
            y -= height
            colour = colours.get(name, _VECTORS if name.startswith("vectors") else _OTHERS)
            yield (
                f'<rect x="{x + 0.1 * width:.2f}" y="{y:.2f}" width="{0.8 * width:.2f}" height="{height:.2f}" '
                f'fill="{colour}"><title>rank {rank}, {escape(name)}: {shown(size)}</title></rect>'
            )
        if len(stacks) <= 32 or number % (len(stacks) // 16) == 0:
            middle, below = x + width / 2, top + _HEIGHT + 16
            yield f'<text x="{middle:.1f}" y="{below}" text-anchor="middle">{rank}</text>'
    if limit is not None:
        y = top + _HEIGHT * (1 - limit / most)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#c00" stroke-dasharray="6 4"/>'
        yield f'<text x="{_WIDTH - 20}" y="{y - 4:.1f}" text-anchor="end" fill="#c00">cap {shown_bytes(limit)}</text>'


def _legend(colours: dict[str, str], top: int) -> Iterator[str]:
    entries = {**colours, "other tables": _OTHERS, "vectors of a rank's own samples": _VECTORS}
    for number, (name, colour) in enumerate(entries.items()):
        x, y = _LEFT + (number % 4) * 215, top + (number // 4) * 18
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 18}" y="{y}">{escape(name[:28])}</text>'
