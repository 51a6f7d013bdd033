"""Histograms as SVG, without a plotting library."""

import itertools
from typing import Any

import numpy as np

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 200, 56, 34, 14
_MOST_BARS = 40


def histogram(values: Any, counts: Any) -> tuple[list[str], list[int]]:
    """Labels and heights of at most 40 bars, of ascending whole numbers and how often each occurs.

    A bar a number where that fits; else ranges that double in width, as both lengths and popularity have long tails.
    """
    there = counts > 0
    values, counts = values[there], counts[there]
    if not len(values):
        return [], []
    if values[-1] - values[0] < _MOST_BARS:
        heights = np.zeros(values[-1] - values[0] + 1, np.int64)
        heights[values - values[0]] = counts
        return [str(values[0] + i) for i in range(len(heights))], [int(height) for height in heights]
    edges = [0, 1]
    while edges[-1] <= values[-1]:
        edges.append(edges[-1] * 2)
    bins = np.searchsorted(edges, values, side="right") - 1
    heights = np.bincount(bins, weights=counts, minlength=len(edges) - 1).astype(np.int64)
    labels = [f"{low}" if high - low == 1 else f"{low}-{high - 1}" for low, high in itertools.pairwise(edges)]
    first = int(bins[0])
    return labels[first:], [int(height) for height in heights[first:]]


def bars(labels: list[str], heights: list[int], across: str, up: str) -> str:
    """An SVG of bars: across and up name the axes."""
    if not heights:
        return ""
    high = max(heights)
    step = (_WIDTH - _LEFT) / len(heights)
    room = _HEIGHT - _BOTTOM - _TOP
    every = -(-len(labels) * max(map(len, labels)) * 7 // (_WIDTH - _LEFT))  # a letter is about 7 wide
    drawn = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{up} by {across}">']
    for i, (label, height) in enumerate(zip(labels, heights, strict=True)):
        x, size = _LEFT + i * step, room * height / high
        drawn.append(
            f'<rect x="{x + step * 0.08:.1f}" y="{_TOP + room - size:.1f}" width="{step * 0.84:.1f}" '
            f'height="{size:.1f}"><title>{label}: {height:,}</title></rect>'
        )
        if i % every == 0:
            drawn.append(f'<text x="{x + step / 2:.1f}" y="{_TOP + room + 13}" text-anchor="middle">{label}</text>')
    drawn.append(f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{high:,}</text>')
    drawn.append(f'<text x="{_LEFT - 6}" y="{_TOP + room}" text-anchor="end">0</text>')
    drawn.append(f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">{across}</text>')
    drawn.append(f'<text x="0" y="10">{up}</text></svg>')
    return "".join(drawn)
