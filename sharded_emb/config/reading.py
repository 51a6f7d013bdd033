"""What the task of a config reads of the data, and what its loss is told of them."""

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sharded_emb.config.run import RunConfig
from sharded_emb.data.collate import Reading
from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.losses.base import NOTHING_SEEN, BinaryLossConfig, NextItemLossConfig, Seen
from sharded_emb.models.base import Drawn, NextItemConfig
from sharded_emb.tables import Table
from sharded_emb.vocabulary_rows import FIRST_ROW


class TrainEvents:
    """The events of the train split that a next-item model learns from."""

    def __init__(self, config: RunConfig, dataset: Dataset, rows: int) -> None:
        assert isinstance(config.model, NextItemConfig)
        feature = config.features[config.model.history]
        self.column = RaggedColumn.from_arrow(dataset.split("train")[feature.column])
        self.limit = None if feature.max_length is None else feature.max_length + 1
        self.rows = rows

    @cached_property
    def counts_N(self) -> Tensor:
        """How often each row of the item table is an event, float64; what is no item counts nothing."""
        values = self.column.values[slice(*self.column.offsets[[0, -1]])]
        counts_N = np.bincount(values[(values >= FIRST_ROW) & (values < self.rows)], minlength=self.rows)
        return torch.from_numpy(counts_N.astype(np.float64))

    def predicted_by(self, rows: Int64s) -> Tensor:
        """The ids of all events of these rows but the first of each."""
        values, lengths = self.column.take(rows, self.limit)
        first = (np.cumsum(lengths) - lengths)[lengths > 0]
        events = np.delete(values, first)
        return torch.from_numpy(events[(events >= FIRST_ROW) & (events < self.rows)])


def item_table(config: RunConfig) -> str | None:
    """The table that a next-item loss scores against."""
    if not isinstance(config.model, NextItemConfig):
        return None
    return config.features[config.model.history].table


def item_rows(config: RunConfig, tables: list[Table]) -> int | None:
    """Its number of rows."""
    return next((table.rows for table in tables if table.name == item_table(config)), None)


def seen_before(config: RunConfig, tables: list[Table], dataset: Dataset) -> Seen:
    """What the loss asks for that does not depend on the batch."""
    rows = item_rows(config, tables)
    if rows is None or not isinstance(config.loss, NextItemLossConfig) or "counts_N" not in config.loss.asks_for:
        return NOTHING_SEEN
    return Seen(counts_N=TrainEvents(config, dataset, rows).counts_N)


def make_reading(config: RunConfig, tables: list[Table], dataset: Dataset) -> Reading:
    """What the task of this config reads."""
    model, loss = config.model, config.loss
    if isinstance(loss, BinaryLossConfig):
        return Reading(task="binary", tables=tables, label=loss.label, weight=loss.weight)
    assert isinstance(model, NextItemConfig)
    assert isinstance(loss, NextItemLossConfig)
    rows = item_rows(config, tables)
    assert rows is not None
    seen = seen_before(config, tables, dataset)

    def candidates(step: int) -> Tensor:
        return loss.candidates(rows, config.seed, step, seen)

    def candidates_of(step: int, samples: Int64s) -> Tensor:
        of_batch = Seen(seen.counts_N, events.predicted_by(samples))
        return loss.candidates(rows, config.seed, step, of_batch)

    def predicted(samples: Int64s, lengths: Int64s, step: int) -> npt.NDArray[np.bool_]:
        return model.predicted(Drawn(samples, lengths, config.seed, step))

    events = TrainEvents(config, dataset, rows)
    return Reading(
        task="next_item",
        tables=tables,
        sequence=model.history,
        candidates=candidates,
        candidates_of=candidates_of if "batch_E" in loss.asks_for else None,
        predicted=predicted if model.draws_events else None,
        weight=loss.weight,
    )
