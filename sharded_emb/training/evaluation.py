"""Metrics of a split, exact for any number of ranks: every row counts once, sums and logits are gathered.

B  rows    N  rows of the item table    K  items of a list
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from sharded_emb.batch import Batch, UnknownCount
from sharded_emb.data.collate import Bags, Collate, Reading, check_ids
from sharded_emb.data.columns import Int64s
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.extents import Extents
from sharded_emb.data.flat import FlatCopy
from sharded_emb.data.source import BatchesConfig, Part, Source
from sharded_emb.data.unknown_ids import as_rows, out_of_range
from sharded_emb.data.window import Window, nobody
from sharded_emb.distributed.agree import all_sums, all_values, together
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded
from sharded_emb.metrics import binary, ranking
from sharded_emb.models.base import NextItemModel
from sharded_emb.vocabulary_rows import FIRST_ROW

_ROWS_PER_LOOKUP = 1 << 16
_MEGABYTES_AT_ONCE = 32  # of a split

Metrics = dict[str, dict[str, float]]


class Evaluator(Protocol):
    """Evaluates a split with the weights as they are; all ranks call it together."""

    def __call__(self, split: str) -> Metrics:
        """Metrics by name of the evaluation: the split, and for next-item runs also SPLIT_unfiltered."""
        ...

    def protocol(self, split: str) -> dict[str, Any]:
        """What makes the numbers comparable, by name of the evaluation."""
        ...

    @property
    def unknown(self) -> dict[str, dict[str, UnknownCount]]:
        """Of this rank, by split as last read and by feature, where unknown ids are no error."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What both evaluators need: a model, data to score, and in which pieces."""

    sharded: Sharded
    dataset: Dataset
    flat: FlatCopy
    reading: Reading
    batch_per_rank: int
    unknown: dict[str, dict[str, UnknownCount]] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Of this rank."""
        return self.sharded.place

    def parts(self, rows: Int64s) -> Iterator[Part]:
        """This rank's part of each batch of these rows: as many batches on every rank, some perhaps empty."""
        source = Source(rows, BatchesConfig(shuffle=False), self.batch_per_rank * self.place.world_size, seed=0)
        for part in source.parts(0, self.place.rank, self.place.world_size):
            yield replace(part, rows=rows[part.rows])

    def windows(self, split: str, columns: Iterable[str]) -> Iterator[Window]:
        """All rows of a split in their order, some at a time."""
        flat = self.flat.split(split)
        for extents in flat.spans(_MEGABYTES_AT_ONCE):
            with together(self.place):
                window = flat.window(columns, extents)
            yield window

    def collate(self, split: str) -> Collate:
        """Which counts anew what is unknown."""
        collate = Collate(self.flat.split(split), self.reading, self.place.rank)
        self.unknown[split] = collate.unknown
        return collate

    def batches(self, collate: Collate, rows: Int64s, window: Window) -> Iterator[tuple[Int64s, Batch]]:
        """This rank's part of these rows of a window, and its batch on the device."""
        for number, part in enumerate(self.parts(rows)):
            with together(self.place):
                batch = collate(part.rows, part.size, number, window=window)
            collate.count(batch)
            yield part.rows, batch.to(self.place.device)


class BinaryEvaluator:
    """AUC and its kin over all rows of a split."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self.unknown = scoring.unknown

    def protocol(self, split: str) -> dict[str, Any]:
        """All rows count once."""
        return {split: {"split": split, "rows": "all", "ties": "count half"}}

    @torch.no_grad()
    def __call__(self, split: str) -> Metrics:
        """By the name of the split."""
        label_N, logit_N = self.labels_and_logits(split)
        return {split: binary.metrics(label_N, logit_N) if len(label_N) else {}}

    def labels_and_logits(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels and logits of all rows, float64 (N), on every rank; the order is that of the batches."""
        plain = self.scoring.sharded.plain.eval()
        labels, logits = [np.zeros(0)], [np.zeros(0)]
        collate = self.scoring.collate(split)
        for window in self.scoring.windows(split, collate.columns):
            for rows, batch in self.scoring.batches(collate, window.rows(), window):
                output_B = plain.get_submodule("model")(self.scoring.sharded.embed(batch))
                if len(rows):
                    assert batch.label_B is not None
                    labels.append(batch.label_B[: len(rows)].cpu().double().numpy())
                    logits.append(output_B[: len(rows)].cpu().double().numpy())
        plain.train()
        mine = (np.concatenate(labels), np.concatenate(logits))
        gathered = all_values(mine, self.scoring.place)
        return np.concatenate([part[0] for part in gathered]), np.concatenate([part[1] for part in gathered])


@dataclass(frozen=True)
class Recommended:
    """The best items of some users: rows of the split (B), ids of items (B, K) and their scores."""

    rows_B: Int64s
    items_BK: Int64s
    scores_BK: np.ndarray


class NextItemEvaluator:
    """Ranks the last event of each row among all items, from the events before it.

    Rows with a single event have nothing to predict from and are left out.
    """

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self.unknown = scoring.unknown
        sequence = scoring.reading.sequence
        self.table, self.feature = next(
            (t, f) for t in scoring.reading.tables for f in t.features if f.name == sequence
        )
        self.column = self.feature.column
        self._held: tuple[str, Window] | None = None  # the rows that are scored now

    def protocol(self, split: str) -> dict[str, Any]:
        """Of both evaluations."""
        return {
            split: ranking.protocol(filtered=True, split=split),
            f"{split}_unfiltered": ranking.protocol(filtered=False, split=split),
        }

    @torch.no_grad()
    def __call__(self, split: str) -> Metrics:
        """Filtered by the name of the split, and SPLIT_unfiltered."""
        summed = {split: Counter[str](), f"{split}_unfiltered": Counter[str]()}
        for rows, scores_BN in self.scores(split):
            ranks = ranking.ranks_of_target(scores_BN, *self.targets_and_seen(split, rows))
            for name, rank_B in zip((f"{split}_unfiltered", split), ranks, strict=True):
                summed[name].update({"rows": len(rows), **ranking.sums(rank_B)})
        return {name: ranking.means(sums, lambda v: all_sums(v, self.scoring.place)) for name, sums in summed.items()}

    @torch.no_grad()
    def recommend(self, split: str, top_k: int, filter_seen: bool) -> list[Recommended]:
        """This rank's users with their best items, best first; equal scores in the order of the item table."""
        found = []
        for rows, scores_BN in self.scores(split):
            if filter_seen:
                target_B, row_P, item_P = self.targets_and_seen(split, rows)
                target_scores_B1 = scores_BN.gather(1, target_B[:, None])
                scores_BN[row_P, item_P] = -torch.inf
                scores_BN.scatter_(1, target_B[:, None], target_scores_B1)  # never the target
            ordered = scores_BN.sort(dim=1, descending=True, stable=True)
            items_BK, scores_BK = ordered.indices[:, :top_k], ordered.values[:, :top_k]
            found.append(Recommended(rows, items_BK.cpu().numpy(), scores_BK.cpu().numpy()))
        return found

    def scores(self, split: str) -> Iterator[tuple[Int64s, Tensor]]:
        """By batch: rows and scores (B, N), -inf for padding and out-of-vocabulary. A rank without rows in a batch
        takes part and yields nothing.
        """
        plain = self.scoring.sharded.plain.eval()
        model = cast(NextItemModel, plain.get_submodule("model"))
        items_ND = self._item_vectors(model)
        collate = self.scoring.collate(split)
        for eligible, window in self._eligible(split, collate.columns):
            for rows, batch in self.scoring.batches(collate, eligible, window):
                embedded = self.scoring.sharded.embed(batch)
                if len(rows):
                    scores_BN = model.queries(embedded)[: len(rows)] @ items_ND.T
                    scores_BN[:, :FIRST_ROW] = -torch.inf
                    yield rows, scores_BN
        plain.train()

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
        pairs = np.unique(np.repeat(np.arange(len(rows)), lengths) * self.table.rows + history)
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
        if self.feature.unknown == "error":
            return events, lengths
        return as_rows(events, out_of_range(events, self.table.rows), self.table.rows, self.feature), lengths

    def _eligible(self, split: str, columns: Iterable[str]) -> Iterator[tuple[Int64s, Window]]:
        """The rows that have something to predict from, some at a time, the shortest of them first."""
        for window in self.scoring.windows(split, {*columns, self.column}):
            self._held = (split, window)
            column, rows = window.columns[self.column], window.rows()
            lengths = column.lengths()
            if self.feature.unknown == "error":
                # all of a history counts as seen, also what no lookup reads; every rank checks all, so all raise alike
                bags = Bags(column.values, lengths)
                check_ids(self.feature, bags, self.table.rows, lambda row: f"split {split}, row {rows[row]}")  # noqa: B023
            by_length = np.argsort(lengths, kind="stable")  # batches of like lengths need the least padding
            yield rows[by_length[lengths[by_length] >= 2]], window
        self._held = None

    def _item_vectors(self, model: NextItemModel) -> Tensor:
        """Every row of the item table as it is compared with states (N, D), through the same lookups as in training."""
        lookup = self.scoring.sharded.embed
        parts = []
        any_split = self.scoring.flat.split("train")
        for start in range(0, self.table.rows, _ROWS_PER_LOOKUP):
            ids = torch.arange(start, min(start + _ROWS_PER_LOOKUP, self.table.rows))
            reading = replace(self.scoring.reading, candidates=_constant(ids))
            batch = Collate(any_split, reading, self.scoring.place.rank)(nobody(), 1, 0)
            embedded = lookup(batch.to(self.scoring.place.device))
            parts.append(model.items(embedded.sequences["candidates"].values_TD))
        return torch.cat(parts)


def _constant(ids: Tensor) -> Callable[[int], Tensor]:
    return lambda step: ids  # noqa: ARG005


def for_evaluation(reading: Reading) -> Reading:
    """The same reading without what only training asks for. Candidates stay a feature, since the order of features may
    not change, but are none.
    """
    reading = replace(reading, weight=None)
    if reading.candidates is None:
        return reading
    nothing = _constant(torch.zeros(0, dtype=torch.int64))
    return replace(reading, candidates=nothing, candidates_of=None, predicted=None)


def make_evaluator(scoring: Scoring) -> "BinaryEvaluator | NextItemEvaluator":
    """The evaluator of the task."""
    scoring = replace(scoring, reading=for_evaluation(scoring.reading))
    return NextItemEvaluator(scoring) if scoring.reading.task == "next_item" else BinaryEvaluator(scoring)
