"""What a dataset is like, as numbers and as one HTML page: sizes, lengths, popularity, ties, cold items, repeats."""

import html
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sharded_emb.data.bad_rows import SIDE_FILE
from sharded_emb.data.charts import bars, histogram
from sharded_emb.data.columns import RaggedColumn, distinct
from sharded_emb.data.dataset import Dataset, Manifest
from sharded_emb.data.folder import REPORT
from sharded_emb.data.page import page, section, table
from sharded_emb.vocabulary_rows import FIRST_ROW

_ROWS_AT_ONCE = 8192
_LISTS = ("items", "words")
Ints = npt.NDArray[np.int64]


@dataclass
class Seen:
    """Of one split. lengths: how many rows have a list of each length. events: how often each item occurs in the rows;
    targets: how often as what is predicted. repeats: rows in which something occurs twice.
    """

    lengths: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    events: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    targets: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    repeats: int = 0


def look(dataset: Dataset) -> dict[str, Seen]:
    """Reads the splits, some thousand rows at a time."""
    columns = dataset.columns
    lists = next((name for name in _LISTS if name in columns), None)
    single = "item" if "item" in columns else None
    table = next((columns[name].vocabulary for name in (lists, single) if name), None)
    size = dataset.rows(table) if table else 0
    found = {}
    for split in dataset.manifest.splits:
        seen = found[split] = Seen(events=np.zeros(size, np.int64), targets=np.zeros(size, np.int64))
        wanted = [name for name in (lists, single) if name]
        for batch in _batches(dataset, split, wanted):
            if lists:
                _add_lists(seen, RaggedColumn.from_arrow(batch[lists]), as_events=single is None, split=split)
            if single:
                ids = np.bincount(batch[single].to_numpy(), minlength=size)
                seen.events += ids
                seen.targets += ids
    return found


def _batches(dataset: Dataset, split: str, columns: list[str]) -> Iterator[Any]:
    for part in dataset.parts(split):
        for batch in pq.ParquetFile(part).iter_batches(_ROWS_AT_ONCE, columns=columns):
            yield pa.Table.from_batches([batch])


def _add_lists(seen: Seen, rows: RaggedColumn, *, as_events: bool, split: str) -> None:
    lengths = rows.lengths()
    counts = np.bincount(lengths)
    longer, shorter = (counts, seen.lengths) if len(counts) > len(seen.lengths) else (seen.lengths, counts)
    seen.lengths = longer.copy()
    seen.lengths[: len(shorter)] += shorter
    row = np.repeat(np.arange(len(lengths)), lengths)
    size = max(1, len(seen.events))
    pairs = np.sort(row * size + rows.values)
    seen.repeats += len(distinct(pairs[1:][pairs[1:] == pairs[:-1]] // size))
    if as_events:
        seen.events += np.bincount(rows.values, minlength=len(seen.events))
        if split != "train":
            seen.targets += np.bincount(rows.values[rows.offsets[1:][lengths > 0] - 1], minlength=len(seen.events))


def facts(found: dict[str, Seen]) -> dict[str, int]:
    """What the manifest keeps of it. cold: without an event in train."""
    if "train" not in found or not len(found["train"].events):
        return {}
    warm = found["train"].events > 0
    numbers = {"cold_items": int((~warm[FIRST_ROW:]).sum())}
    for split, seen in found.items():
        if split != "train":
            numbers[f"cold_targets_in_{split}"] = int(seen.targets[~warm].sum())
        numbers[f"rows_with_repeats_in_{split}"] = seen.repeats
    return numbers


def write(folder: Path, manifest: Manifest, found: dict[str, Seen], counts: Ints) -> None:
    """report.html, a page that needs nothing else. counts: of the items' events."""
    parts = [
        f"<h1>{html.escape(manifest.layout)}</h1><p>{html.escape(manifest.split)}</p>",
        _table("Sizes", {**manifest.counts, **{f"rows of {n}": s.rows for n, s in manifest.splits.items()}}),
        _table("Rows of vocabularies, with padding", {n: v.rows for n, v in manifest.vocabularies.items()}),
        _table("Counted", manifest.facts),
        _table(f"Malformed rows left out ({SIDE_FILE})", manifest.bad_rows),
        _table("Raw files (bytes)", {each.name: each.size_bytes for each in manifest.source}),
    ]
    for split, seen in found.items():
        if seen.lengths.sum():
            lengths = np.arange(len(seen.lengths))
            middle = f"mean {_mean(seen.lengths):.1f}, median {_median(seen.lengths)}, most {lengths[-1]}"
            title = f"Lengths in {split}: {middle}"
            parts.append(section(title, bars(*histogram(lengths, seen.lengths), "length", "rows")))
    if counts.sum():
        ordered = np.sort(counts)[::-1]
        top = max(1, len(ordered) // 100)
        share = ordered[:top].sum() / ordered.sum()
        title = f"Popularity: the most frequent {top:,} of {len(ordered):,} items have {share:.1%} of the events"
        values, times = np.unique(counts, return_counts=True)
        parts.append(section(title, bars(*histogram(values, times), "events of an item", "items")))
    (folder / REPORT).write_text(page("Dataset", parts), encoding="utf-8")


def _mean(lengths: Ints) -> float:
    return float((np.arange(len(lengths)) * lengths).sum() / lengths.sum())


def _median(lengths: Ints) -> int:
    return int(np.searchsorted(np.cumsum(lengths), lengths.sum() / 2))


def _table(title: str, numbers: dict[str, int]) -> str:
    return section(title, table([(name.replace("_", " "), f"{number:,}") for name, number in numbers.items()]))
