"""What a step of a config reads, as far as that is known before it: what plans are made for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from sharded_emb.batch import CANDIDATES
from sharded_emb.config.run import RunConfig
from sharded_emb.data.columns import RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.losses.base import NextItemLossConfig
from sharded_emb.models.base import NextItemConfig
from sharded_emb.planning.sizes import Workload
from sharded_emb.tables import Feature, Table

_MEASURED_ROWS = 100_000  # of the data, from the first on


@dataclass(frozen=True)
class Length:
    """How many ids of a feature a sample has on average, and where that is known from."""

    ids: float
    why: str

    def __str__(self) -> str:
        """`2.3 (in the data)`."""
        return f"{self.ids:.3g} ({self.why})"


def lengths(
    config: RunConfig, tables: Iterable[Table], dataset: Dataset | None, given: Mapping[str, float]
) -> dict[str, Length]:
    """By feature. given: what a user says."""
    features = [f for table in tables for f in table.features if CANDIDATES not in (f.name, f.of)]
    found = {f.name: _length(config, f, dataset, given) for f in features if f.of is None}
    for feature in features:
        if feature.of is not None:
            own, of = _length(config, feature, dataset, given), found[feature.of]
            found[feature.name] = own if feature.name in given else Length(own.ids * of.ids, own.why)
    return found


def _length(config: RunConfig, feature: Feature, dataset: Dataset | None, given: Mapping[str, float]) -> Length:
    if feature.name in given:
        return Length(given[feature.name], "given")
    model = config.model
    limit = feature.max_length
    if limit is not None and isinstance(model, NextItemConfig) and model.history == feature.name:
        limit += 1  # the event that is predicted
    if dataset is not None:
        if feature.of is not None:
            return Length(_per_item(feature, dataset), "in the data")
        counts = RaggedColumn.from_arrow(dataset.first_rows("train", feature.column, _MEASURED_ROWS)).lengths()
        mean = float(np.minimum(counts, limit).mean() if limit is not None else counts.mean()) if len(counts) else 0.0
        return Length(mean, "in the data")
    if limit is not None:
        return Length(float(limit), "max_length")
    return Length(1.0, f"assumed; say ids_per_sample.{feature.name}=NUMBER")


def _per_item(feature: Feature, dataset: Dataset) -> float:
    """How many ids of a feature an event's item has, on average over the events that the vocabulary counts."""
    values = RaggedColumn.from_arrow(dataset.item_attributes()[feature.column]).lengths()
    events = RaggedColumn.from_arrow(dataset.vocabulary("item")["count"]).values
    return float(values @ events / max(events.sum(), 1))


def workload(config: RunConfig, tables: Iterable[Table], known: Mapping[str, Length]) -> Workload:
    """Of a step. tables: with those that are composed as one."""
    model, loss, candidates = config.model, config.loss, {}
    ids = {name: length.ids for name, length in known.items()}
    if isinstance(model, NextItemConfig) and isinstance(loss, NextItemLossConfig):
        item = config.features[model.history].table
        (count,) = (loss.candidate_count(table.rows) for table in tables if table.name == item)
        candidates = {item: count}
        for table in tables:  # as many of what describes an item for each candidate as for each event
            described = [f.name for f in table.features if f.of == model.history and known[model.history].ids]
            per_item = sum(known[name].ids / known[model.history].ids for name in described)
            if described:
                candidates[table.name] = candidates.get(table.name, 0) + round(count * per_item)
            for name in described:
                ids[name] *= 1 + loss.own_per_event
        ids[model.history] *= 1 + loss.own_per_event  # of each event
    return Workload(
        batch=config.global_batch,
        ids=ids,
        candidates=candidates,
        pieces=config.accumulation,
        forward=config.sharding.communication.forward,
        backward=config.sharding.communication.backward,
    )
