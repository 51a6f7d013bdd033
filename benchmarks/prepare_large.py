"""Prepares a generated log that is larger than the memory it may take: seconds, and the peak memory of the process.

python benchmarks/prepare_large.py --events 100000000 --out benchmarks/reports/prepare_large.md

The log is CSV in order of time: users and items by a power law, so that no two of a user's events stand together. With
--labelled it has ratings, and samples are its events with two histories of 50, as `ml100k_clicks` has them. The
process of `prepare` is watched and ended once it takes more than --gigabytes, as the kernel counts them (VmHWM).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import measured_at

ROWS_AT_ONCE = 1_000_000
USERS_PER_EVENT, ITEMS_PER_EVENT = 0.01, 0.005
SECONDS_PER_EVENT = 0.5
COLUMNS = ("user", "item", "time")
LABELLED_COLUMNS = ("user_id:token", "item_id:token", "timestamp:float", "rating:float")
ATTRIBUTES = ("genres", "year", "gender", "age", "occupation")  # of ml100k_clicks, which the log has not
GIGABYTE = 2**30


def write_log(file: Path, events: int, labelled: bool = False) -> None:
    """user, item, time, and a rating from 1 to 5: ids by a power law, times rising, several events a second."""
    draw = np.random.default_rng(0)
    users, items = max(10, int(events * USERS_PER_EVENT)), max(10, int(events * ITEMS_PER_EVENT))
    names = LABELLED_COLUMNS if labelled else COLUMNS
    schema = pa.schema([(name, pa.int64()) for name in names])
    options = pyarrow.csv.WriteOptions(delimiter="\t" if labelled else ",", quoting_header="none")
    with pyarrow.csv.CSVWriter(file, schema, write_options=options) as writer:
        for start in range(0, events, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, events - start)
            at = np.arange(start, start + count)
            columns = [
                _power_law(draw, users, count) * 7919 % users + 1,
                _power_law(draw, items, count) * 7919 % items + 1,
                1_600_000_000 + (at * SECONDS_PER_EVENT).astype(np.int64),
                *([draw.integers(1, 6, count)] if labelled else []),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _power_law(draw: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Ranks from 0 to size - 1, the chance of which falls about as the square root of the rank."""
    return (draw.random(count) ** 2 * size).astype(np.int64)


def watched(command: list[str], most_bytes: int) -> tuple[float, int]:
    """Seconds and peak bytes of a command, which is ended when it takes more."""
    start, peak = time.monotonic(), 0
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None:
        peak = max(peak, _peak_bytes(process.pid))
        if peak > most_bytes:
            process.kill()
            process.wait()
            sys.exit(f"want at most {most_bytes / GIGABYTE:g} GiB, got {peak / GIGABYTE:.2f}")
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"prepare ended with {process.returncode}")
    return time.monotonic() - start, peak


def _peak_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def check(folder: Path, events: int) -> dict[str, int]:
    """What was written: every event once, and the shape of the files. Reads one column, a row group at a time."""
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    if manifest["layout"] == "LabelledEvents":
        files = {split: sorted((folder / split).glob("*.parquet")) for split in manifest["splits"]}
        rows = {split: sum(pq.read_metadata(file).num_rows for file in files[split]) for split in files}
        assert rows == {split: each["rows"] for split, each in manifest["splits"].items()}, rows
        assert sum(rows.values()) == manifest["counts"]["events"] == events, rows
        return {**manifest["counts"], **{f"rows of {split}": each for split, each in rows.items()}, **manifest["facts"]}
    long = short = groups = 0
    for file in sorted((folder / "test").glob("*.parquet")):
        opened = pq.ParquetFile(file)
        groups += opened.num_row_groups
        long += sum(pa.compute.sum(pa.compute.list_value_length(batch[0])).as_py() for batch in _lists(opened))
    for file in sorted((folder / "train").glob("*.parquet")):
        for batch in _lists(pq.ParquetFile(file)):
            length = pa.compute.list_value_length(batch[0])
            short += pa.compute.sum(length.filter(pa.compute.less(length, 3))).as_py() or 0
    assert manifest["counts"]["events"] == events, manifest["counts"]
    assert long <= events <= long + short, (long, short)
    return {**manifest["counts"], "row groups of test": groups, **manifest["facts"]}


def _lists(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    return file.iter_batches(columns=["items"], batch_size=10_000)


def main() -> None:
    """Generates, prepares, checks, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--memory-limit", default="2GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--labelled", action="store_true")
    parser.add_argument("--work", type=Path, help="a folder with room for the log and what is spilled")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=asked.work, prefix="prepare_large_"))
    try:
        report = _measured(asked, work)
    finally:
        shutil.rmtree(work)
    print(report)
    if asked.out:
        asked.out.write_text(report)


def _measured(asked: argparse.Namespace, work: Path) -> str:
    log, data = work / ("events.inter" if asked.labelled else "events.csv"), work / "data"
    start = time.monotonic()
    write_log(log, asked.events, asked.labelled)
    generated, size = time.monotonic() - start, log.stat().st_size
    limits = [f"prepare.memory_limit={asked.memory_limit}", f"prepare.threads={asked.threads}"]
    words = ["dataset=events", f"dataset.raw={log}"]
    if asked.labelled:  # a folder of RecBole's atomic files
        words = [
            "dataset=ml100k_clicks",
            f"dataset.raw={work}",
            *(f"~dataset.attributes.{name}" for name in ATTRIBUTES),
        ]
    command = [sys.executable, "-m", "sharded_emb.prepare", *words, f"data={data}", *limits]
    seconds, peak = watched(command, int(asked.gigabytes * GIGABYTE))
    counts = check(data, asked.events)
    lines = [
        "# prepare on a log larger than memory",
        "",
        f"`python benchmarks/prepare_large.py --events {asked.events}{' --labelled' if asked.labelled else ''} "
        f"--memory-limit {asked.memory_limit} --threads {asked.threads}`, {measured_at()}",
        "",
        "| | |",
        "|---|---|",
        f"| log | {asked.events:,} events, {size / GIGABYTE:.2f} GiB of CSV, generated in {generated:.0f} s |",
        f"| prepare | {seconds:.0f} s, {asked.events / seconds:,.0f} events/s |",
        f"| peak memory of the process | {peak / GIGABYTE:.2f} GiB, of {asked.gigabytes:g} allowed |",
        *(f"| {name} | {count:,} |" for name, count in counts.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
