"""Samples a second of whole experiments on a GPU, from Parquet to moved weights, and how busy the device is.

    python benchmarks/gpu_experiments.py dlrm_ml100k=data/ml din_ml100k=data/ml [--batches 1024 16384] [--report FILE]
    python benchmarks/gpu_experiments.py sasrec_beauty=data/beauty --beside dense.dtype=tf32 dense.compile=true

Each experiment trains on its prepared data as a run does, for some epochs after a first one; only the batch is another.
Beside: words of configs, each tried alone after the experiment as it is, as often as there are turns.
Busy: the time of all kernels of some steps, as torch's profiler has it, of the time that those steps take.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sharded_emb
from benchmarks.gpu_models import endless
from benchmarks.machine import measured_at, tell
from sharded_emb.config.build import Built
from sharded_emb.config.session import joined
from sharded_emb.training.step import Learner

SECONDS, WATCHED = 3.0, 5
WARM = 20  # steps: one that compiles takes longer than the seconds


def measured(name: str, data: Path, batch: int, device: str, *more: str) -> dict[str, Any]:
    """Samples a second, milliseconds of a step, and of them those of kernels."""
    config = sharded_emb.compose(
        f"experiment={name}", f"data={data}", f"global_batch={batch}", f"device={device}", *more
    )
    with joined(config) as place:
        built = Built(config, place)
        learner, batches, steps = Learner(built.sharded, built.dense, config.schedule), endless(built), 0

        def train(seconds: float, least: int = 0, most: int = 1_000_000) -> int:
            nonlocal steps
            samples, begin, until = 0, steps, time.perf_counter() + seconds
            while (time.perf_counter() < until or steps - begin < least) and steps - begin < most:
                fed = next(batches)
                steps += 1
                learner.step(fed.pieces, fed.loss_weight or 1.0, steps)
                samples += fed.samples
            if place.device.type == "cuda":
                torch.cuda.synchronize()
            return samples

        train(SECONDS, least=WARM)
        start, before = time.perf_counter(), steps
        samples = train(SECONDS, least=1)
        took, done = time.perf_counter() - start, steps - before
        kinds = [ProfilerActivity.CUDA if place.device.type == "cuda" else ProfilerActivity.CPU]
        with profile(activities=kinds) as watched:
            train(SECONDS, least=WATCHED, most=WATCHED)
    # operators and named ranges have the time of their kernels once more
    kernels = [
        each for each in watched.key_averages() if each.device_type.name == "CUDA" and not each.is_user_annotation
    ]
    busy = sum(kernel.self_device_time_total for kernel in kernels) * 1e-6 / WATCHED
    return {"samples": samples / took, "ms": 1e3 * took / done, "busy": busy * done / took}


def row(name: str, batch: int, found: list[dict[str, Any]]) -> str:
    """Of the report: the medians of what was found."""
    samples, ms, busy = (median(each[key] for each in found) for key in ("samples", "ms", "busy"))
    return f"| {name} | {batch:,} | {samples:,.0f} | {ms:.1f} | {busy:.0%} |"


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--batches", type=int, nargs="*", default=[1024, 16384])
    parser.add_argument("--beside", nargs="*", default=[], metavar="WORD")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    options = parser.parse_args()
    lines = [
        "# Experiments on a GPU",
        "",
        f"`python {' '.join(sys.argv)}`, {measured_at(options.device)}, torch {torch.__version__}.",
        *([f"Medians of {options.turns} turns."] if options.turns > 1 else []),
        "",
        "| experiment | batch | samples a second | ms a step | busy |",
        "|---|---|---|---|---|",
    ]
    for each in options.experiments:
        name, _, data = each.partition("=")
        for batch in options.batches:
            ways: dict[str, list[dict[str, Any]]] = {word: [] for word in ("", *options.beside)}
            for _ in range(options.turns):
                for word, found in ways.items():
                    found.append(measured(name, Path(data), batch, options.device, *word.split()))
                    rows = [row(f"{name} {each}".strip(), batch, ways[each]) for each in ways if ways[each]]
                    tell([*lines, *rows], options.report)  # what is cut off has said what it had
            lines += rows


if __name__ == "__main__":
    main()
