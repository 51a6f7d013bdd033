"""Checkpoints saved under every sharding type on every world and loaded under every other: bitwise the same?

python benchmarks/reshards.py                            # all; writes benchmarks/reports/reshards.md
python benchmarks/reshards.py --sample 60 --seed 1       # some, only printed
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import ROOT, measured_at
from tests.distributed import reshard_cases
from tests.distributed.ranks import on_one_rank, run_ranks
from tests.distributed.reshard_cases import KINDS, WORLDS, Reshard


def main() -> None:
    """Saves, loads, prints, and writes the report of all. Ends with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="so many reshards, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    wanted = reshard_cases.all_reshards()
    if arguments.sample:
        wanted = random.Random(arguments.seed).sample(wanted, arguments.sample)
    text, wrong = report(measure(wanted), time.monotonic() - started)
    print(text)
    if not arguments.sample:
        (ROOT / "benchmarks" / "reports" / "reshards.md").write_text(text, encoding="utf-8")
    sys.exit(1 if wrong else 0)


def measure(wanted: Sequence[Reshard]) -> dict[Reshard, list[str]]:
    """What differs after each, on any rank."""
    found: dict[Reshard, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for world in WORLDS:
            saved = list(dict.fromkeys((each.kind, each.saved) for each in wanted if each.saved_world == world))
            if saved:
                everywhere(reshard_cases.save_all, world, folder / world, saved)
        for world in WORLDS:
            mine = [each for each in wanted if each.loaded_world == world]
            for of_rank in everywhere(reshard_cases.load_all, world, folder, mine) if mine else []:
                for reshard, odd in of_rank.items():
                    found.setdefault(reshard, []).extend(odd)
    assert found.keys() == set(wanted)
    return found


def everywhere(function: Callable[..., Any], world: str, *arguments: Any) -> list[Any]:
    """What it returns on each rank of a world."""
    ranks, per_host = WORLDS[world]
    if ranks == 1:
        return [on_one_rank(lambda place: function(place, *arguments))]
    return run_ranks(function, ranks, *arguments, limit_seconds=7200, per_host=per_host)


def report(found: dict[Reshard, list[str]], seconds: float) -> tuple[str, list[str]]:
    """What the report file holds, and what differs."""
    wrong = [f"{reshard}: {', '.join(odd)}" for reshard, odd in found.items() if odd]
    sizes = Counter(reshard.kind for reshard in found)
    lines = [
        "# Reshards",
        "",
        f"`python benchmarks/reshards.py`, {measured_at()}, one thread a rank; {seconds / 60:.0f} minutes.",
        "",
        f"{len(found)} reshards: trained and saved on one of {len(WORLDS)} worlds ({', '.join(WORLDS)} ranks, the last "
        f"on two hosts) under one sharding type, loaded on one of them under another. {len(wrong)} differ by a bit "
        "in a table, in the state of its optimizer, or in the row of an id. Each has two pooled tables and one read "
        "as a sequence; a managed table is one that is read as a sequence.",
        "",
        "| tables, optimizer | sharding types, each to each | reshards |",
        "|---|---|---|",
        *(f"| {kind} | {', '.join(KINDS[kind])} | {sizes[kind]} |" for kind in KINDS),
        "",
        "Row-wise Adagrad has one number a row, which column shards cannot share: `column_wise`, `table_column_wise` "
        "and `grid` are refused with it at the start of a run, so no checkpoint of it has to be converted.",
        "",
        *(f"- {line}" for line in wrong),
    ]
    return "\n".join(lines), wrong


if __name__ == "__main__":
    main()
