"""Metrics of a split, exact for any number of ranks: every row counts once, sums and logits are gathered.

B  rows    N  rows of the item table    K  items of a list
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from sharded_emb.batch import UnknownCount
from sharded_emb.data.bags import Bags, check_ids
from sharded_emb.data.collate import Collate
from sharded_emb.data.columns import Int64s, RaggedColumn, distinct
from sharded_emb.data.extents import Extents
from sharded_emb.data.unknown_ids import as_rows, out_of_range
from sharded_emb.data.window import Window, frequencies, nobody
from sharded_emb.distributed.agree import all_sums, all_values, together
from sharded_emb.errors import RunFailedError
from sharded_emb.metrics import binary, ranking
from sharded_emb.metrics.baselines import count_neighbours
from sharded_emb.metrics.counts import Counts, CountsConfig
from sharded_emb.metrics.lists import ListSums
from sharded_emb.metrics.lists import means as lists_means
from sharded_emb.models.base import NextItemModel
from sharded_emb.training.scoring import Scoring, constant, for_evaluation
from sharded_emb.training.trainee import Trainee
from sharded_emb.vocabulary_rows import FIRST_ROW

_ROWS_PER_LOOKUP = 1 << 16

Metrics = dict[str, dict[str, float]]


class Evaluator(Protocol):
    """Evaluates a split with the weights as they are; all ranks call it together."""

    def __call__(self, split: str, lists: bool = False) -> Metrics:
        """Metrics by name of the evaluation: the split, and for next-item runs also SPLIT_unfiltered. lists: with those
        of whole lists of recommendations, which take longer.
        """
        ...

    def protocol(self, split: str) -> dict[str, Any]:
        """What makes the numbers comparable, by name of the evaluation."""
        ...

    @property
    def unknown(self) -> dict[str, dict[str, UnknownCount]]:
        """Of this rank, by split as last read and by feature, where unknown ids are no error."""
        ...


class BinaryEvaluator:
    """AUC and its kin over all rows of a split, for each task."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self.unknown = scoring.unknown

    def protocol(self, split: str) -> dict[str, Any]:
        """All rows count once; AUC within users has those of the vocabulary alone."""
        users = {"users": "of the vocabulary"} if "user" in self.scoring.dataset.columns else {}
        said = {"split": split, "rows": "all", "ties": "count half", **users, **self.scoring.protocol}
        return {name: dict(said) for name in self.names(split)}

    def names(self, split: str) -> list[str]:
        """Of the evaluations: the split for the first task, and SPLIT_TASK for the others."""
        return [split, *(f"{split}_{label.name}" for label in self.scoring.reading.labels[1:])]

    def __call__(self, split: str, lists: bool = False) -> Metrics:  # noqa: ARG002
        """By the name of the evaluation."""
        scored, users = self.scores(split), self.scoring.users(split)
        if not len(scored[0].label_N):
            return {name: {} for name in self.names(split)}
        found = (binary.metrics(each.label_N, each.logit_N, users) for each in scored)
        return dict(zip(self.names(split), found, strict=True))

    def score(self, split: str) -> "Scored":
        """All rows in the order of the split, on every rank; of the first task."""
        return self.scores(split)[0]

    @torch.no_grad()
    def scores(self, split: str) -> list["Scored"]:
        """The same of each task. Raises RunFailedError on every rank for a score that is not a finite number."""
        plain = cast(Trainee, self.scoring.sharded.plain)
        none = np.zeros((0, len(self.scoring.reading.labels)))
        mine: list[tuple[np.ndarray, ...]] = [(np.zeros(0, dtype=np.int64), none, none)]
        collate = self.scoring.collate(split)
        with plain.evaluating():
            for window in self.scoring.windows(split, collate.columns):
                for rows, batch in self.scoring.batches(collate, window.rows(), window):
                    output = plain.model.forward(self.scoring.sharded.embed(batch))  # not the compiled one
                    if len(rows):
                        assert batch.label_B is not None
                        values = (
                            each[: len(rows)].reshape(len(rows), -1).cpu().double().numpy()
                            for each in (batch.label_B, output)
                        )
                        mine.append((rows, *values))
        gathered = all_values([np.concatenate(each) for each in zip(*mine, strict=True)], self.scoring.place)
        row_N, label_NL, logit_NL = (np.concatenate(each) for each in zip(*gathered, strict=True))
        order_N = np.argsort(row_N)
        if len(wrong := np.flatnonzero(~np.isfinite(logit_NL[order_N]).all(1))):
            row, count = wrong[0], len(wrong)
            said = f"{count} of {len(order_N)} scores of the model are not finite numbers, that of row {row} first"
            raise RunFailedError(f"split {split}: {said}; evaluate what came before, or lower the learning rates")
        return [Scored(*each) for each in zip(label_NL[order_N].T, logit_NL[order_N].T, strict=True)]


@dataclass(frozen=True)
class Scored:
    """Labels and logits of all rows of a split, float64 (N)."""

    label_N: np.ndarray
    logit_N: np.ndarray


@dataclass(frozen=True)
class Recommended:
    """The best items of some users: rows of the split (B), ids of items (B, K) and their scores."""

    rows_B: Int64s
    items_BK: Int64s
    scores_BK: np.ndarray


class NextItemEvaluator:
    """Ranks the last event of each row among all items, from the events before it.

    Rows with a single event have nothing to predict from and are left out. counts: what is added to scores.
    """

    def __init__(self, scoring: Scoring, counts: CountsConfig | None = None) -> None:
        self.scoring = scoring
        self.counts = counts
        self.unknown = scoring.unknown
        sequence = scoring.reading.sequence
        self.table, self.feature = next(
            (t, f) for t in scoring.reading.tables for f in t.features if f.name == sequence
        )
        self.column = self.feature.column
        self._held: tuple[str, Window] | None = None  # the rows that are scored now

    def protocol(self, split: str) -> dict[str, Any]:
        """Of both evaluations."""
        more = {} if self.counts is None else {"scores": f"the model's + {self.counts}"}
        more |= self.scoring.protocol
        removed = ranking.protocol(split, removed_of=self.scoring.row_is)
        return {split: removed | more, f"{split}_unfiltered": ranking.protocol(split) | more}

    @torch.no_grad()
    def __call__(self, split: str, lists: bool = False) -> Metrics:
        """Filtered by the name of the split, and SPLIT_unfiltered."""
        names = (f"{split}_unfiltered", split)
        summed = {name: Counter[str]() for name in names}
        listed = {name: ListSums(self._train_counts()) for name in names} if lists else {}
        for rows, scores_BN in self.scores(split):
            seen = self.targets_and_seen(split, rows)
            ranks = ranking.ranks_of_target(scores_BN, *seen)
            for name, rank_B in zip(names, ranks, strict=True):
                summed[name].update({"rows": len(rows), **ranking.sums(rank_B)})
                if lists:
                    listed[name].add(scores_BN if name != split else ranking.without_seen(scores_BN, *seen))
        place = self.scoring.place
        found = {name: ranking.means(sums, lambda v: all_sums(v, place)) for name, sums in summed.items()}
        for name, sums in listed.items():
            found[name] |= self._of_lists(sums)
        return {name: found[name] for name in (split, names[0])}

    @cached_property
    def _counted(self) -> Counts | None:
        """Over the train split."""
        if self.counts is None:
            return None
        return Counts(self.counts, count_neighbours(self.train_sequences(), self.table.rows))

    def train_sequences(self) -> RaggedColumn:
        """All of the train split, as rows of the item table. All ranks call it together."""
        train = self.scoring.flat.split("train")
        with together(self.scoring.place):
            read = train.window([self.column], Extents.span(0, train.rows)).columns[self.column]
        self._check(Bags(read.all_values(), read.lengths()), "train", np.arange(train.rows))
        return RaggedColumn(self._as_rows(read.all_values()), read.offsets - read.offsets[0])

    def _of_lists(self, mine: ListSums) -> dict[str, float]:
        """Over all ranks."""
        place = self.scoring.place
        surprise, count = all_sums(list(mine.sums()), place)
        listed = [torch.from_numpy(np.unpackbits(bits)) for bits in all_values(np.packbits(mine.listed_N), place)]
        return lists_means(surprise, count, torch.stack(listed).amax(0)[: len(mine.listed_N)])

    def _train_counts(self) -> Tensor:
        """How often each row of the item table is an event of the train split."""
        with together(self.scoring.place):
            return torch.from_numpy(frequencies(self.scoring.flat.split("train"), self.feature, self.table.rows))

    def ranks(self, split: str) -> Iterator[tuple[Int64s, dict[str, Tensor]]]:
        """By batch of this rank: rows of the split, and by name of the evaluation the rank of each row's target."""
        for rows, scores_BN in self.scores(split):
            unfiltered_B, filtered_B = ranking.ranks_of_target(scores_BN, *self.targets_and_seen(split, rows))
            yield rows, {split: filtered_B, f"{split}_unfiltered": unfiltered_B}

    @torch.no_grad()
    def recommend(self, split: str, top_k: int, filter_seen: bool) -> list[Recommended]:
        """This rank's users with their best items, best first; equal scores in the order of the item table."""
        found = []
        for rows, scores_BN in self.scores(split):
            if filter_seen:
                scores_BN = ranking.without_seen(scores_BN, *self.targets_and_seen(split, rows))
            ordered = scores_BN.sort(dim=1, descending=True, stable=True)
            items_BK, scores_BK = ordered.indices[:, :top_k], ordered.values[:, :top_k]
            found.append(Recommended(rows, items_BK.cpu().numpy(), scores_BK.cpu().numpy()))
        return found

    def scores(self, split: str) -> Iterator[tuple[Int64s, Tensor]]:
        """By batch: rows and scores (B, N), -inf for padding and out-of-vocabulary. A rank without rows in a batch
        takes part and yields nothing.
        """
        plain = cast(Trainee, self.scoring.sharded.plain)
        with plain.evaluating():
            yield from self._scores(split, cast(NextItemModel, plain.model))

    def _scores(self, split: str, model: NextItemModel) -> Iterator[tuple[Int64s, Tensor]]:
        items_ND, counts = self._item_vectors(model), self._counted
        collate = self.scoring.collate(split)
        for eligible, window in self._eligible(split, collate.columns):
            for rows, batch in self.scoring.batches(collate, eligible, window):
                embedded = self.scoring.sharded.embed(batch)
                if len(rows):
                    scores_BN = model.queries(embedded)[: len(rows)] @ items_ND.T
                    if counts is not None:
                        values, lengths = self.histories(split, rows)
                        counts.add_to(scores_BN, values, np.concatenate([[0], np.cumsum(lengths)]))
                    scores_BN[:, :FIRST_ROW] = -torch.inf
                    yield rows, scores_BN

    def parts(self, split: str) -> Iterator[Int64s]:
        """This rank's rows of each batch, as `scores` has them."""
        for eligible, _ in self._eligible(split, [self.column]):
            yield from (part.rows for part in self.scoring.parts(eligible) if len(part.rows))

    def histories(self, split: str, rows: Int64s) -> tuple[Int64s, Int64s]:
        """All events of these rows before the target, one row after the other, and their number by row."""
        events, lengths = self._events(split, rows)
        return np.delete(events, np.cumsum(lengths) - 1), lengths - 1

    def targets_and_seen(self, split: str, rows: Int64s) -> tuple[Tensor, Tensor, Tensor]:
        """Targets (B), and the distinct (row, item) pairs of the events before them, on the device."""
        events, lengths = self._events(split, rows)
        targets = events[np.cumsum(lengths) - 1]
        history, lengths = self.histories(split, rows)
        pairs = distinct(np.repeat(np.arange(len(rows)), lengths) * self.table.rows + history)
        row, item = np.divmod(pairs, self.table.rows)
        target_B, row_P, item_P = (
            torch.from_numpy(each).to(self.scoring.place.device) for each in (targets, row, item)
        )
        return target_B, row_P, item_P

    def _events(self, split: str, rows: Int64s) -> tuple[Int64s, Int64s]:
        """All events of these rows, and their number by row."""
        of_split, window = self._held or ("", None)
        places = None if window is None or of_split != split else window.extents.places(rows)
        if window is None or places is None:
            window = self.scoring.flat.split(split).window([self.column], Extents.around(rows))
            places = window.extents.places(rows)
            assert places is not None
        events, lengths = window.columns[self.column].take(places)
        return self._as_rows(events), lengths

    def _as_rows(self, events: Int64s) -> Int64s:
        """What events stand for that are no rows, if they are no error."""
        if self.feature.unknown == "error":
            return events
        return as_rows(events, out_of_range(events, self.table.rows), self.table.rows, self.feature)

    def _check(self, bags: Bags, split: str, rows: Int64s) -> None:
        """All of a history counts, also what no lookup reads; every rank checks all, so all raise alike."""
        if self.feature.unknown == "error":
            check_ids(self.feature, bags, self.table.rows, lambda row: f"split {split}, row {rows[row]}")

    def _eligible(self, split: str, columns: Iterable[str]) -> Iterator[tuple[Int64s, Window]]:
        """The rows that have something to predict from, some at a time, the shortest of them first."""
        for window in self.scoring.windows(split, {*columns, self.column}):
            self._held = (split, window)
            column, rows = window.columns[self.column], window.rows()
            lengths = column.lengths()
            self._check(Bags(column.values, lengths), split, rows)
            by_length = np.argsort(lengths, kind="stable")  # batches of like lengths need the least padding
            yield rows[by_length[lengths[by_length] >= 2]], window
        self._held = None

    def _item_vectors(self, model: NextItemModel) -> Tensor:
        """Every row of the item table as it is compared with states (N, D), through the same lookups as in training."""
        lookup = self.scoring.sharded.embed
        parts = []
        any_split = self.scoring.flat.split("train")
        for start in range(0, self.table.rows, _ROWS_PER_LOOKUP):
            self.scoring.require_nobody_stops()
            ids = torch.arange(start, min(start + _ROWS_PER_LOOKUP, self.table.rows))
            reading = replace(self.scoring.reading, candidates=constant(ids))
            batch = Collate(any_split, reading, self.scoring.place.rank)(nobody(), 1, 0)
            embedded = lookup(batch.to(self.scoring.place.device))
            parts.append(model.items(embedded.sequences["candidates"].values_TD))
        return torch.cat(parts)


def make_evaluator(scoring: Scoring, counts: CountsConfig | None = None) -> "BinaryEvaluator | NextItemEvaluator":
    """The evaluator of the task. counts: of a next-item model."""
    scoring = replace(scoring, reading=for_evaluation(scoring.reading))
    return NextItemEvaluator(scoring, counts) if scoring.reading.task == "next_item" else BinaryEvaluator(scoring)
