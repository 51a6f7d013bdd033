"""Every pooling, optimizer, option and sharding on 1, 2 and 4 ranks against plain PyTorch written by hand.

python benchmarks/matrix.py                            # all; writes benchmarks/reports/matrix.md
python benchmarks/matrix.py --sample 40 --seed 1       # some, only printed
"""

import argparse
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import ROOT, measured_at
from tests.distributed import matrix_cases
from tests.distributed.ranks import on_one_rank, run_ranks


def main() -> None:
    """Runs the cases, prints, and writes the report of a whole run. Ends with 1 if a case deviates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="so many cases, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--optimizer", help="the cases of this one alone; only printed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    cases = list(matrix_cases.all_cases())
    if arguments.optimizer:
        cases = [case for case in cases if case.optimizer == arguments.optimizer]
    if arguments.sample:
        cases = random.Random(arguments.seed).sample(cases, arguments.sample)
    found = measure(cases)
    text = report(found, time.monotonic() - started)
    print(text)
    if not arguments.sample and not arguments.optimizer:
        (ROOT / "benchmarks" / "reports" / "matrix.md").write_text(text, encoding="utf-8")
    sys.exit(1 if found.wrong else 0)


class Found:
    """worst: by (optimizer, dtype) the largest deviation. refused: by text. wrong: what deviates too far."""

    def __init__(self) -> None:
        self.cases = 0
        self.worst: dict[tuple[str, str], float] = defaultdict(float)
        self.refused: Counter[str] = Counter()
        self.wrong: list[str] = []


def measure(cases: list[matrix_cases.Case]) -> Found:
    """All cases on all numbers of ranks."""
    found = Found()
    plain = {}
    for world_size in matrix_cases.WORLD_SIZES:
        taken = []
        for case in cases:
            refusals = case.refusals(world_size)
            found.refused.update(refusals[:1])
            taken += [] if refusals else [case]
        answers = (
            [on_one_rank(lambda place, taken=taken: matrix_cases.run_cases(place, taken))]
            if world_size == 1
            else run_ranks(
                matrix_cases.run_cases,
                world_size,
                taken,
                limit_seconds=7200,
                per_host=matrix_cases.PER_HOST[world_size],
            )
        )
        for number, case in enumerate(taken):
            if case.key not in plain:
                plain[case.key] = matrix_cases.train_plain(case)
            far = max(matrix_cases.deviation(of_rank[number], plain[case.key]) for of_rank in answers)
            found.cases += 1
            dtypes = [
                f"{key}={case.table[key]}" for key in ("dtype", "state_dtype", "output_dtype") if key in case.table
            ] + [f"{key}={dtype}" for key, dtype in case.wire.items()]
            where = (case.optimizer, ", ".join(dtypes) or "fp32")
            found.worst[where] = max(found.worst[where], far)
            if not far <= case.tolerance():
                found.wrong.append(f"{case} on {world_size} ranks: {far:.1e}")
    return found


def report(found: Found, seconds: float) -> str:
    """Markdown."""
    tolerances = ", ".join(f"{dtype} {tolerance:g}" for dtype, tolerance in matrix_cases.TOLERANCES.items())
    lines = [
        "# Sharded tables against plain PyTorch",
        "",
        f"`python benchmarks/matrix.py`, {measured_at()}, torch "
        f"{torch.__version__}, one thread a rank; {seconds / 60:.0f} minutes.",
        "",
        f"{found.cases} cases trained for {matrix_cases.STEPS} steps by the real trainer on 1, 2 or 4 ranks (two hosts "
        f"of two) and by hand-written PyTorch in one process; {found.refused.total()} refused at start; "
        f"{len(found.wrong)} deviated. "
        "Largest difference of a weight of the table or of the pooling (losses: ten times as much) that is taken: "
        f"{tolerances}.",
        "",
        "| optimizer | dtypes | largest deviation |",
        "|---|---|---|",
        *(f"| {optimizer} | {dtypes} | {far:.1e} |" for (optimizer, dtypes), far in sorted(found.worst.items())),
        "",
        "Deviated:" if found.wrong else "Nothing deviated.",
        "",
        *(f"- {line}" for line in found.wrong),
        "",
        "Refused:",
        "",
        *(f"- {count} x `{text}`" for text, count in sorted(found.refused.items())),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
