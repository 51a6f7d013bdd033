"""Which vocabulary the rows of a table are of, and so how many there are."""

from collections.abc import Mapping

from sharded_emb.data.dataset import Dataset
from sharded_emb.tables import FeatureConfig


def vocabulary_by_table(features: Mapping[str, FeatureConfig], dataset: Dataset) -> dict[str, str]:
    """Of the tables that some feature reads and whose ids are of one vocabulary."""
    columns: dict[str, list[str]] = {}
    for feature in features.values():
        columns.setdefault(feature.table, []).append(feature.column)
    found = {table: dataset.vocabulary_of(table, names) for table, names in columns.items()}
    return {table: vocabulary for table, vocabulary in found.items() if vocabulary is not None}


def rows_by_table(features: Mapping[str, FeatureConfig], dataset: Dataset) -> dict[str, int]:
    """What `rows: auto` is for these tables."""
    return {table: dataset.rows(vocabulary) for table, vocabulary in vocabulary_by_table(features, dataset).items()}
