"""Saving and loading a large table beside `dd` on the same disk, and how long training waits for a save.

python benchmarks/checkpoint_speed.py                    # 4 GB; writes benchmarks/reports/checkpoint_speed.md
python benchmarks/checkpoint_speed.py --gigabytes 0.5    # only printed
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import ROOT, measured_at
from sharded_emb.config.build import Built
from sharded_emb.distributed.process_group import Place, process_group
from sharded_emb.training import checkpoint_entries as entries
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.checkpoint_config import CheckpointConfig
from tests.distributed.driven import train_steps
from tests.distributed.next_item_config import config
from tests.distributed.next_item_data import write_dataset

WHOLE_GB, DIM, TURNS = 4.0, 64, 3
SAID = {
    "dd write": "`dd conv=fsync` of as many bytes",
    "save": "a save, with checksums",
    "dd read": "`dd` of those, not in the page cache",
    "load": "a load, with checksums, not in the page cache",
    "copy": "a plain copy of all tensors into memory that is there",
    "pause": "training waits for an asynchronous save",
    "background": "that save until it is on the disk",
}


def main() -> None:
    """Measures in turns, prints, and writes the report of the whole size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=WHOLE_GB)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; null for that of temporary files")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name, process_group("cpu") as place:
        found = measure(place, Path(name), arguments.gigabytes)
    text = report(found, arguments.gigabytes)
    print(text)
    if arguments.gigabytes == WHOLE_GB:
        (ROOT / "benchmarks" / "reports" / "checkpoint_speed.md").write_text(text, encoding="utf-8")


def measure(place: Place, folder: Path, gigabytes: float) -> dict[str, float]:
    """Median seconds of each."""
    write_dataset(folder / "data")
    rows = int(gigabytes * 1e9 / (4 * DIM))
    tables = {"item": {"dim": DIM}, "big": {"rows": rows, "dim": DIM, "ids": "hash", "init": {"_target_": "zeros"}}}
    features = {
        "history": {"table": "item", "column": "items", "max_length": 6},
        "big": {"table": "big", "column": "items", "max_length": 6},
    }
    optimizer = {"_target_": "rowwise_adagrad", "lr": 0.1}
    model = {"_target_": "sharded_emb.models.sasrec.SASRec", "blocks": 1, "hidden": DIM, "beside": ["big"]}
    more = {"tables": tables, "features": features, "embedding_optimizer": optimizer, "model": model}
    run = config(folder / "data", "table_wise", "sampled", **more)
    built = Built(run, place)
    train_steps(built, 1)
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable[[], object]) -> None:
        started = time.monotonic()
        work()
        seconds[name].append(time.monotonic() - started)

    waiting, background = (Checkpoints(folder / n, place, {}, CheckpointConfig(asynchronous=n == "b")) for n in "ab")
    tensors = [t for each in entries.everything(built.sharded, built.dense).values() for t in entries.local(each)]
    background.save(built.sharded, built.dense, 1, best=False)
    background.wait()
    assert background.background is not None
    memory = background.background.copies.memory()  # that of the first save, which all later ones use
    for turn in range(TURNS):
        zeros = folder / "zeros"
        megabytes = sum(t.numel() * t.element_size() for t in tensors) // 1_000_000
        dd = ["dd", f"of={zeros}", "if=/dev/zero", "bs=1MB", f"count={megabytes}", "conv=fsync", "status=none"]
        timed("dd write", lambda dd=dd: subprocess.run(dd, check=True))
        timed("save", lambda turn=turn: waiting.save(built.sharded, built.dense, turn + 2, best=False))
        _forget(zeros)
        dd = ["dd", f"if={zeros}", "of=/dev/null", "bs=1MB", "status=none"]
        timed("dd read", lambda dd=dd: subprocess.run(dd, check=True))
        zeros.unlink()
        newest = waiting.newest()
        for file in newest.iterdir():
            _forget(file)
        timed("load", lambda newest=newest: waiting.load(built.sharded, built.dense, newest))
        timed("copy", lambda: [kept.copy_(each) for kept, each in zip(memory, tensors, strict=True)])
        timed("pause", lambda turn=turn: background.save(built.sharded, built.dense, turn + 2, best=False))
        started = time.monotonic() - seconds["pause"][-1]
        background.wait()
        seconds["background"].append(time.monotonic() - started)
        for run in "ab":
            for old in (folder / run / "checkpoints").glob(f"step-{turn + 1}"):
                shutil.rmtree(old)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _forget(file: Path) -> None:
    """Out of the page cache, so that it is read from the disk."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(found: Mapping[str, float], gigabytes: float) -> str:
    """What the report file holds."""
    beside = {"save": "dd write", "load": "dd read", "pause": "copy", "background": "dd write"}
    rows = []
    for name, said in SAID.items():
        times = f"{found[name] / found[beside[name]]:.2f} x {beside[name]}" if name in beside else ""
        rows.append(f"| {said} | {found[name]:.2f} | {gigabytes / found[name]:.2f} | {times} |")
    return "\n".join(
        [
            "# Saving and loading",
            "",
            f"`python benchmarks/checkpoint_speed.py --gigabytes {gigabytes:g}`, {measured_at()}, "
            f"one process, one thread, table of "
            f"{gigabytes:g} GB (dim {DIM}) with row-wise Adagrad; medians of {TURNS} turns.",
            "",
            "| | seconds | GB/s | |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
