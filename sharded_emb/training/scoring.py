"""What is scored: rows of a split, a batch of each rank at a time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sharded_emb.batch import Batch, UnknownCount
from sharded_emb.data.collate import Collate
from sharded_emb.data.columns import Int64s
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.flat import FlatCopy
from sharded_emb.data.source import BatchesConfig, Part, Source
from sharded_emb.data.task import Reading
from sharded_emb.data.window import Window
from sharded_emb.distributed.agree import all_sums, all_values, together
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded
from sharded_emb.vocabulary_rows import UNKNOWN_ROW

_MEGABYTES_AT_ONCE = 32  # of a split


class AskedToStopError(Exception):
    """A rank was asked to stop while a split was evaluated. Raised on every rank. signal: what for."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


def _never() -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What both evaluators need: a model, data to score, and in which pieces. heard: by what signal this rank is asked
    to stop, 0 for none. streamed: whether the model was trained on a stream.
    """

    sharded: Sharded
    dataset: Dataset
    flat: FlatCopy
    reading: Reading
    batch_per_rank: int
    heard: Callable[[], int] = _never
    streamed: bool = False
    unknown: dict[str, dict[str, UnknownCount]] = field(default_factory=dict)

    @property
    def protocol(self) -> dict[str, str]:
        """What there is to know of the numbers of any split."""
        return {"trained_on": "a stream, which may be later than these rows"} if self.streamed else {}

    @property
    def row_is(self) -> Literal["user", "session"]:
        """What a row of a dataset of sequences is of."""
        layout = self.dataset.manifest.dataset.get("layout", {})
        return "user" if layout.get("session_gap_seconds") is None else "session"

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

    def values(self, split: str, column: str) -> Int64s:
        """All of a column with one number a row, in the order of a split."""
        found = [window.columns[column].all_values() for window in self.windows(split, [column])]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def users(self, split: str) -> Int64s | None:
        """The user of each row of a split, where the data have a column of that name. Rows of users that are out of
        vocabulary have nothing in common: each has a negative number of its own.
        """
        column = self.dataset.columns.get("user")
        if column is None:
            return None
        user_N = self.values(split, "user")
        if column.vocabulary is None:
            return user_N
        return np.where(user_N == UNKNOWN_ROW, -1 - np.arange(len(user_N)), user_N)

    def collate(self, split: str) -> Collate:
        """Which counts anew what is unknown."""
        collate = Collate(self.flat.split(split), self.reading, self.place.rank, split)
        self.unknown[split] = collate.unknown
        return collate

    def require_nobody_stops(self) -> None:
        """Raises AskedToStopError on every rank once one of them was asked to stop."""
        if all_sums([float(self.heard() != 0)], self.place)[0]:
            raise AskedToStopError(max(all_values(self.heard(), self.place)))

    def batches(self, collate: Collate, rows: Int64s, window: Window) -> Iterator[tuple[Int64s, Batch]]:
        """This rank's part of these rows of a window, and its batch on the device. Raises AskedToStopError."""
        for number, part in enumerate(self.parts(rows)):
            self.require_nobody_stops()
            with together(self.place):
                batch = collate(part.rows, part.size, number, window=window)
            collate.count(batch)
            yield part.rows, batch.to(self.place.device)


def constant(ids: Tensor) -> Callable[[int], Tensor]:
    """The same candidates in every step."""
    return lambda step: ids  # noqa: ARG005


def for_evaluation(reading: Reading) -> Reading:
    """The same reading without what only training asks for. Candidates stay a feature, since the order of features may
    not change, but are none.
    """
    reading = replace(reading, weight=None)
    if reading.candidates is None:
        return reading
    nothing = constant(torch.zeros(0, dtype=torch.int64))
    return replace(reading, candidates=nothing, candidates_of=None, predicted=None, own_candidates=None)
