"""Vocabularies of a checkpoint and of a dataset: the same, one that extends the other, or rows of somebody else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sharded_emb.data.dataset import Dataset
from sharded_emb.data.vocabulary_hash import hash_of
from sharded_emb.errors import InputError
from sharded_emb.tables import Table
from sharded_emb.vocabulary_rows import FIRST_ROW


@dataclass(frozen=True)
class Vocabulary:
    """That of a table in a dataset, where it has a name. rows: with those for padding and for what is unknown."""

    table: str
    name: str
    rows: int
    sha256: str
    dataset: Dataset

    @property
    def raw_ids(self) -> pa.Array:
        """By row, from the first one that stands for an id."""
        return self.dataset.raw_ids(self.name)[FIRST_ROW:]

    @property
    def columns(self) -> str:
        """Those that hold its rows, for a message."""
        found = [name for name, column in self.dataset.columns.items() if column.vocabulary == self.name]
        return f" (of {', '.join(found)})" if found and found != [self.table] else ""

    def extends(self, sha256: str, rows: int) -> bool:
        """Whether its first rows are a vocabulary of this hash and size, so that old rows keep their numbers."""
        if rows > self.rows:
            return False
        first = self.raw_ids[: rows - FIRST_ROW]
        return sha256 in (hash_of(first), _hash_as_numbers(first))


def vocabularies_of(dataset: Dataset, tables: Iterable[Table]) -> dict[str, Vocabulary]:
    """By table; tables without one are left out."""
    found, known = {}, dataset.manifest.vocabularies
    for table in tables:
        name = dataset.vocabulary_of(table.name, [feature.column for feature in table.features])
        if name is not None:
            found[table.name] = Vocabulary(table.name, name, known[name].rows, known[name].sha256, dataset)
    return found


def said_of(vocabularies: Mapping[str, Vocabulary]) -> dict[str, Any]:
    """What a checkpoint says of them."""
    return {
        "vocabularies": {name: each.sha256 for name, each in vocabularies.items()},
        "vocabulary_rows": {name: each.rows for name, each in vocabularies.items()},
    }


def other_vocabulary(mine: Vocabulary, said: Mapping[str, Any], checkpoint: Path) -> str | None:
    """Why rows of a table would be somebody else's; None where its vocabulary is that of the checkpoint, extends it, or
    the checkpoint knows of none. said: what the checkpoint says of its run.
    """
    sha256, rows = said["vocabularies"].get(mine.table), said["vocabulary_rows"].get(mine.table, 0)
    if sha256 in (None, mine.sha256) or mine.extends(sha256, rows):
        return None
    before, difference, remedy = raw_ids_of(said, sha256), "", "prepare extend=OLD_FOLDER"
    if before is not None:
        dataset, raw_ids = before
        difference = f", which differs from {_first_difference(raw_ids, mine.raw_ids)}"
        remedy = f"prepare extend={dataset.folder}"
    return (
        f"data: want the vocabulary of {mine.table}{mine.columns} that {checkpoint} was trained on, or one that "
        f"extends it, got another{difference}; its rows would be somebody else's; make the dataset by {remedy}, give "
        "that of the run, or train again"
    )


def _hash_as_numbers(raw: pa.Array) -> str | None:
    """Of texts that are whole numbers, as which they were kept before one came that is none."""
    try:
        return hash_of(raw.cast(pa.int64()))
    except pa.ArrowInvalid:
        return None


def raw_ids_of(said: Mapping[str, Any], sha256: str) -> tuple[Dataset, pa.Array] | None:
    """The dataset of the run which left the checkpoint, and the raw ids of its vocabulary with this hash, if both are
    where they were: by row, from the first one that stands for an id.
    """
    folder = said.get("config", {}).get("data")
    try:
        dataset = Dataset.open(Path(folder or ""))
        names = [name for name, info in dataset.manifest.vocabularies.items() if info.sha256 == sha256]
        return (dataset, dataset.raw_ids(names[0])[FIRST_ROW:]) if names else None
    except InputError:
        return None


def _first_difference(old: pa.Array, new: pa.Array) -> str:
    both = min(len(old), len(new))
    same = pc.equal(old[:both].cast(pa.string()), new[:both].cast(pa.string())).to_numpy(zero_copy_only=False)
    at = both if same.all() else int(np.argmin(same))
    ids = [repr(each[at].as_py()) if at < len(each) else "no id" for each in (old, new)]
    return f"row {at + FIRST_ROW} on, which was that of {ids[0]} and is that of {ids[1]}"
