"""What the task of a config reads of the data, and what its loss is told of them."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sharded_emb.config.run import RunConfig
from sharded_emb.config.vocabularies import vocabulary_by_table
from sharded_emb.data.bags import Bags, check_ids
from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.task import Events, Reading
from sharded_emb.data.window import Split, frequencies
from sharded_emb.losses.base import NOTHING_SEEN, LabelledLossConfig, LossConfig, NextItemLossConfig, Seen
from sharded_emb.losses.hard import HardConfig, HardNegatives, read
from sharded_emb.losses.negatives import SampledConfig
from sharded_emb.models.base import Drawn, NextItemConfig
from sharded_emb.models.compared import ComparedConfig
from sharded_emb.tables import Table
from sharded_emb.vocabulary_rows import FIRST_ROW


def item_table(config: RunConfig) -> str | None:
    """The table that a next-item loss scores against."""
    if not isinstance(config.model, NextItemConfig):
        return None
    return config.features[config.model.history].table


def item_rows(config: RunConfig, tables: list[Table]) -> int | None:
    """Its number of rows."""
    return next((table.rows for table in tables if table.name == item_table(config)), None)


def seen_before(config: RunConfig, tables: list[Table], train: Split) -> Seen:
    """What the loss asks for that does not depend on the batch."""
    rows, model, loss = item_rows(config, tables), config.model, config.loss
    if rows is None or not isinstance(loss, NextItemLossConfig) or "counts_N" not in loss.asks_for:
        return NOTHING_SEEN
    assert isinstance(model, NextItemConfig)
    feature = next(f for table in tables for f in table.features if f.name == model.history)
    counts_N = frequencies(train, feature, rows, predicted="batch_E" in loss.asks_for)
    return Seen(counts_N=torch.from_numpy(counts_N.astype(np.float64)))


def hard_negatives(config: RunConfig, tables: list[Table], dataset: Dataset) -> HardNegatives | None:
    """Those of the file that the loss names, if it does. Raises InputError for one that does not fit."""
    hard, table = hard_config(config.loss), item_table(config)
    if hard is None or table is None:
        return None
    vocabulary = vocabulary_by_table(config.features, dataset).get(table)
    assert vocabulary is not None  # as the rules have it
    return read(hard, dataset.raw_ids(vocabulary)[: item_rows(config, tables)])


def item_attributes(tables: list[Table], dataset: Dataset) -> dict[str, RaggedColumn]:
    """By feature that describes items, the rows of its table that each row of the item table has. Raises InputError
    for ids that are no rows.
    """
    found = {}
    for table in tables:
        for feature in table.features:
            if feature.of is None:
                continue
            column = RaggedColumn.from_arrow(dataset.item_attributes()[feature.column])
            rows = table.ids.rows_of(column.all_values(), table.rows, feature.raw)
            bags = Bags(rows, column.lengths())
            if not table.ids.assigned:
                check_ids(feature, bags, table.rows, lambda row: f"row {row} of the item table")
            # padding describes nothing, and nothing describes what is no item
            item = np.repeat(np.arange(len(bags.lengths)), bags.lengths)
            bags = bags.without((item < FIRST_ROW) | (rows == (-1 if table.padding_row is None else table.padding_row)))
            found[feature.name] = RaggedColumn(bags.ids, np.concatenate([[0], np.cumsum(bags.lengths)]))
    return found


def hard_config(loss: LossConfig) -> HardConfig | None:
    """Of a loss that takes hard negatives, and is to."""
    return loss.hard if isinstance(loss, SampledConfig) else None


def make_reading(config: RunConfig, tables: list[Table], seen: Seen, hard: HardNegatives | None = None) -> Reading:
    """What the task of this config reads. seen: what its loss asks for that does not depend on the batch. hard: the
    negatives of its file.
    """
    model, loss, numbers = config.model, config.loss, config.model.number_columns()
    if isinstance(loss, LabelledLossConfig):
        return Reading(task="binary", tables=tables, labels=loss.labels, numbers=numbers, weight=loss.weight)
    assert isinstance(model, NextItemConfig)
    assert isinstance(loss, NextItemLossConfig)
    rows = item_rows(config, tables)
    assert rows is not None

    def candidates(step: int) -> Tensor:
        return loss.candidates(rows, config.seed, step, seen)

    def candidates_of(step: int, predicted: Int64s) -> Tensor:
        return loss.candidates(rows, config.seed, step, Seen(seen.counts_N, torch.from_numpy(predicted)))

    def predicted(samples: Int64s, lengths: Int64s, step: int) -> npt.NDArray[np.bool_ | np.float64]:
        return model.predicted(Drawn(samples, lengths, config.seed, step))

    def own_candidates(events: Events, step: int) -> Int64s:
        assert hard is not None
        return hard.of(events, config.seed, step)

    return Reading(
        task="next_item",
        tables=tables,
        sequence=model.history,
        beside=model.beside if isinstance(model, ComparedConfig) else (),
        candidates=candidates,
        candidates_of=candidates_of if "batch_E" in loss.asks_for else None,
        predicted=predicted if model.draws_events else None,
        own_candidates=own_candidates if hard is not None else None,
        numbers=numbers,
        weight=loss.weight,
    )
