"""Runs of two ranks killed at random moments and resumed until they are done: are they bitwise the straight ones?

python benchmarks/chaos.py                       # 30 runs; writes benchmarks/reports/chaos.md
python benchmarks/chaos.py --runs 3 --seed 7     # some, only printed
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import ROOT, measured_at
from tests.distributed import chaos_cases
from tests.distributed.next_item_data import write_dataset

RUNS = 30


def main() -> None:
    """Runs, prints, and writes the report of a whole sitting. Ends with 1 if a run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seed", type=int, default=0, help="of the first; each takes the next")
    arguments = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_dataset(data)
        seeds = range(arguments.seed, arguments.seed + arguments.runs)
        found = chaos_cases.chaos(data, Path(folder), seeds, list(chaos_cases.CONFIGS))
    text = report(found, time.monotonic() - started)
    print(text)
    if arguments.runs == RUNS:
        (ROOT / "benchmarks" / "reports" / "chaos.md").write_text(text, encoding="utf-8")
    sys.exit(1 if any(outcome.differing for outcome in found) else 0)


def report(found: Sequence[chaos_cases.Outcome], seconds: float) -> str:
    """What the report file holds."""
    phases = sum((outcome.killed for outcome in found), Counter())
    wrong = [outcome for outcome in found if outcome.differing]
    return "\n".join(
        [
            "# Chaos",
            "",
            f"`python benchmarks/chaos.py`, {measured_at()}, one thread a rank; {seconds / 60:.0f} minutes.",
            "",
            f"{len(found)} runs on {chaos_cases.RANKS} ranks, started {sum(o.starts for o in found)} times and killed "
            f"{sum(phases.values())} times by SIGKILL. {len(wrong)} differ by a bit from the straight run: tables, "
            "optimizer states, dense weights, random states, position, early stopping, metrics.jsonl and result.json. "
            f"Ranks whose peer was killed ended after {max(o.slowest_end for o in found):.1f} s at the latest.",
            "",
            "| killed while the first rank was | one rank | all ranks |",
            "|---|---|---|",
            *(
                f"| {phase} | {phases[phase, 'one']} | {phases[phase, 'all']} |"
                for phase in sorted({phase for phase, _ in phases})
            ),
            "",
            "| runs | starts | kills | differ |",
            "|---|---|---|---|",
            *(_of_config(config, found) for config in chaos_cases.CONFIGS),
            "",
            *(f"- {outcome}" for outcome in wrong),
        ]
    )


def _of_config(config: str, found: Sequence[chaos_cases.Outcome]) -> str:
    mine = [outcome for outcome in found if outcome.config == config]
    kills = sum(sum(outcome.killed.values()) for outcome in mine)
    differ = sum(bool(outcome.differing) for outcome in mine)
    return f"| {len(mine)} x {config} | {sum(outcome.starts for outcome in mine)} | {kills} | {differ} |"


if __name__ == "__main__":
    main()
