"""From Parquet to `Batch` on one core, beside a bare read of the same columns and a DataLoader over Python lists.

    python benchmarks/data_speed.py [--rows 200000] [--report FILE]

Two generated splits: sequences of 3 to 60 events, and clicks of four numbers, a list of up to 5 and a label; ids are as
uneven as those of items. An epoch is shuffled over the whole split, as a run of one rank has it, without prefetching:
all work is in the one thread that is timed. CPU seconds, so that busy cores do not count; medians of interleaved turns.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import measured_at, tell
from sharded_emb.data.collate import Collate
from sharded_emb.data.columns import Int64s
from sharded_emb.data.dataset import Column, Dataset, Manifest, SplitInfo, write_manifest
from sharded_emb.data.flat import FlatCopy
from sharded_emb.data.folder import write_split
from sharded_emb.data.prefetch import NONE
from sharded_emb.data.source import BatchesConfig, Measures, Share, Source
from sharded_emb.data.task import Label, Reading
from sharded_emb.data.window import LengthsOf
from sharded_emb.training.feed import Feed
from tests.tables import make_feature, make_table

ITEMS, TURNS, LISTED = 1_000_000, 5, 50_000
SIZES = (128, 1024, 8192)


@dataclass(frozen=True)
class Case:
    """A split and how it is read."""

    name: str
    columns: dict[str, pa.Array]
    reading: Reading

    def write(self, folder: Path) -> Dataset:
        """A dataset folder with this one split."""
        (folder / "vocabulary").mkdir(parents=True)
        types = {"list<item: int64>": "list<int64>", "list<element: int64>": "list<int64>", "float": "float32"}
        columns = {
            name: Column.model_validate({"type": types.get(str(array.type), str(array.type))})
            for name, array in self.columns.items()
        }
        info = write_split(folder / "train", [pa.table(self.columns)], columns)
        write_manifest(folder, manifest(columns, info))
        return Dataset.open(folder)


def manifest(columns: dict[str, Column], info: SplitInfo) -> Manifest:
    """Of a folder without vocabularies."""
    values: dict[str, Any] = {
        "schema_version": 1,
        "layout": "Generated",
        "split": "none",
        "counts": {},
        "vocabularies": {},
        "built_over": "",
        "source": [],
        "seed": 0,
        "dataset": {},
    }
    return Manifest(**values, columns=columns, splits={"train": info})


def cases(rows: int) -> list[Case]:
    """The two splits."""
    draw = np.random.default_rng(0)

    def ids(count: int) -> Int64s:
        return (ITEMS ** draw.random(count)).astype(np.int64) + 1

    def lists(shortest: int, longest: int) -> pa.Array:
        ends = np.concatenate([[0], np.cumsum(draw.integers(shortest, longest + 1, rows))])
        return pa.ListArray.from_arrays(ends.astype(np.int32), ids(int(ends[-1])))

    history = make_table("item", ITEMS + 2, 8, make_feature("items", "item"))
    sequences = Case(
        "sequences", {"items": lists(3, 60)}, Reading(task="next_item", tables=[history], sequence="items")
    )
    numbers: dict[str, pa.Array] = {name: pa.array(ids(rows)) for name in ("user", "item", "city", "device")}
    label = pa.array(draw.integers(0, 2, rows).astype(np.float32))
    columns = {**numbers, "genres": lists(1, 5), "label": label}
    tables = [make_table(name, ITEMS + 2, 8, make_feature(name, name, pooling="sum")) for name in (*numbers, "genres")]
    return [sequences, Case("clicks", columns, Reading(task="binary", tables=tables, labels=[Label("label")]))]


def events(case: Case) -> int:
    """All ids of a split."""
    return sum(len(array.flatten()) if pa.types.is_list(array.type) else len(array) for array in case.columns.values())


def epoch(dataset: Dataset, case: Case, size: int) -> int:
    """The samples of an epoch, each made part of a batch."""
    split = FlatCopy(dataset).split("train")
    lengths, measures = LengthsOf(split, case.reading.events()), Measures(split.row_bytes)
    source = Source(lengths, BatchesConfig(), size, 0, measures)
    feed = Feed(source, Collate(split, case.reading, 0), Share(0, 1), torch.device("cpu"), NONE)
    return sum(piece.samples for fed in feed.epoch(0, 0, 1) for piece in fed.pieces)


def bare(dataset: Dataset, case: Case) -> None:
    """The same columns, row group by row group."""
    for part in dataset.parts("train"):
        for batch in pq.ParquetFile(part, memory_map=True).iter_batches(
            65_536, columns=[*case.columns], use_threads=False
        ):
            assert batch.num_rows


def plain(samples: list[dict[str, Any]], size: int) -> None:
    """As it is usually written."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, first in rows[0].items():
            if isinstance(first, list):
                found[name] = torch.tensor([value for row in rows for value in row[name]])
                found[f"{name}_lengths"] = torch.tensor([len(row[name]) for row in rows])
            else:
                found[name] = torch.tensor([row[name] for row in rows])
        return found

    for _ in DataLoader(samples, size, shuffle=True, collate_fn=collate):
        pass


def seconds(work: Callable[[], object]) -> float:
    """Of the CPU."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measured(case: Case, rows: int, folder: Path) -> list[str]:
    """Lines of the report."""
    dataset = case.write(folder)
    copy = seconds(lambda: FlatCopy(dataset).split("train"))
    samples = pa.table(case.columns).slice(0, LISTED).to_pylist()
    works: dict[str, Callable[[], object]] = {"a bare pyarrow read": lambda: bare(dataset, case)}
    for size in SIZES:
        works[f"batches of {size:,}"] = partial(epoch, dataset, case, size)
        works[f"a DataLoader, {size:,}"] = partial(plain, samples, size)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(TURNS):
        for name, work in works.items():
            times[name].append(seconds(work) * (rows / len(samples) if "DataLoader" in name else 1))
    medians = {name: statistics.median(each) for name, each in times.items()}
    read = medians["a bare pyarrow read"]
    lines = [
        f"\n## {case.name}: {rows:,} rows, {events(case):,} ids and labels\n",
        "| | samples/s | events/s | of the bare read | times the DataLoader |",
        "|---|---|---|---|---|",
    ]
    for name, took in medians.items():
        beside = medians.get(name.replace("batches of", "a DataLoader,")) if "batches" in name else None
        times_plain = f"{beside / took:.0f}" if beside else ""
        lines.append(
            f"| {name} | {rows / took:,.0f} | {events(case) / took:,.0f} | {read / took:.0%} | {times_plain} |"
        )
    lines.append(f"\nThe flat copy, made once: {copy:.2f} s of the CPU, {copy / read:.1f} times a bare read.")
    return lines


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    lines = [
        "# From Parquet to batches",
        "",
        f"`python {' '.join(sys.argv)}`, {measured_at()}, "
        f"one thread, torch {torch.__version__}, pyarrow {pa.__version__}; CPU seconds, medians of {TURNS} "
        "turns.",
    ]
    for case in cases(options.rows):
        with tempfile.TemporaryDirectory() as folder:
            lines += measured(case, options.rows, Path(folder) / "data")
    tell(lines, options.report)


if __name__ == "__main__":
    main()
