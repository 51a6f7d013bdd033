"""A log in the form of Criteo's, with clicks that its columns explain as far as they are said to.

    python benchmarks/criteo_like.py train.txt [--rows 1000000] [--seed 0]

A label, 13 numbers of heavy tails, some missing, and 26 categories as hashed texts, from 4 to 2,000,000 values of very
uneven frequency, separated by tabs. Clicks come of an effect of each value, of pairs of categories, and of the
logarithms of numbers; the area under the curve of the true probabilities is printed: nobody can rank better.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pc

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sharded_emb.ids.hash import finalized

VALUES = [1_400, 550, 1_000_000, 400_000, 300, 20, 12_000, 600, 4, 60_000, 5_000, 900_000, 3_000]
VALUES += [26, 10_000, 600_000, 10, 4_000, 2_000, 4, 800_000, 18, 15, 100_000, 80, 50_000]
NUMBERS = 13
MISSING = [0.45, 0.0, 0.2, 0.2, 0.03, 0.2, 0.04, 0.0, 0.04, 0.45, 0.04, 0.75, 0.2]
PAIRS = [(0, 4), (8, 13), (5, 21), (1, 7), (16, 24), (22, 10)]
_SHIFT = -2.2  # about a quarter of the rows are clicks
_AT_ONCE = 200_000

Floats = npt.NDArray[np.float64]
UInts = npt.NDArray[np.uint64]


def _effects(numbers: UInts, stream: int, deviation: float) -> Floats:
    """A fixed number for each, of about a normal distribution."""
    parts = [finalized(numbers * np.uint64(31) + np.uint64(stream * 7 + part)) for part in range(4)]
    total = sum((part >> np.uint64(11)).astype(np.float64) / 2**53 for part in parts)
    return deviation * (np.asarray(total) - 2.0) * np.sqrt(3.0)


def some(rows: int, draws: np.random.Generator) -> tuple[dict[str, pa.Array], Floats]:
    """Columns but the label, and the true log-odds of a click."""
    odds, columns = np.full(rows, _SHIFT), {}
    for number in range(NUMBERS):
        value = np.floor(draws.lognormal(1.0 + 0.2 * number, 1.5, rows))
        value[draws.random(rows) < 0.02] = -1.0
        absent = draws.random(rows) < MISSING[number]
        odds += np.where(absent, 0.0, 0.12 * (-1) ** number * np.log1p(np.abs(value)))
        columns[f"I{number + 1}"] = pa.array(value.astype(np.int64), mask=absent)
    ids = []
    for number, values in enumerate(VALUES):
        at = (float(values) ** draws.random(rows)).astype(np.uint64) - np.uint64(1)  # Zipf's law, of exponent 1
        ids.append(at)
        odds += _effects(at, number, 0.25)
        texts = [f"{hashed:08x}" for hashed in (finalized(at + np.uint64(number << 32)) >> np.uint64(32)).tolist()]
        columns[f"C{number + 1}"] = pa.array(texts)
    for place, (first, second) in enumerate(PAIRS):
        odds += _effects(ids[first] * np.uint64(1 << 20) + ids[second], 100 + place, 0.5)
    return columns, odds


def write(path: Path, rows: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], Floats]:
    """Labels and true log-odds of all rows."""
    labels, truth = [], []
    options = pc.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        for start in range(0, rows, _AT_ONCE):
            draws = np.random.default_rng([seed, start])
            columns, odds = some(min(_AT_ONCE, rows - start), draws)
            label = (draws.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(np.int64)
            pc.write_csv(pa.table({"label": pa.array(label), **columns}), file, options)
            labels.append(label.astype(np.float32))
            truth.append(odds)
    return np.concatenate(labels), np.concatenate(truth)


def main() -> None:
    """Writes the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    labels, odds = write(given.path, given.rows, given.seed)
    from sklearn.metrics import roc_auc_score  # needed here alone

    last = slice(-len(labels) // 10, None)
    reachable = roc_auc_score(labels[last], odds[last])
    print(f"{given.rows:,} rows, {labels.mean():.3f} clicks; AUC of the truth in the last tenth {reachable:.4f}")


if __name__ == "__main__":
    main()
