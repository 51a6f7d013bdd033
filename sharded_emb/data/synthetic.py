"""A generated event log with structure worth learning, whose best reachable score is known."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.csv
from pydantic import Field, model_validator

from sharded_emb.data.base import LogConfig, RawLog
from sharded_emb.data.columns import RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.layouts.next_item import NextItem
from sharded_emb.data.synthetic_world import Habits, Ints, World, best_metrics, make_world, walk
from sharded_emb.data.work import Work
from sharded_emb.vocabulary_rows import FIRST_ROW

_FIRST_SECOND = 1_700_000_000
_SECONDS_PER_YEAR = 31_536_000
_MEAN_GAP_SECONDS = 40_000.0


class Synthetic(LogConfig):
    """Generates a log, writes it to raw/events.csv in the dataset folder, and reads it as an `EventLog`.

    users, items, clusters, mean_length, min_length, max_length: sizes; lengths are Poisson above the least, cut at the
    most. zipf: exponent of the popularity of items in their cluster (of clusters: half of it). stay, back, onward:
    the chances by which a user's next cluster is the last one, the one before, or a successor; see `synthetic_world`.
    """

    paths: ClassVar[tuple[str, ...]] = ()

    users: int = Field(default=8000, ge=10)
    items: int = Field(default=1000, ge=20)
    clusters: int = Field(default=25, ge=4)
    mean_length: float = Field(default=15.0, ge=3)
    min_length: int = Field(default=5, ge=3)
    max_length: int = Field(default=30, ge=3)
    zipf: float = Field(default=1.0, ge=0)
    stay: float = Field(default=0.2, ge=0)
    back: float = Field(default=0.45, ge=0)
    onward: float = Field(default=0.3, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "Synthetic":
        if self.raw is not None:
            raise ValueError(f"raw: want null, since this log is generated, got {self.raw}")
        if self.items % self.clusters:
            raise ValueError(f"items: want a multiple of clusters ({self.clusters}), got {self.items}")
        if self.max_length >= self.items // self.clusters:
            most = self.items // self.clusters - 1
            raise ValueError(f"max_length: want at most {most}, one less than a cluster's items, got {self.max_length}")
        if not self.min_length <= self.mean_length <= self.max_length:
            raise ValueError(f"mean_length: want one from min_length to max_length, got {self.mean_length:g}")
        if self.stay + self.back + self.onward >= 1:
            raise ValueError(f"onward: want stay + back + onward below 1, got {self.stay + self.back + self.onward:g}")
        return self

    def read(self, work: Work) -> RawLog:
        """See `LogConfig.read`."""
        file = work.folder / "raw" / "events.csv"
        file.parent.mkdir()
        self.write(file, work.seed)
        log = EventLog(raw=str(file), attributes=self.attributes, layout=self.layout, keep=self.keep)
        return log.read(work)

    def write(self, file: Path, seed: int) -> None:
        """The log as CSV: user, item, time; ids say nothing about clusters or popularity."""
        world, names, rng = self._world(seed)
        extra = rng.poisson(self.mean_length - self.min_length, self.users)
        lengths = np.minimum(self.min_length + extra, self.max_length).astype(np.int64)
        items_US = walk(world, lengths, rng)
        gaps_US = 1 + rng.exponential(_MEAN_GAP_SECONDS, items_US.shape).astype(np.int64)
        times_US = _FIRST_SECOND + rng.integers(0, _SECONDS_PER_YEAR, (self.users, 1)) + gaps_US.cumsum(1)
        user, step = np.nonzero(items_US >= 0)
        items, times = names[items_US[user, step]], times_US[user, step]
        order = np.lexsort((user, times))
        table = pa.table({"user": user[order] + 1, "item": items[order], "time": times[order]})
        pyarrow.csv.write_csv(table, file)

    def best_reachable(self, dataset: Dataset, seed: int) -> dict[str, dict[str, float]] | None:
        """What the ranker reached that knows the chances but not the future; filtered. Null for filtered logs."""
        if not isinstance(self.layout, NextItem) or self.min_user_events > 1 or self.min_item_events > 1:
            return None
        world, names, _ = self._world(seed)
        item_of_name = np.empty_like(names)
        item_of_name[names - 1] = np.arange(len(names))
        item_of_row = item_of_name[dataset.raw_ids("item")[FIRST_ROW:].to_numpy() - 1]
        exists_I = np.zeros(len(names), dtype=bool)
        exists_I[item_of_row] = True
        best = {}
        for split in ("valid", "test"):
            rows = RaggedColumn.from_arrow(dataset.split(split)["items"])
            if len(rows.offsets) > 1:
                best[split] = best_metrics(world, item_of_row[rows.values - FIRST_ROW], rows.offsets, exists_I)
        return best

    def _world(self, seed: int) -> tuple[World, Ints, np.random.Generator]:
        """The world, the raw id of each of its items, and the generator to go on with."""
        rng = np.random.default_rng(seed)
        habits = Habits(stay=self.stay, back=self.back, onward=self.onward)
        world = make_world(self.items, self.clusters, self.zipf, habits, rng)
        return world, rng.permutation(self.items) + 1, rng
