"""Whole runs drawn at random: one process and two ranks, straight, and stopped and resumed, have the same numbers.

python benchmarks/fuzz_runs.py ml-100k --cases 500 --report benchmarks/reports/fuzz_runs.md
python benchmarks/fuzz_runs.py ml-100k --first 17 --cases 1        # one case again, by its number

A case is an experiment on the first users of MovieLens 100K with a model, a loss, optimizers, shardings and some twenty
other words drawn by its number (`drawn_runs.py`). It is trained for six steps on one process; on two ranks, where
losses have to be those of the one; on two ranks again, told to stop after the third step and resumed, which has to be
the straight run bit by bit, or resumed on one, which has to be it but for rounding; then `evaluate` has to repeat the
run, what `export` writes to say what `evaluate` says, `explore` to have the norms of what was exported, and
`train verify=true` to find plain PyTorch's weights where all is float32. Words of a case that are refused are left out,
and nothing may be there of what was refused; nothing may end in a traceback, hang, or give other numbers.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import asked_ranks
from benchmarks.asked_ranks import Ending, Ranks
from benchmarks.drawn_runs import STEPS, Drawn, drawn
from benchmarks.machine import measured_at, tell

USERS = 50
STOP_AFTER = 3
MOST_REFUSALS = 8
SERVED_ROWS = 40
_EXACT, _ROUNDED = 2e-4, 5e-2  # of a loss
_SERVED = 1e-5  # of a score, relative, or of a probability
_TIMED = frozenset({"seconds", "peak_memory_bytes", "samples_per_second", "ids_per_second"})


def main() -> None:
    """Prints, and writes the report. Ends with 1 if a case deviates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    began, ends, words, wrong = time.monotonic(), Counter[str](), 0, []
    with tempfile.TemporaryDirectory() as name, Ranks(1) as one, Ranks(2) as two:
        folder = Path(name)
        prepare(options.raw, folder, one)
        for number in range(options.first, options.first + options.cases):
            trial = Trial(drawn(number), folder, one, two)
            how = trial.judged()
            ends[how.partition(":")[0]] += 1
            words += len(trial.refused)
            print("\n    refused: ".join([f"{number}: {how}", *trial.refused]), flush=True)
            if not how.startswith("same"):
                wrong.append(f"- {number}: {how}\n  `{' '.join(trial.words)}`")
                print(f"    {trial.words}", flush=True)
    minutes = (time.monotonic() - began) / 60
    lines = [
        "# Whole runs, drawn at random",
        "",
        f"`python {' '.join(sys.argv)}`, {measured_at()}, one thread a rank; {minutes:.0f} minutes.",
        "",
        f"Words were refused {words} times, and the case went on without them.",
        "",
        "| cases | |",
        "|---|---|",
        *(f"| {how} | {count} |" for how, count in ends.most_common()),
        *(["", *wrong] if wrong else []),
    ]
    tell(lines, options.report)
    sys.exit(1 if wrong else 0)


def prepare(raw: Path, folder: Path, one: Ranks) -> None:
    """Two datasets of the first users."""
    cut = folder / "ml-100k"
    cut.mkdir()
    for name in ("item", "user"):
        shutil.copy(raw / f"ml-100k.{name}", cut)
    head, *lines = (raw / "ml-100k.inter").read_text().splitlines()
    kept = [line for line in lines if int(line.split("\t")[0]) <= USERS]
    (cut / "ml-100k.inter").write_text("\n".join([head, *kept]) + "\n")
    attributes = [
        "+dataset.attributes.rating={of: event, number: true}",
        "+dataset.attributes.film={of: event, column: item_id, raw: true}",
        "+dataset.attributes.rating_id={of: event, column: rating, table: rating}",
    ]
    genres = "+dataset.attributes.genres={of: item, column: class, table: genre}"
    for name, words in (("clicks", ["experiment=din_ml100k"]), ("events", ["experiment=sasrec_ml100k", genres])):
        words = [*words, f"dataset.raw={cut}", f"data={folder}/{name}", *attributes]
        ending = one.ask(asked_ranks.prepare, words)
        assert ending.how == "done", ending.text


class Trial:
    """Of a case. words: those that were not refused. refused: what was said of the others."""

    def __init__(self, case: Drawn, folder: Path, one: Ranks, two: Ranks) -> None:
        self.case, self.words, self.refused = case, list(case.words), list[str]()
        self._where = [f"data={folder}/{case.data}", f"flat_copy={folder}/flat"]
        self._runs, self._one, self._two = folder / "runs", one, two

    def judged(self) -> str:
        """`same`, `refused: why`, or what is wrong."""
        found = self._begun() or self._beside() or self._interrupted() or self._served() or self._verified()
        return found or self._same()

    def _same(self) -> str:
        return "same" if self.case.comparable else "same, one process aside, whose dropout is another"

    def _train(self, ranks: Ranks, name: str, stop_after: int | None = None) -> Ending:
        return ranks.ask(asked_ranks.train, [*self.words, *self._where], self._runs / name, stop_after)

    def _begun(self) -> str | None:
        """Two ranks and one process train what is not refused."""
        for _ in range(MOST_REFUSALS):
            shutil.rmtree(self._runs, ignore_errors=True)
            endings = {"two": self._train(self._two, "two"), "one": self._train(self._one, "one")}
            if failed := [ending.text for ending in endings.values() if ending.how == "failed"]:
                return f"failed: {failed[0]}"
            refused = {name: ending.text for name, ending in endings.items() if ending.how == "refused"}
            if not refused:
                return None
            for name, said in refused.items():
                if (self._runs / name).exists():
                    return f"left a run that was refused: {said}"
            said = refused.get("one") or refused["two"]
            if not self._leaves_out(said):
                return f"refused: {said}"
            self.refused.append(said)
        return f"refused: {self.refused[-1]}"

    def _leaves_out(self, said: str) -> bool:
        """The words of which something was said; whether there are any."""
        keys = {problem.partition(":")[0] for problem in said.split("; ")}
        before, self.words = self.words, [word for word in self.words if _key(word) not in keys]
        return len(self.words) < len(before)

    @property
    def _tolerance(self) -> float:
        return _EXACT if self.case.exact else _ROUNDED

    def _beside(self) -> str | None:
        """One process beside two ranks."""
        far = _difference(self._runs / "one", self._runs / "two", self._tolerance) if self.case.comparable else None
        return far and f"two ranks, {far}"

    def _interrupted(self) -> str | None:
        """A run that two ranks began, and two or one ended, beside the straight one; and its evaluation."""
        others = self._one if self.case.comparable and self.case.number % 3 == 0 else self._two
        cut = self._runs / "cut"
        for ranks, stop_after in ((self._two, STOP_AFTER), (others, None)):
            ending = self._train(ranks, "cut", stop_after)
            if ending.how != "done":
                return f"stopped and resumed: {ending.how}: {ending.text}"
            if stop_after and (stopped := _result(cut)["status"]) != "stopped":
                return f"not stopped: {stopped}"
        far = _difference(self._runs / "two", cut, self._tolerance if others is self._one else 0.0)
        if far is not None:
            return f"resumed on {others.world_size}, {far}"
        ending = others.ask(asked_ranks.evaluate, cut)
        if ending.how != "done":
            return f"evaluate: {ending.how}: {ending.text}"
        want, got = _result(cut)["metrics"], json.loads((cut / "evaluation_test.json").read_text())["metrics"]
        return None if got and all(got[split] == want[split] for split in got) else f"evaluate: {got} for {want}"

    def _served(self) -> str | None:
        """What is exported beside what is evaluated."""
        ending = self._one.ask(asked_ranks.serve, self._runs / "cut", SERVED_ROWS, _SERVED)
        if ending.how == "refused":
            self.refused.append(f"export: {ending.text}")
            return None
        if ending.how == "failed":
            return f"export: {ending.text}"
        ending = self._one.ask(asked_ranks.explore, self._runs / "cut")
        return None if ending.how == "done" else f"explore: {ending.how}: {ending.text}"

    def _verified(self) -> str | None:
        # whole steps are made of what is rounded to 0 in smaller dtypes, and of gradients that are 0 but for rounding,
        # which weights of attention to a single event have
        if not self.case.exact or "features.history.max_length=1" in self.words:
            return None
        ending = self._two.ask(asked_ranks.verify, [*self.words, *self._where])
        return None if ending.how == "done" else f"verify: {ending.how}: {ending.text}"


def _key(word: str) -> str:
    return word.lstrip("+").partition("=")[0]


def _result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def _difference(first: Path, second: Path, tolerance: float) -> str | None:
    """The first line of metrics.jsonl whose losses are further apart, relative where they are above 1; without a
    tolerance, that has anything else that does not say how long something took.
    """
    lines = [_lines(run) for run in (first, second)]
    if len(lines[0]) != len(lines[1]) or sum(line["split"] == "train" for line in lines[0]) != STEPS:
        return f"{len(lines[0])} and {len(lines[1])} lines"
    for one, other in zip(*lines, strict=True):
        keys = (one.keys() | other.keys()) - _TIMED
        if not tolerance:
            far = [key for key in keys if one.get(key) != other.get(key)]
        else:
            losses = sorted(keys & {"loss", "log_loss"})
            far = [key for key in losses if not abs(one[key] - other[key]) <= tolerance * max(1.0, abs(one[key]))]
        if far:
            values = [f"{key} {one.get(key)} and {other.get(key)}" for key in far]
            return f"step {one['step']}, {one['split']}: {', '.join(values)}"
    return None


def _lines(run: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
