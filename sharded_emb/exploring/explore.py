"""Looks at the tables of a checkpoint, and writes what it finds.

explore.html           one page, which needs no network
explore.json           the numbers on it
rows/TABLE.parquet     a line an id, or a row where ids are not known: raw, row, reads, norm, moved

R  rows    P  rows that are picked    K  neighbours
"""

import json
import math
from collections.abc import Mapping, Sequence
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
from sharded_emb.exploring.figures import Figures, by_reads, measure, quantiles
from sharded_emb.exploring.maps import Kind, placed
from sharded_emb.exploring.notes import Look, counts, notes, shape
from sharded_emb.exploring.page import Seen, write_page
from sharded_emb.exploring.picture import Point
from sharded_emb.exploring.vectors import Floats, Mask, nearest_rows
from sharded_emb.training.metric_lines import without_nan

_LISTED = 10  # rows of a list, and ids whose neighbours are shown unasked
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Asked:
    """What a user wants to see. rows: by table those whose neighbours are wanted, top_k of each; without any, those
    that are read most. points: rows on the map.
    """

    rows: Mapping[str, Sequence[int]]
    top_k: int
    map: Kind | None
    points: int
    seed: int


def write_exploration(folder: Path, looks: Sequence[Look], asked: Asked, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes all of it into an empty folder, a table after the other, and returns what explore.json says. facts: of the
    run.
    """
    (folder / "rows").mkdir()
    seen = {}
    for look in looks:
        name = look.names.table
        seen[name] = _seen(look, asked, folder / "rows" / f"{name}.parquet")
    files = [PAGE, *(f"rows/{name}.parquet" for name in seen)]
    said: dict[str, Any] = without_nan({**facts, "tables": {n: each.said for n, each in seen.items()}, "files": files})
    write_page(folder / PAGE, said, seen)
    (folder / MANIFEST).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    return said


def _seen(look: Look, asked: Asked, file: Path) -> Seen:
    stands, table, wanted = look.names.read_R, look.vectors.table, asked.rows.get(look.names.table, ())
    hottest = _greatest(look.reads_R, stands & (look.reads_R > 0))
    queries = [*dict.fromkeys(wanted)] or hottest.tolist()
    on_map = _on_map(look, asked) if asked.map is not None else hottest[:0]
    picked = distinct(np.array([*queries, *on_map.tolist()], np.int64))
    figures = measure(look.vectors.pieces(), stands, table.dim, picked)
    said = {
        **shape(look),
        **counts(look, figures),
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
    said["notes"] = [*notes(look, figures, said)]
    _write_rows(file, look, figures)
    points = _points(look, figures, (on_map, picked, wanted), asked)
    coloured_by = "reads" if look.colours is None else look.colours.name
    return Seen(said, points, coloured_by, figures.norm_R[stands & figures.finite_R], look.reads_R[stands])


def _greatest(values_R: Int64s | Floats, among_R: Mask, count: int = _LISTED) -> Int64s:
    """The rows of the greatest values, the lower one first among equals."""
    values = values_R[among_R]
    if len(values) <= count:
        rows = np.flatnonzero(among_R)
    else:  # those above the last of them, and of its equals the first
        least = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(among_R & (values_R > least))
        equal = np.flatnonzero(among_R & (values_R == least))[: count - len(above)]
        rows = np.sort(np.concatenate([above, equal]))
    return rows[np.argsort(-values_R[rows], kind="stable")]


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
    """rows: that are asked for, and those whose vectors are there. A vector without a direction is near nobody."""
    queries, picked = np.array(rows[0], np.int64), rows[1]
    directed = figures.finite_R & (figures.norm_R > 0)
    asked = queries[directed[queries]]
    found: dict[int, list[dict[str, Any]]] = {}
    if len(asked):
        vectors_PD = figures.picked_PD[np.searchsorted(picked, asked)]
        pieces = look.vectors.pieces(compared=False)
        rows_PK, cosine_PK = nearest_rows(pieces, (asked, vectors_PD), look.names.read_R & directed, top_k)
        for query, found_K, near_K in zip(asked.tolist(), rows_PK.tolist(), cosine_PK.tolist(), strict=True):
            near = [each for each in zip(found_K, near_K, strict=True) if each[1] > -math.inf]
            found[query] = [{"id": look.names.label(row), "row": row, "cosine": cosine} for row, cosine in near]
    return [{"id": look.names.label(q), "row": q, "nearest": found.get(q, [])} for q in queries.tolist()]


def _on_map(look: Look, asked: Asked) -> Int64s:
    """Rows that stand for an id: all, or the most read and a sample of the others, half of each."""
    stands = look.names.read_R
    if np.count_nonzero(stands) <= asked.points:
        return np.flatnonzero(stands)
    top = _greatest(look.reads_R, stands, asked.points // 2)
    others = stands.copy()
    others[top] = False
    rows = np.flatnonzero(others)
    drawn = np.random.default_rng(asked.seed).choice(len(rows), asked.points - len(top), replace=False)
    return np.sort(np.concatenate([top, rows[drawn]]))


def _points(look: Look, figures: Figures, rows: tuple[Int64s, Int64s, Sequence[int]], asked: Asked) -> list[Point]:
    """rows: on the map, those whose vectors are there, and those that were asked for, which are on it, too."""
    if asked.map is None:
        return []
    shown = distinct(np.concatenate([rows[0], np.array(rows[2], np.int64)]))
    shown = shown[figures.finite_R[shown]]
    vectors_PD: Tensor = figures.picked_PD[torch.from_numpy(np.searchsorted(rows[1], shown))]
    at_P2 = placed(vectors_PD, figures.spread, asked.map, asked.seed)
    wanted = {*rows[2]}
    kinds = [None] * len(shown) if look.colours is None else look.colours.first(shown)
    return [
        Point(x, y, look.names.label(row), int(look.reads_R[row]), row in wanted, kind)
        for row, (x, y), kind in zip(shown.tolist(), at_P2.tolist(), kinds, strict=True)
    ]


def _write_rows(file: Path, look: Look, figures: Figures) -> None:
    """A line an id in the order of its vocabulary, without those that are beyond the rows of the table, or a row where
    no id is known.
    """
    names = look.names
    rows_K = np.flatnonzero(names.read_R) if names.raw is None else names.rows_K
    fields = [("row", pa.int64()), ("reads", pa.int64()), ("norm", pa.float32()), ("moved", pa.float32())]
    schema = pa.schema([*([] if names.raw is None else [("raw", names.raw.type)]), *fields])
    with pq.ParquetWriter(file, schema) as out:
        for first in range(0, len(rows_K), _ROWS_AT_ONCE):
            there = rows_K[first : first + _ROWS_AT_ONCE] >= 0
            rows = rows_K[first : first + _ROWS_AT_ONCE][there]
            moved = pa.nulls(len(rows), pa.float32()) if figures.moved_R is None else pa.array(figures.moved_R[rows])
            raw = [] if names.raw is None else [names.raw[first : first + len(there)].filter(pa.array(there))]
            numbers = [pa.array(each) for each in (rows, look.reads_R[rows], figures.norm_R[rows])]
            out.write_table(pa.table([*raw, *numbers, moved], schema=schema))
