"""Looks at the tables of a checkpoint, and writes what it finds.

explore.html           one page, which needs no network
explore.json           the numbers on it
rows/TABLE.parquet     a line an id, or a row where ids are not known: raw, row, reads, norm, moved

R  rows    P  rows that are picked    K  neighbours
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from sharded_emb.data.columns import Int64s, distinct
from sharded_emb.exploring import MANIFEST, PAGE
from sharded_emb.exploring.attributes import Attribute
from sharded_emb.exploring.figures import Figures, by_reads, measure, quantiles
from sharded_emb.exploring.maps import Kind, placed
from sharded_emb.exploring.names import Names
from sharded_emb.exploring.page import Seen, write_page
from sharded_emb.exploring.picture import Point
from sharded_emb.exploring.vectors import Floats, Mask, TableVectors, nearest_rows
from sharded_emb.training.metric_lines import without_nan
from sharded_emb.vocabulary_rows import UNKNOWN_ROW

_LISTED = 10  # rows of a list, and ids whose neighbours are shown unasked
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Asked:
    """What a user wants to see. ids: raw ids of a table whose neighbours are wanted, top_k of each. points: rows on the
    map. a_whole_epoch: whether the run has read all that an epoch reads.
    """

    ids: Sequence[str | int]
    top_k: int
    map: Kind | None
    points: int
    seed: int
    a_whole_epoch: bool


@dataclass(frozen=True)
class Look:
    """A table that is looked at. reads_R: how often an epoch reads each row. unknown_beginning: why nobody knows what
    it began with, None where it is known. colours: of the items that its rows are, by which a map is coloured.
    """

    vectors: TableVectors
    names: Names
    vocabulary: str | None
    reads_R: Int64s
    unknown_beginning: str | None
    colours: Attribute | None = None


def write_exploration(folder: Path, looks: Sequence[Look], asked: Asked, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes all of it into an empty folder, a table after the other, and returns what explore.json says. facts: of the
    run.

    Raises InputError for an id that is none.
    """
    wanted = {look.names.table: look.names.rows_of(asked.ids) if asked.ids else [] for look in looks}
    (folder / "rows").mkdir()
    seen = {}
    for look in looks:
        name = look.names.table
        seen[name] = _seen(look, wanted[name], asked, folder / "rows" / f"{name}.parquet")
    said = {**facts, "tables": {name: each.said for name, each in seen.items()}}
    (folder / MANIFEST).write_text(json.dumps(without_nan(said), indent=2) + "\n", encoding="utf-8")
    write_page(folder / PAGE, said, seen)
    return said


def _seen(look: Look, wanted: Sequence[int], asked: Asked, file: Path) -> Seen:
    stands, table = look.names.read_R, look.vectors.table
    hottest = _greatest(look.reads_R, stands & (look.reads_R > 0))
    queries = [*dict.fromkeys(wanted)] or hottest.tolist()
    on_map = _on_map(look, asked) if asked.map is not None else hottest[:0]
    picked = distinct(np.array([*queries, *on_map.tolist()], np.int64))
    figures = measure(look.vectors.pieces(), stands, table.dim, picked)
    said = {
        **_shape(look),
        **_counts(look, figures),
        "norm": quantiles(figures.norm_R[stands & figures.finite_R]),
        "mean_cosine": figures.spread.mean_cosine,
        "effective_rank": figures.spread.effective_rank,
        "variance_of_first_axes": figures.spread.shares_D[:10].tolist(),
        "by_reads": by_reads(look.reads_R, figures, stands),
        "most_read": _lines(hottest, look, figures),
        "longest": _lines(_greatest(figures.norm_R, stands & figures.finite_R), look, figures),
        "shortest": _lines(_greatest(-figures.norm_R, stands & figures.finite_R), look, figures),
        "neighbours": _neighbours(look, figures, (queries, picked), asked.top_k),
    }
    said["notes"] = [*_notes(look, figures, said, asked.a_whole_epoch)]
    _write_rows(file, look, figures)
    points = _points(look, figures, (on_map, picked, wanted), asked)
    coloured_by = "reads" if look.colours is None else look.colours.name
    return Seen(said, points, coloured_by, figures.norm_R[stands & figures.finite_R], look.reads_R[stands])


def _shape(look: Look) -> dict[str, Any]:
    table = look.vectors.table
    return {
        "rows": table.rows,
        "dim": table.dim,
        "dtype": table.dtype,
        "ids": str(table.ids),
        "vocabulary": look.vocabulary,
        "frozen": table.freeze,
    }


def _counts(look: Look, figures: Figures) -> dict[str, Any]:
    """never_read: rows that stand for an id which is not in the train split. never_moved: that are what they began
    with. read_but_not_moved: both read and so.
    """
    stands, reads_R, moved_R = look.names.read_R, look.reads_R, figures.moved_R
    still = None if moved_R is None else stands & (moved_R == 0)
    falling = np.sort(reads_R[stands])[::-1]
    total, top = int(falling.sum()), len(falling) // 100
    return {
        "rows_of_ids": int(stands.sum()),
        "ids_that_share_a_row": int(look.names.ids_R[look.names.ids_R > 1].sum()),
        "reads": total,
        "reads_of_the_most_read_percent": float(falling[:top].sum() / total) if total and top else None,
        "never_read": int((falling == 0).sum()),
        "never_moved": None if still is None else int(still.sum()),
        "read_but_not_moved": None if still is None else int((still & (reads_R > 0)).sum()),
        "not_finite": int((~figures.finite_R).sum()),
        "zero": int((stands & (figures.norm_R == 0)).sum()),
        "unknown_row_moved": _unknown_row_moved(look, figures),
    }


def _unknown_row_moved(look: Look, figures: Figures) -> bool | None:
    """Whether ids that no vocabulary knows get what somebody has learned; None where they have no row of their own."""
    if not look.names.special or look.vectors.table.rows <= UNKNOWN_ROW or figures.moved_R is None:
        return None
    return bool(figures.moved_R[UNKNOWN_ROW] > 0)


def _notes(look: Look, figures: Figures, said: Mapping[str, Any], a_whole_epoch: bool) -> Iterator[str]:
    """What a person should look into."""
    if said["not_finite"]:
        wrong = look.names.label(int(np.flatnonzero(~figures.finite_R)[0]))
        yield f"{said['not_finite']:,} rows have numbers that are not finite, the first is {wrong}"
    if look.unknown_beginning is not None:
        yield f"how far rows moved is not known: {look.unknown_beginning}"
    if said["read_but_not_moved"] and a_whole_epoch:
        still = look.names.read_R & (look.reads_R > 0) & (figures.moved_R == 0)
        first = look.names.label(int(np.argmax(np.where(still, look.reads_R, -1))))
        yield (
            f"{said['read_but_not_moved']:,} rows are read and have not moved, {first} the most often: no gradient "
            "reaches them, or the dtype of the table is too coarse for it"
        )
    if said["never_read"]:
        share = said["never_read"] / max(said["rows_of_ids"], 1)
        yield f"{said['never_read']:,} rows of ids ({share:.1%}) are not read in the train split"
    if said["zero"]:
        yield f"{said['zero']:,} rows of ids are zeros"


def _greatest(values_R: Int64s | Floats, among_R: Mask) -> Int64s:
    """The rows of the greatest values, the lower one first among equals."""
    rows = np.flatnonzero(among_R)
    if len(rows) > _LISTED:  # those that are no less than the last of them, before they are sorted
        least = np.partition(values_R[rows], len(rows) - _LISTED)[len(rows) - _LISTED]
        rows = rows[values_R[rows] >= least]
    return rows[np.argsort(-values_R[rows], kind="stable")][:_LISTED]


def _lines(rows: Int64s, look: Look, figures: Figures) -> list[dict[str, Any]]:
    return [
        {
            "id": look.names.label(row),
            "row": row,
            "reads": int(look.reads_R[row]),
            "norm": float(figures.norm_R[row]),
            "moved": None if figures.moved_R is None else float(figures.moved_R[row]),
        }
        for row in rows.tolist()
    ]


def _neighbours(look: Look, figures: Figures, rows: tuple[Sequence[int], Int64s], top_k: int) -> list[dict[str, Any]]:
    """rows: that are asked for, and those whose vectors are there."""
    queries, picked = np.array(rows[0], np.int64), rows[1]
    queries = queries[figures.finite_R[queries] & (figures.norm_R[queries] > 0)]
    if not len(queries):
        return []
    vectors_PD = figures.picked_PD[np.searchsorted(picked, queries)]
    candidates = look.names.read_R & figures.finite_R
    pieces = look.vectors.pieces(compared=False)
    rows_PK, cosine_PK = nearest_rows(pieces, (queries, vectors_PD), candidates, top_k)
    return [
        {
            "id": look.names.label(query),
            "row": query,
            "nearest": [
                {"id": look.names.label(row), "row": row, "cosine": cosine}
                for row, cosine in zip(found_K.tolist(), near_K.tolist(), strict=True)
                if cosine > -math.inf
            ],
        }
        for query, found_K, near_K in zip(queries.tolist(), rows_PK, cosine_PK, strict=True)
    ]


def _on_map(look: Look, asked: Asked) -> Int64s:
    """Rows that stand for an id: all, or the most read and a sample of the others, half of each."""
    rows = np.flatnonzero(look.names.read_R)
    if len(rows) <= asked.points:
        return rows
    half = asked.points // 2
    apart = np.argpartition(-look.reads_R[rows], half)
    drawn = np.random.default_rng(asked.seed).choice(apart[half:], asked.points - half, replace=False)
    return np.sort(rows[np.concatenate([apart[:half], drawn])])


def _points(look: Look, figures: Figures, rows: tuple[Int64s, Int64s, Sequence[int]], asked: Asked) -> list[Point]:
    """rows: on the map, those whose vectors are there, and those that were asked for, which are on it, too."""
    if asked.map is None:
        return []
    shown = distinct(np.concatenate([rows[0], np.array(rows[2], np.int64)]))
    shown = shown[figures.finite_R[shown]]
    vectors_PD: Tensor = figures.picked_PD[torch.from_numpy(np.searchsorted(rows[1], shown))]
    at_P2 = placed(vectors_PD, figures.spread, asked.map, asked.seed)
    kinds = [None] * len(shown) if look.colours is None else look.colours.first(shown)
    return [
        Point(x, y, look.names.label(row), int(look.reads_R[row]), row in rows[2], kind)
        for row, (x, y), kind in zip(shown.tolist(), at_P2.tolist(), kinds, strict=True)
    ]


def _write_rows(file: Path, look: Look, figures: Figures) -> None:
    """A line an id in the order of its vocabulary, or a row where no id is known."""
    names = look.names
    rows_K = np.flatnonzero(names.read_R) if names.raw is None else names.rows_K
    fields = [("row", pa.int64()), ("reads", pa.int64()), ("norm", pa.float32()), ("moved", pa.float32())]
    schema = pa.schema([*([] if names.raw is None else [("raw", names.raw.type)]), *fields])
    with pq.ParquetWriter(file, schema) as out:
        for first in range(0, len(rows_K), _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            rows = rows_K[some]
            moved = pa.nulls(len(rows), pa.float32()) if figures.moved_R is None else pa.array(figures.moved_R[rows])
            raw = [] if names.raw is None else [names.raw[first : first + len(rows)]]
            numbers = [pa.array(each) for each in (rows, look.reads_R[rows], figures.norm_R[rows])]
            out.write_table(pa.table([*raw, *numbers, moved], schema=schema))
