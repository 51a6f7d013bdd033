"""Counting baselines for the next item: what a model has to beat before it has shown anything.

All are counted over the train split alone, for valid and test: so were the numbers that they reproduce (Amazon
Beauty, filtered test hit_rate@10 / ndcg@10: Markov .0666/.0439; with the events of valid it would be .0755/.0502).

Shapes: B users of a chunk, R rows of the item vocabulary (0 padding, 1 out-of-vocabulary, then items), E events.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from sharded_emb.data.columns import RaggedColumn
from sharded_emb.vocabulary_rows import FIRST_ROW

if TYPE_CHECKING:  # imported where it is used: most runs have no use for it
    from scipy import sparse

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

WINDOW = 5
DECAY = 0.8


class Baseline(Protocol):
    """Scores every row for a chunk of histories."""

    @property
    def name(self) -> str:
        """What it is called in results."""
        ...

    def scores(self, values: Rows, offsets: Rows) -> Scores:
        """(B, R) scores, the higher the better; rows 0 and 1 get -inf, items seen are not removed.

        values: the histories of B users one after the other, oldest first, as rows. offsets: (B + 1,) where each
        begins in values.
        """


@dataclass(frozen=True)
class Popularity:
    """How often an item was seen."""

    counts: Scores  # (R,)
    name: str = "popularity"

    def scores(self, values: Rows, offsets: Rows) -> Scores:  # noqa: ARG002
        """See `Baseline`; the same for every history."""
        return _only_items(np.tile(self.counts, (len(offsets) - 1, 1)))


@dataclass(frozen=True)
class MarkovChain:
    """How often an item came right after the last one of the history; ties by popularity, which is below 1."""

    follows: "sparse.csr_array"  # (R, R), from row to row
    popularity: Scores  # (R,), below 1
    name: str = "markov"

    def scores(self, values: Rows, offsets: Rows) -> Scores:
        """See `Baseline`; an empty history gets popularity alone."""
        scores_BR = np.tile(self.popularity, (len(offsets) - 1, 1))
        some = np.flatnonzero(np.diff(offsets))
        scores_BR[some] += self.follows[values[offsets[some + 1] - 1]].toarray()
        return _only_items(scores_BR)


@dataclass(frozen=True)
class SequenceNeighbours:
    """Directed pairs: how often an item came up to WINDOW events after each item of the history.

    A pair at distance d counts 1/d; an item k steps before the end of the history weighs DECAY^k.
    """

    follows: "sparse.csr_array"  # (R, R), from row to row
    popularity: Scores  # (R,), below 1
    name: str = "sequence_knn"

    def scores(self, values: Rows, offsets: Rows) -> Scores:
        """See `Baseline`; popularity breaks ties and is too small to do more."""
        return _only_items(self.pairs(values, offsets).toarray() + 1e-9 * self.popularity)

    def pairs(self, values: Rows, offsets: Rows) -> "sparse.csr_array":
        """(B, R) scores of what follows the histories, each stored once; without popularity."""
        from scipy import sparse

        users, events = len(offsets) - 1, len(values)
        steps_back_E = np.repeat(offsets[1:], np.diff(offsets)) - 1 - np.arange(events)
        weights_BR = sparse.csr_array((DECAY**steps_back_E, values, offsets), shape=(users, len(self.popularity)))
        return weights_BR @ self.follows


def fit_baselines(sequences: RaggedColumn, rows: int) -> list[Baseline]:
    """Popularity, Markov chain and sequence kNN, counted over sequences of rows; `rows` is R."""
    values, offsets = _flat(sequences)
    neighbours = count_neighbours(sequences, rows)
    return [
        Popularity(np.bincount(values, minlength=rows).astype(np.float64)),
        MarkovChain(_count_pairs(values, offsets, rows, window=1), neighbours.popularity),
        neighbours,
    ]


def count_neighbours(sequences: RaggedColumn, rows: int) -> SequenceNeighbours:
    """Sequence kNN alone; `rows` is R."""
    values, offsets = _flat(sequences)
    counts_R = np.bincount(values, minlength=rows).astype(np.float64)
    popularity_R = counts_R / (counts_R.max(initial=0.0) + 1.0)
    return SequenceNeighbours(_count_pairs(values, offsets, rows, window=WINDOW), popularity_R)


def _flat(sequences: RaggedColumn) -> tuple[Rows, Rows]:
    """Values and offsets from 0 on: a slice of a table begins somewhere within its values."""
    return sequences.all_values(), sequences.offsets - sequences.offsets[0]


def _count_pairs(values: Rows, offsets: Rows, rows: int, *, window: int) -> "sparse.csr_array":
    """(R, R): from an item to those up to `window` events after it in the same sequence, weighed by 1/distance."""
    from scipy import sparse

    owner_E = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    total = sparse.csr_array((rows, rows), dtype=np.float64)
    for distance in range(1, window + 1):
        same = owner_E[distance:] == owner_E[:-distance]
        before, after = values[:-distance][same], values[distance:][same]
        weight = np.full(len(before), 1.0 / distance)
        total = total + sparse.coo_array((weight, (before, after)), shape=(rows, rows)).tocsr()
    return total


def _only_items(scores_BR: Scores) -> Scores:
    scores_BR[:, :FIRST_ROW] = -np.inf
    return scores_BR
