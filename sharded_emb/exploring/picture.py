"""A map of vectors as SVG."""

import html
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sharded_emb.planning.picture import COLOURS

_WIDTH, _HEIGHT, _EDGE = 760, 560, 12
_LINE, _ON_A_LINE = 18, 4  # of the legend
# of rows by how often they are read: never, then from these on
_SHADES = ("#b8b8b8", "#a6cee3", "#5aa2cf", "#2166ac", "#f4a582", "#d6604d", "#b2182b")
_BANDS = (1, 4, 16, 64, 256, 1024)
_OTHERS = "#c8c8c8"
_LETTERS = 26  # of a name in the legend


@dataclass(frozen=True)
class Point:
    """Where it is, what it is, how often it is read, whether somebody asked for it, and of which category it is."""

    x: float
    y: float
    label: str
    reads: int
    asked: bool
    category: str | None = None


def drawn(points: Sequence[Point], coloured_by: str) -> str:
    """An SVG of dots, each with its name when pointed at; those that somebody asked for have it beside them. Empty for
    less than two. Both axes have one scale.
    """
    if len(points) < 2:
        return ""
    groups, colours = _groups(points)
    top = _LINE * (1 + -(-len(colours) // _ON_A_LINE)) + _EDGE
    xs, ys = np.array([each.x for each in points]), np.array([each.y for each in points])
    wide, tall = float(np.ptp(xs)), float(np.ptp(ys))
    scale = min((_WIDTH - 2 * _EDGE) / (wide or 1e-9), (_HEIGHT - 2 * _EDGE) / (tall or 1e-9))
    middle_x, middle_y = (xs.max() + xs.min()) / 2, (ys.max() + ys.min()) / 2
    view = f'viewBox="0 0 {_WIDTH} {_HEIGHT + top}"'
    under, over = [f'<svg {view} role="img" aria-label="map of vectors">', *_legend(colours, coloured_by)], []
    # what is read often lies over the rest
    for group, each in sorted(zip(groups, points, strict=True), key=lambda pair: pair[1].reads):
        x = _WIDTH / 2 + (each.x - middle_x) * scale
        y = top + _HEIGHT / 2 - (each.y - middle_y) * scale
        what = "" if each.category is None else f", {each.category}"
        title = f"<title>{html.escape(f'{each.label}{what}: {each.reads:,} reads')}</title>"
        under.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colours[group]}">{title}</circle>')
        if each.asked:
            end = ' text-anchor="end"' if x > _WIDTH * 0.8 else ""
            aside = x - 6 if end else x + 6
            over.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="none" stroke="#000">{title}</circle>')
            over.append(f'<text x="{aside:.1f}" y="{y + 4:.1f}" fill="#000"{end}>{html.escape(each.label)}</text>')
    return "".join([*under, *over, "</svg>"])


def _groups(points: Sequence[Point]) -> tuple[list[str], dict[str, str]]:
    """Of each point the name of what it is coloured by, and a colour for each: by category the most frequent ones."""
    if points[0].category is None:
        names = ["never", *(f"{low:,} or more" for low in _BANDS)]
        return [names[sum(each.reads >= low for low in _BANDS)] for each in points], dict(
            zip(names, _SHADES, strict=True)
        )
    categories = [str(each.category) for each in points]
    common = [name for name, _ in Counter(categories).most_common(len(COLOURS))]
    colours = dict(zip(common, COLOURS, strict=False))
    others = len({*categories}) - len(common)
    rest = f"({others} others)"
    found = [name if name in colours else rest for name in categories]
    return found, {**colours, rest: _OTHERS} if others else colours


def _legend(colours: Mapping[str, str], title: str) -> Iterator[str]:
    yield f'<text x="{_EDGE}" y="13">{html.escape(title)}</text>'
    for number, (name, colour) in enumerate(colours.items()):
        x = _EDGE + number % _ON_A_LINE * (_WIDTH - _EDGE) / _ON_A_LINE
        y = _LINE * (1 + number // _ON_A_LINE)
        shown = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        yield f'<circle cx="{x + 4:.1f}" cy="{y + 9}" r="4" fill="{colour}"/>'
        yield f'<text x="{x + 12:.1f}" y="{y + 13}">{html.escape(shown)}</text>'
