"""What a served model reads of a row, feature by feature, and how export.json says it."""

from collections.abc import Iterable, Mapping
from typing import Any

from sharded_emb.batch import CANDIDATES
from sharded_emb.data.attribute import bucket_names
from sharded_emb.data.columns import RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.fits import fits_of
from sharded_emb.data.labelled_text import LabelledText
from sharded_emb.data.task import Reading
from sharded_emb.errors import InputError
from sharded_emb.pooling.none import NoPooling
from sharded_emb.pooling.time_decay import TimeDecay
from sharded_emb.pooling.weighted import Weighted
from sharded_emb.serving.graph import BEHIND, Read, Traced
from sharded_emb.tables import Feature

_KINDS = {NoPooling: "gaps", Weighted: "weights", TimeDecay: "decay"}


def reads_of(reading: Reading, dataset: Dataset) -> list[Read]:
    """All features but candidates, those that describe items last. Raises InputError for a pooling of one's own that
    asks for numbers, which nobody could compute without its code.
    """
    found = []
    for feature in [*reading.features, *(each for each in reading.item_features if each.of != CANDIDATES)]:
        (table,) = (each for each in reading.tables if each.name == feature.table)
        numbers = bool(feature.pooling.columns())
        if numbers and type(feature.pooling) not in _KINDS:
            raise InputError(
                f"features.{feature.name}.pooling: want none, weighted or time_decay where it reads columns, got "
                f"{feature.pooling}, whose numbers are not known without its code"
            )
        single = feature.of is None and not dataset.columns[feature.column].type.startswith("list")
        most = feature.max_length if feature.of is not None else reading.limit(feature)
        asked = reading.task == "next_item" and feature.name in (reading.sequence, *reading.beside)
        found.append(Read(feature, table, table.pooled, most, asked, single, numbers))
    return found


def vocabulary_of(read: Read, dataset: Dataset) -> str | None:
    """That of the ids in its column."""
    feature = read.feature
    columns = dataset.manifest.item_attributes if feature.of is not None else dataset.columns
    return columns[feature.column].vocabulary


def prepared(columns: Iterable[str], dataset: Dataset) -> dict[str, dict[str, Any]]:
    """By column how numbers become what a model reads: names of buckets between edges, or a scale. Raises InputError
    where the dataset does not say it.
    """
    found: dict[str, dict[str, Any]] = {}
    for column, fit in fits_of(columns, dataset).items():
        if fit.edges is not None:
            found[column] = {"edges": fit.edges, "names": bucket_names(fit.edges)}
        else:
            scale = {"log": fit.log, "mean": fit.mean or 0.0, "deviation": fit.deviation or 1.0}
            found[column] = {**scale, "missing": fit.missing}
    return found


def texts_of(reading: Reading, dataset: Dataset) -> list[str]:
    """The columns that are words of texts, as `standalone.words` has them. Not so in a dataset of an earlier version,
    which has no key `quote`: each mark of a letter is a word of its own there.
    """
    said = dataset.manifest
    if said.layout != LabelledText.__name__ or "quote" not in said.dataset:
        return []
    return sorted({feature.column for feature in reading.features})


def description(read: Read, traced: Traced, dataset: Dataset, described: Mapping[str, RaggedColumn]) -> dict[str, Any]:
    """What `standalone.inputs` goes by. described: by feature that describes items the rows that each of them reads."""
    feature = read.feature
    fixed = traced.fixed.get(read.name)
    return {
        "name": read.name,
        "table": read.table.name,
        "column": feature.column,
        "vocabulary": vocabulary_of(read, dataset),
        "scalar": read.single,
        "limit": feature.max_length,
        "keep": feature.keep,
        "unknown": feature.unknown,
        "raw": feature.raw,
        "of": feature.of,
        "summed": read.summed,
        "asked": read.asked,
        "padding": read.table.padding_row if feature.pooled and not feature.raw else None,
        "numbers": _numbers(feature),
        "behind": BEHIND if fixed is None else min(BEHIND, fixed),
        "longest": fixed,
        "values": len(described[read.name].values) if read.name in described else 0,
    }


def _numbers(feature: Feature) -> Mapping[str, Any]:
    pooling, columns = feature.pooling, feature.pooling.columns()
    if not columns:
        return {}
    more = {}
    if isinstance(pooling, TimeDecay):
        more = {"half_life_seconds": pooling.half_life_seconds, "normalize": pooling.normalize}
    return {"kind": _KINDS[type(pooling)], "columns": columns, **more}
