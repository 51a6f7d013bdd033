"""Sequence models on a GPU: 10 million items, histories of 1,024 and 4,096 events, beside padded plain PyTorch.

    python benchmarks/gpu_models.py [--report FILE] [--items 10000000] [--lengths 1024 4096]

Generated histories, of an eighth of the length to all of it, and 512 shared negatives. Ours reads them from Parquet and
trains as a run does. Plain PyTorch is given the same batches on the device and the same model, whose rows it pads to
the longest, with nn.Embedding of sparse gradients and SGD for it. Milliseconds of a step from an idle device to an idle
device, medians of interleaved turns. Padding is no event. FLOPs are those of the model: six an event and weight of a
linear layer, and six times length and dim for each event's attention to those before it (forward and backward, a causal
half of two products each); lookups and losses count nothing.
"""

import argparse
import gc
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sharded_emb
from benchmarks.machine import measured_at, seconds, tell
from sharded_emb.batch import Batch, Embedded, Jagged
from sharded_emb.config.build import Built
from sharded_emb.config.session import joined
from sharded_emb.data.dataset import Column, Manifest, SplitInfo, write_manifest
from sharded_emb.data.source import Share
from sharded_emb.layers import layout
from sharded_emb.training.feed import Fed, Feed
from sharded_emb.training.step import Learner

DIM, BLOCKS, HEADS, HIDDEN = 128, 2, 2, 512
STEPS, TURNS, BATCHES, EPOCH = 4, 5, 6, 64
FIRST_ITEM = 2
COLUMNS = [
    *("model", "length", "dtype", "rows", "events a step", "ours ms", "plain ms", "plain / ours"),
    *("ours, million events/s", "ours, TFLOP/s", "of the product", "ours GB", "plain GB"),
]


@dataclass(frozen=True)
class Case:
    """What is trained: model (`timed_hstu` is HSTU that is told when events were), longest history, and dtype of the
    dense part; events of a batch.
    """

    model: str
    length: int
    dtype: str
    events: int

    @property
    def rows(self) -> int:
        """Of a batch: as many events on average, whatever the length."""
        return max(1, round(self.events / (self.length * 9 / 16)))


def generate(folder: Path, length: int, items: int, rows: int) -> None:
    """A dataset of rows of events, as uneven as items are."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(length // 8, length + 1, rows)
    ids = (items ** draw.random(lengths.sum())).astype(np.int64).clip(FIRST_ITEM, items - 1)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    gaps = np.exp(16 * draw.random(lengths.sum())).astype(np.int64)  # from a second to a hundred days
    columns = {"items": ids, "times": gaps.cumsum()}
    table = pa.table({name: pa.ListArray.from_arrays(pa.array(offsets), pa.array(c)) for name, c in columns.items()})
    for split in ("train", "valid", "test"):
        (folder / split).mkdir(parents=True)
        pq.write_table(table, folder / split / "part-00000.parquet")
    manifest = Manifest(
        schema_version=1,
        layout="NextItem",
        split="none",
        columns={name: Column(type="list<int64>") for name in columns},
        splits={split: SplitInfo(rows=rows, parts=1) for split in ("train", "valid", "test")},
        counts={"events": int(lengths.sum())},
        vocabularies={},
        built_over="all events",
        source=[],
        seed=0,
        dataset={},
    )
    write_manifest(folder, manifest)


def config_of(case: Case, folder: Path, items: int, device: str) -> Any:
    """Of a run."""
    timed, model = case.model.startswith("timed"), case.model.removeprefix("timed_")
    return sharded_emb.compose(
        f"model={model}",
        *(["features.history.pooling={_target_: none, times: times}"] if timed else []),
        f"model.blocks={BLOCKS}",
        f"model.heads={HEADS}",
        *([] if model == "hstu" else [f"model.hidden={HIDDEN}"]),
        f"features.history.max_length={case.length}",
        f"tables.item.rows={items}",
        f"tables.item.dim={DIM}",
        f"global_batch={case.rows}",
        f"dense.dtype={case.dtype}",
        f"data={folder}",
        f"device={device}",
    )


class Plain(nn.Module):
    """A table of plain PyTorch, the model and the loss."""

    def __init__(self, built: Built) -> None:
        super().__init__()
        self.half = built.config.dense.dtype == "bf16"
        (table,) = built.held
        self.table = nn.Embedding(table.rows, table.dim, sparse=True, device=built.place.device)
        nn.init.normal_(self.table.weight, std=0.02)
        self.model, self.loss = built.config.model.build(built.tables), built._loss()
        self.to(built.place.device)

    def forward(self, batch: Batch) -> Tensor:
        """The sum of the losses."""
        read = {name: batch.ids[name] for name in batch.ids.keys()}  # noqa: SIM118 (no mapping)
        sequences = {
            name: Jagged(
                self.table(ids.values()),
                ids.values(),
                ids.lengths().long(),
                batch.extents[name],
                batch.numbers.get(name),
            )
            for name, ids in read.items()
        }
        with torch.autocast(self.table.weight.device.type, dtype=torch.bfloat16, enabled=self.half):
            output = self.model(Embedded({}, sequences))
        vectors = {name: getattr(output, name).float() for name in ("states_SD", "positives_SD", "candidates_KD")}
        found: Tensor = self.loss(replace(output, **vectors), batch)
        return found


def plain(built: Built, batches: list[Fed]) -> Callable[[int], None]:
    """A step of it."""
    module = Plain(built)
    tables = torch.optim.SGD(module.table.parameters(), lr=0.01)
    dense = torch.optim.AdamW(module.model.parameters(), lr=1e-3, fused=True)

    def step(number: int) -> None:
        fed = batches[number % len(batches)]
        with mock.patch.object(layout, "Packed", layout.PaddedRows):  # on a GPU, too
            loss = module(fed.pieces[0]) / fed.loss_weight
            loss.backward()
        for optimizer in (tables, dense):
            optimizer.step()
            optimizer.zero_grad()

    return step


def ours(built: Built, fed: Iterator[Fed]) -> Callable[[int], None]:
    """A step of it, with its batch from Parquet."""
    learner = Learner(built.sharded, built.dense, built.config.schedule)

    def step(number: int) -> None:
        read = next(fed)
        learner.step(read.pieces, read.loss_weight, number + 1)

    return step


def endless(built: Built) -> Iterator[Fed]:
    """Batches of one epoch after the other."""
    feed = Feed(built.source(), built.collate(), Share(0, 1), built.place.device, built.config.prefetch)
    for epoch in range(1_000_000):
        yield from feed.epoch(epoch, 0, 1)


def flops(built: Built, lengths: np.ndarray) -> float:
    """Of a step of these rows, forward and backward."""
    linear = sum(m.weight.numel() for m in built.sharded.plain.modules() if isinstance(m, nn.Linear))
    inputs = lengths - 1  # the last event is only predicted
    return float(6 * linear * inputs.sum() + 6 * BLOCKS * DIM * (inputs.astype(float) ** 2).sum())


def measured(case: Case, items: int, device: str) -> dict[str, Any]:
    """Milliseconds of a step of both, None where memory did not do, and what a step has to compute."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder, "data"), case.length, items, case.rows * EPOCH)
        config = config_of(case, Path(folder, "data"), items, device)
        with joined(config) as place:
            built = Built(config, place)
            batches = list(islice(endless(built), BATCHES))
            lengths = np.concatenate([fed.pieces[0].ids["history"].lengths().cpu().numpy() for fed in batches])
            works = {"ours": ours(built, endless(built)), "plain": plain(built, batches)}
            times: dict[str, list[float]] = {name: [] for name in works}
            peaks = dict.fromkeys(works, 0)
            for turn in range(-1, TURNS):
                for name in [*works]:
                    if place.device.type == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    try:
                        start = seconds(device)
                        for step in range(STEPS):
                            works[name](STEPS * (turn + 1) + step)
                        took = (seconds(device) - start) / STEPS
                    except torch.OutOfMemoryError:
                        del works[name], times[name]
                        continue
                    if turn >= 0:
                        times[name].append(1e3 * took)
                    if place.device.type == "cuda":
                        peaks[name] = max(
                            peaks[name], torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
                        )
            found = {
                "events": float(lengths.sum() / BATCHES),
                "flops": flops(built, lengths) / BATCHES,
                "ms": {name: statistics.median(each) for name, each in times.items()},
                "activations": peaks,
            }
    del built, works, batches
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return found


def matmul_rate(device: str) -> float:
    """FLOP/s of a large product in bf16."""
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    start = seconds(device)
    for _ in range(10):
        a @ b
    return 10 * 2 * size**3 / (seconds(device) - start)


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--events", type=int, default=131_072, help="of a batch")
    parser.add_argument("--lengths", type=int, nargs="*", default=[1024, 4096])
    parser.add_argument("--models", nargs="*", default=["sasrec", "hstu", "timed_hstu"])
    parser.add_argument("--dtypes", nargs="*", default=["bf16", "fp32"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    options = parser.parse_args()
    rate = matmul_rate(options.device)
    lines = [
        "# Sequence models on a GPU",
        "",
        f"`python {' '.join(sys.argv)}`, {measured_at(options.device)}, torch {torch.__version__};",
        f"{options.items:,} items of dim {DIM}, {BLOCKS} blocks, {HEADS} heads; a product of 8,192 squared in bf16",
        f"runs at {rate / 1e12:.0f} TFLOP/s here. Histories of an eighth of the length to all of it; GB are what a",
        "step needs beside weights, at most.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    print("\n".join(lines), flush=True)
    for length in options.lengths:
        for name in options.models:
            for dtype in options.dtypes:
                case = Case(name, length, dtype, options.events)
                found = measured(case, options.items, options.device)
                ms, plain_ms = found["ms"]["ours"], found["ms"].get("plain")
                speed = found["flops"] / ms * 1e3
                of_plain = ["no memory", ""] if plain_ms is None else [f"{plain_ms:.1f}", f"{plain_ms / ms:.2f}"]
                cells = [
                    name, length, dtype, case.rows, f"{found['events']:,.0f}", f"{ms:.1f}", *of_plain,
                    f"{found['events'] / ms / 1e3:.2f}", f"{speed / 1e12:.1f}", f"{speed / rate:.1%}",
                    *(f"{found['activations'][each] / 1e9:.1f}" for each in ("ours", "plain")),
                ]  # fmt: skip
                lines.append(f"| {' | '.join(map(str, cells))} |")
                print(lines[-1], flush=True)
                if options.report is not None:
                    tell(lines, options.report)


if __name__ == "__main__":
    main()
