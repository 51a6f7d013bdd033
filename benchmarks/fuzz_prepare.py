"""Damaged inputs for `prepare`: each has to end in a dataset without a wrong row, or in an error that names its key.

python benchmarks/fuzz_prepare.py --cases 10000 --processes 2 --out benchmarks/reports/fuzz_prepare.md

A case is a good log of some format and one to three kinds of damage, all by the case's number: it can be repeated alone
with --first NUMBER --cases 1. Every good row has an item of its own, so what is in the dataset can be compared with
what was written: a row that was not damaged may be missing (what a broken quote swallows), and then has to be counted;
a row that nobody wrote is a wrong row.
"""

import argparse
import collections
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.damage import Case, make_case
from benchmarks.machine import measured_at
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.prepare import prepare
from sharded_emb.data.work import EngineConfig, How
from sharded_emb.errors import InputError

MOST_SECONDS = 120.0
_KEYS = ("dataset.", "prepare.", "data:")


@dataclass(frozen=True)
class Ending:
    """How a case ended: `refused`, `left out` (rows counted), `whole`, or what must not be: `traceback`, `wrong row`,
    `uncounted`, `slow`. text: the error, or what is wrong.
    """

    number: int
    kinds: tuple[str, ...]
    how: str
    text: str
    seconds: float


def run_case(number: int) -> Ending:
    """Makes the case of a number, prepares it, and judges what came of it."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz_prepare_"))
    start = time.monotonic()
    try:
        case = make_case(number, folder)
        how, text = _judged(case, folder / "data")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - start
    if seconds > MOST_SECONDS:
        how, text = "slow", f"{seconds:.0f} s"
    return Ending(number, case.kinds, how, text, seconds)


def _judged(case: Case, folder: Path) -> tuple[str, str]:
    config = EventLog.model_validate({"raw": str(case.raw), "max_bad_rows": case.max_bad_rows, **case.config})
    try:
        prepare(config, folder, seed=0, overwrite=False, how=How(EngineConfig(threads=1, progress=False)))
    except InputError as error:
        odd = [line for line in error.problems if not line.startswith(_KEYS)]
        return ("traceback", f"an error without a key: {odd[0]}") if odd else ("refused", error.problems[0])
    except Exception:  # what the fuzzing is for
        return "traceback", traceback.format_exc(limit=-3)
    dataset = Dataset.open(folder)
    wrong = "" if case.anything else _wrong_rows(dataset, case)
    if wrong:
        return "wrong row", wrong
    left_out = sum(dataset.manifest.bad_rows.values())
    missing = len(case.rows) - dataset.manifest.counts["events"]
    if missing > 0 and not left_out and not case.anything:
        return "uncounted", f"{missing} rows are missing, and none was counted"
    return ("left out" if left_out else "whole"), f"{left_out} rows"


def _wrong_rows(dataset: Dataset, case: Case) -> str:
    """What is in the dataset that was not in the log; empty where all is as it should be."""
    users, items = (dataset.raw_ids(name).to_pylist() for name in ("user", "item"))
    known = case.rows
    for split in ("train", "test"):
        for row in dataset.split(split).to_pylist():
            user = str(users[row["user"]])
            times = row["times"]
            if times != sorted(times):
                return f"{user}: times out of order: {times}"
            for item, second in zip(row["items"], times, strict=True):
                name = str(items[item])
                if known.get((user, name)) != second and (user, name) not in case.damaged:
                    return f"{user}, {name}, {second}: nobody wrote that"
    return ""


def report(endings: list[Ending], asked: argparse.Namespace, seconds: float) -> str:
    """A table of endings by kind of damage, and everything that must not be."""
    names = ["refused", "left out", "whole", "traceback", "wrong row", "uncounted", "slow"]
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for ending in endings:
        for kind in ending.kinds:
            table[kind][ending.how] += 1
    total = collections.Counter(ending.how for ending in endings)
    lines = [
        "# Damaged inputs for prepare",
        "",
        f"`python benchmarks/fuzz_prepare.py --cases {len(endings)} --first {asked.first}`, "
        f"{measured_at()}, {seconds:.0f} s in all, "
        f"the slowest case {max(ending.seconds for ending in endings):.1f} s.",
        "",
        f"{len(endings):,} inputs, each with up to three kinds of damage. *refused*: an error with its key; *left "
        "out*: malformed rows were counted and listed; *whole*: nothing that the format forbids. What must not be "
        "stands to the right.",
        "",
        f"| damage | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        *(f"| {kind} | {' | '.join(f'{table[kind][name]:,}' for name in names)} |" for kind in sorted(table)),
        f"| **all inputs** | {' | '.join(f'{total[name]:,}' for name in names)} |",
        "",
    ]
    for ending in endings:
        if ending.how in names[3:]:
            lines += [f"Case {ending.number} ({', '.join(ending.kinds)}): {ending.how}", ""]
            lines += ["```", ending.text, "```", ""]
    return "\n".join(lines)


def main() -> None:
    """Runs the cases, prints and writes the report, and ends with 1 where something is as it must not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, help="begin no more cases after so many seconds")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    start, endings = time.monotonic(), []
    with ProcessPoolExecutor(asked.processes) as pool:
        numbers = range(asked.first, asked.first + asked.cases)
        for at in range(0, len(numbers), 50):
            endings += pool.map(run_case, numbers[at : at + 50])
            bad = [ending for ending in endings[-50:] if ending.how not in ("refused", "left out", "whole")]
            for ending in bad:
                print(f"case {ending.number} {ending.kinds}: {ending.how}\n{ending.text}", flush=True)
            if asked.seconds and time.monotonic() - start > asked.seconds:
                break
    text = report(endings, asked, time.monotonic() - start)
    print(text.split("\nCase ")[0])
    if asked.out:
        asked.out.write_text(text)
    sys.exit(any(ending.how not in ("refused", "left out", "whole") for ending in endings))


if __name__ == "__main__":
    main()
