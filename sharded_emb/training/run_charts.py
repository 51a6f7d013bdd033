"""Curves and stacked bars as SVG, without a plotting library."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence

from sharded_emb.planning.picture import COLOURS

_WIDTH, _HEIGHT, _LEFT, _TOP, _BELOW = 640, 170, 64, 22, 30
_MOST_POINTS = 400
_BAR, _GAP, _LEGEND = 14, 6, 18
_LETTER = 6.5  # about so wide is one

Points = Sequence[tuple[float, float]]


def curves(series: Mapping[str, Points], across: str, up: str) -> str:
    """An SVG of lines over one pair of axes; of many points the means of neighbours are drawn. Empty without a line of
    two points. across and up name the axes.
    """
    drawn = {name: _thinned(points) for name, points in series.items() if len(points) > 1}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    wide, tall = (right - left) or 1.0, (high - low) or abs(high) or 1.0
    floor = _HEIGHT - _BELOW

    def at(x: float, y: float) -> str:
        return f"{_LEFT + (x - left) / wide * (_WIDTH - _LEFT - 8):.1f},{floor - (y - low) / tall * (floor - _TOP):.1f}"

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_text(f"{up} by {across}")}">']
    parts += [f'<text x="0" y="12">{_text(up)}</text>', *_legend([*drawn], _LEFT + 8 + len(up) * _LETTER)]
    for value in {low, high}:
        y = floor - (value - low) / tall * (floor - _TOP)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    parts.append(f'<text x="{_LEFT}" y="{floor + 16}">{left:.6g}</text>')
    parts.append(f'<text x="{_WIDTH}" y="{floor + 16}" text-anchor="end">{_text(across)} {right:.6g}</text>')
    for (name, points), colour in zip(drawn.items(), COLOURS, strict=False):
        line = " ".join(at(x, y) for x, y in points)
        title = f"<title>{_text(name)}</title>"
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6">{title}</polyline>')
    return "".join([*parts, "</svg>"])


def stacks(rows: Mapping[str, Mapping[str, float]], shown: Callable[[float], str]) -> str:
    """An SVG of bars, one above the other, each stacked of its parts. shown: a value for people."""
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    most = max((sum(parts.values()) for parts in rows.values()), default=0.0)
    if most <= 0:
        return ""
    room = max(len(label) for label in rows) * _LETTER + 8
    beside = len(shown(most)) * _LETTER + 16
    height = len(rows) * (_BAR + _GAP) + _LEGEND + 8
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    drawn = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">', *_legend(names, 0)]
    for number, (label, parts) in enumerate(rows.items()):
        x, y = room, _LEGEND + number * (_BAR + _GAP)
        drawn.append(f'<text x="{x - 6:.1f}" y="{y + 11}" text-anchor="end">{_text(label)}</text>')
        for name, value in parts.items():
            width = value / most * (_WIDTH - room - beside)
            title = f"<title>{_text(f'{label}, {name}: {shown(value)}')}</title>"
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colours[name]}">{title}</rect>'
            )
            x += width
        drawn.append(f'<text x="{x + 6:.1f}" y="{y + 11}">{shown(sum(parts.values()))}</text>')
    return "".join([*drawn, "</svg>"])


def _thinned(points: Points) -> Points:
    every = -(-len(points) // _MOST_POINTS)
    groups = [points[i : i + every] for i in range(0, len(points), every)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _legend(names: Sequence[str], x: float) -> Iterator[str]:
    for name, colour in zip(names, COLOURS, strict=False):
        yield f'<rect x="{x:.1f}" y="3" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{x + 14:.1f}" y="12">{_text(name)}</text>'
        x += 26 + len(name) * _LETTER


def _text(text: str) -> str:
    return html.escape(text, quote=True)
