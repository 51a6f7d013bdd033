"""All that wants a GPU, in one process, what was missed the most first: for a card that is lent for minutes.

    python benchmarks/gpu.py OUT --beauty data/beauty --clicks data/ml [--seconds 600] [--only run tests ...]
    python benchmarks/gpu.py OUT --beauty data/beauty --clicks data/ml --device cpu        # tries the script itself

beauty: prepared for `sasrec_beauty`; clicks: for `din_ml100k`. A run from its config to its result, the tests marked
gpu, and reports of other benchmarks, each written to OUT as soon as it is there. What fails says so and does not end
the rest; nothing begins after the given seconds. Rows of tables are drawn on the device: a run's own first values take
the host of a rented card longer than all that is measured.
"""

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sharded_emb
from benchmarks import embedding
from sharded_emb.config import build
from sharded_emb.distributed.shard import Sharded

STEPS = {"cpu": 3, "cuda": 400}


@torch.no_grad()
def drawn(sharded: Sharded, seed: int, draw: bool = True) -> None:
    """In place of `fill`; optimizer states stay what they are."""
    if not draw:
        return
    torch.manual_seed(seed)
    for part in sharded.shards():
        part.values_RC.normal_(std=0.02)


def run(options: argparse.Namespace) -> None:
    """A run, and the evaluation of its checkpoint."""
    folder = options.out / "run"
    words = [f"data={options.beauty}", f"run={folder}", f"device={options.device}", f"steps={STEPS[options.device]}"]
    outcome = sharded_emb.train(sharded_emb.compose("experiment=sasrec_beauty", *words))
    again = sharded_emb.evaluate(outcome.path, "split=test", f"device={options.device}")
    print(outcome.status, outcome.metrics["test"], again["test"] == outcome.metrics["test"], flush=True)


def tests(_: argparse.Namespace) -> None:
    """Those marked gpu; a CPU skips them."""
    code = pytest.main(["-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"])
    print(f"pytest: {code!r}", flush=True)


def benchmark(name: str, *arguments: str, report: str = "") -> Callable[[argparse.Namespace], None]:
    """A command of this folder, with a report, of its own name where none is given."""

    def work(options: argparse.Namespace) -> None:
        words = [f"benchmarks/{name}.py", *arguments, "--report", str(options.out / f"{report or name}.md")]
        command = importlib.import_module(f"benchmarks.{name}")
        with ExitStack() as patched:
            patched.enter_context(mock.patch.object(sys, "argv", words))
            for module in (build, embedding):
                patched.enter_context(mock.patch.object(module, "fill", drawn))
            command.main()

    return work


def parts(options: argparse.Namespace) -> dict[str, Callable[[argparse.Namespace], Any]]:
    """By name, in their order."""
    on = ("--device", options.device)
    small = options.device == "cpu"
    clicks = [f"{name}={options.clicks}" for name in ("dlrm_ml100k", "din_ml100k")]
    sizes = ("--items", "1000", "--lengths", "16", "--events", "500", "--dtypes", "fp32") if small else ()
    batches = ("--batches", "64" if small else "16384")
    dense = ("--batches", "128", "--beside", "dense.dtype=tf32", "dense.dtype=bf16", "dense.compile=true")
    if small:  # where there is no TF32, and compiling takes a minute
        dense = ("--batches", "8", "--beside", "dense.dtype=bf16")
    found = {
        "run": run,
        "tests": tests,
        "gpu_models": benchmark("gpu_models", *on, *sizes),
        "gpu_experiments": benchmark("gpu_experiments", *clicks, *on, *batches),
        "dense": benchmark("gpu_experiments", f"sasrec_beauty={options.beauty}", *on, *dense, report="gpu_dense"),
        "step": benchmark("step", "none", *on, "--data", str(options.beauty)),
        "embedding": benchmark("embedding", *on, *(("--only", "32x1") if small else ())),
    }
    return found if small else {**found, "gpu_lookup": benchmark("gpu_lookup")}


def main() -> None:
    """Runs them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--beauty", type=Path, required=True)
    parser.add_argument("--clicks", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--device", choices=STEPS, default="cuda")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    start = time.monotonic()
    for name, work in parts(options).items():
        before = time.monotonic() - start
        if options.only and name not in options.only:
            continue
        if before > options.seconds:
            print(f"gpu: {name}: no time left", flush=True)
            continue
        try:
            work(options)
        except (Exception, SystemExit):
            traceback.print_exc()
        print(f"gpu: {name}: {time.monotonic() - start - before:.0f} s", flush=True)


if __name__ == "__main__":
    main()
