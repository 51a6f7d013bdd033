"""`explore.html`: what there is to see of tables, as one page for people."""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharded_emb.data.charts import bars, histogram
from sharded_emb.data.columns import Int64s
from sharded_emb.data.page import page, section, small, table
from sharded_emb.exploring.figures import tally
from sharded_emb.exploring.picture import Point, drawn
from sharded_emb.exploring.vectors import Floats

_BARS, _ROUNDING = 30, 1e-5


@dataclass(frozen=True)
class Seen:
    """Of a table. said: what explore.json says of it. points: of its map, and what they are coloured by. norms, reads:
    of rows that stand for ids.
    """

    said: dict[str, Any]
    points: list[Point]
    coloured_by: str
    norms: Floats
    reads: Int64s


def write_page(file: Path, said: Mapping[str, Any], seen: Mapping[str, Seen]) -> None:
    """Writes it. said: what explore.json says."""
    facts = [(name, str(said[name])) for name in ("run", "checkpoint", "data") if name in said]
    parts = [
        f"<h1>Tables of {html.escape(str(said['run']))}</h1>",
        table(facts),
        table([*map(_row, seen.items())], _HEAD),
        small("Reads are those of an epoch of the train split. Moved: the distance to what a row began with."),
        *(part for name, each in seen.items() for part in _table(name, each, said["map"])),
    ]
    file.write_text(page(f"Tables of {said['run']}", parts), encoding="utf-8")


_HEAD = (
    *("table", "rows", "dim", "of ids", "never read", "never moved", "row of unknown ids"),
    *("median norm", "mean cosine", "effective rank"),
)


def _row(each: tuple[str, Seen]) -> list[str]:
    name, said = each[0], each[1].said
    numbers = (said["norm"]["median"], said["mean_cosine"], said["effective_rank"])
    counts = (said["rows"], said["dim"], said["rows_of_ids"], said["never_read"], said["never_moved"])
    unknown = {None: "", True: "moved", False: "never moved"}[said["unknown_row_moved"]]
    return [name, *map(_count, counts), unknown, *map(_number, numbers)]


def _table(name: str, seen: Seen, method: str) -> Iterator[str]:
    said = seen.said
    yield section(
        f"{name}: {said['rows']:,} x {said['dim']} {said['dtype']}, ids: {said['ids']}",
        "".join(f"<p>&#9888; {html.escape(note)}</p>" for note in said["notes"]),
        drawn(seen.points, seen.coloured_by),
        small(_how(method, said["variance_of_first_axes"], len(seen.points))) if len(seen.points) > 1 else "",
    )
    yield section(f"{name}: nearest by cosine", *map(_nearest, said["neighbours"]))
    yield section(
        f"{name}: by reads", table([*map(_band, said["by_reads"])], ("reads", "rows", "of all reads", "norm", "moved"))
    )
    if len(seen.reads):
        read = bars(*histogram(*tally(seen.reads)), "reads of a row", "rows")
        yield section(f"{name}: how often rows are read", read)
    yield section(f"{name}: norms", bars(*_norms(seen.norms), "L2 norm", "rows"))
    for title, key in (("most read", "most_read"), ("longest vectors", "longest"), ("shortest vectors", "shortest")):
        lines = [
            [each["id"], _count(each["reads"]), _number(each["norm"]), _number(each["moved"])] for each in said[key]
        ]
        yield section(f"{name}: {title}", table(lines, ("id", "reads", "norm", "moved")))


def _how(method: str, shares: Sequence[float], points: int) -> str:
    how = "t-SNE of cosines: who is near whom says something, how far groups are apart does not"
    if method == "pca":
        how = f"The two axes along which rows differ most, which have {sum(shares[:2]):.1%} of their variance"
    return f"{how}. {points:,} rows."


def _nearest(each: Mapping[str, Any]) -> str:
    found = [f'{html.escape(near["id"])} <span class="small">{near["cosine"]:.3f}</span>' for near in each["nearest"]]
    return f"<p><b>{html.escape(each['id'])}</b>: {', '.join(found) or 'nobody'}</p>"


def _band(line: Mapping[str, Any]) -> list[str]:
    reads = f"{line['from']:,}" if line["from"] == line["to"] else f"{line['from']:,} to {line['to']:,}"
    return [
        reads,
        _count(line["rows"]),
        f"{line['share_of_reads']:.1%}",
        _number(line["norm"]),
        _number(line["moved"]),
    ]


def _norms(norms: Floats) -> tuple[list[str], list[int]]:
    """Labels and heights of bars of the same width; one where they differ by rounding alone."""
    if not len(norms):
        return [], []
    values = norms.astype(np.float64)
    apart = values.max() - values.min() > _ROUNDING * values.max()
    heights, edges = np.histogram(values, bins=_BARS if apart else 1)
    return [f"{edge:.3g}" for edge in edges[:-1]], heights.tolist()


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4g}"
