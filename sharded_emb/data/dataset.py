"""A dataset folder on the disk: its manifest, its vocabularies and its splits.

manifest.yaml                what is in it, see `Manifest`
vocabulary/TABLE.parquet     row, raw, count; row 0 is padding, row 1 is out-of-vocabulary; neither has a raw id
train/ valid/ test/          part-00000.parquet ...; ids are rows of their vocabulary
attributes/item.parquet      next-item folders with attributes of items: row i belongs to row i of vocabulary/item
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import Field, ValidationError

from sharded_emb.component import Frozen
from sharded_emb.data.attribute import Fit
from sharded_emb.data.vocabulary_hash import hash_of
from sharded_emb.errors import InputError, nearest
from sharded_emb.vocabulary_rows import FIRST_ROW

SCHEMA_VERSION = 1
MANIFEST = "manifest.yaml"

ColumnType = Literal["int64", "float32", "list<int64>", "list<float32>"]
_ARROW = {
    "int64": pa.int64(),
    "float32": pa.float32(),
    "list<int64>": pa.list_(pa.int64()),
    "list<float32>": pa.list_(pa.float32()),
}


class Column(Frozen):
    """One column of the parts. `vocabulary` names the table whose rows its ids are; null for plain numbers."""

    type: ColumnType
    vocabulary: str | None = None

    @property
    def arrow(self) -> pa.DataType:
        """The type of the column in the Parquet parts."""
        return _ARROW[self.type]


class SplitInfo(Frozen):
    """Rows (samples) of a split and the number of its Parquet parts. digests: by column a hash of its values in the
    order of the rows; none in folders of an earlier version.
    """

    rows: int
    parts: int
    digests: dict[str, str] = Field(default_factory=dict)


class VocabularyInfo(Frozen):
    """`rows` counts padding and out-of-vocabulary; `sha256` is of the raw ids in the order of their rows."""

    rows: int
    raw: Literal["int64", "string"]
    sha256: str


class SourceFile(Frozen):
    """One raw file that was read: its name without the path, its size and the hash of its bytes."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(Frozen):
    """What a dataset folder says about itself.

    counts: users, items and events after filtering. built_over: which events the vocabularies count. source: the
    fingerprint of the raw files. dataset: the resolved dataset config, seed: the one it was prepared with.
    item_digests: of attributes of items, as those of splits. best_reachable: metrics by split of a ranker that knows
    how the data were made; only generated logs have one. facts: what else was counted, ties in time first of all.
    bad_rows: by config key, the malformed rows that were left out. extends: the hashes of the vocabularies of the
    dataset whose rows kept their numbers. fitted: by attribute what all rows were asked for, None in folders of an
    earlier version.
    """

    schema_version: Literal[1]
    layout: str
    split: str
    columns: dict[str, Column]
    item_attributes: dict[str, Column] = Field(default_factory=dict)
    item_digests: dict[str, str] = Field(default_factory=dict)
    splits: dict[str, SplitInfo]
    counts: dict[str, int]
    vocabularies: dict[str, VocabularyInfo]
    built_over: str
    source: list[SourceFile]
    seed: int
    dataset: dict[str, Any]
    best_reachable: dict[str, dict[str, float]] | None = None
    facts: dict[str, int] = Field(default_factory=dict)
    bad_rows: dict[str, int] = Field(default_factory=dict)
    extends: dict[str, str] | None = None
    fitted: dict[str, Fit] | None = None


class Dataset:
    """A dataset folder, opened. Tables are read when they are first asked for, and kept."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._tables: dict[str, pa.Table] = {}

    @classmethod
    def open(cls, folder: str | Path) -> "Dataset":
        """The dataset in `folder`. Raises InputError on `data` when there is none, or one of another version, or one
        without a vocabulary.
        """
        folder = Path(folder)
        found = cls(folder, read_manifest(folder))
        require_parts([found.vocabulary_file(table) for table in found.manifest.vocabularies])
        return found

    @property
    def columns(self) -> dict[str, Column]:
        """The columns of every split, by name."""
        return self.manifest.columns

    def rows(self, table: str) -> int:
        """The size of a vocabulary, padding and out-of-vocabulary rows included."""
        return self._vocabulary_info(table).rows

    def vocabulary(self, table: str) -> pa.Table:
        """row (int64), raw (int64 or string, null for rows 0 and 1), count (int64), in the order of the rows.

        Raises InputError for a file that is not the one of the manifest: its rows would be other ids.
        """
        info, name, file = self._vocabulary_info(table), f"vocabulary/{table}", self.vocabulary_file(table)
        if name not in self._tables:
            found = self._read(name, [file])
            same = "raw" in found.column_names and len(found) == info.rows
            if not same or hash_of(found["raw"].combine_chunks()[FIRST_ROW:]) != info.sha256:
                del self._tables[name]
                raise other_vocabulary(file)
        return self._tables[name]

    def vocabulary_of(self, table: str, columns: Iterable[str]) -> str | None:
        """Whose ids are rows of a table that these columns read: of the vocabulary of its name, else of the one that
        all of them have; None for no one's.
        """
        if table in self.manifest.vocabularies:
            return table
        known = {**self.columns, **self.manifest.item_attributes}
        found = {column.vocabulary for name in columns if (column := known.get(name)) is not None}
        return found.pop() if len(found) == 1 else None

    def raw_ids(self, table: str) -> pa.Array:
        """Raw ids by row; null for rows 0 and 1."""
        return self.vocabulary(table).column("raw").combine_chunks()

    def parts(self, split: str) -> list[Path]:
        """The Parquet files of a split, in order."""
        info = self._split_info(split)
        return [self.folder / split / part_name(i) for i in range(info.parts)]

    def split(self, name: str) -> pa.Table:
        """All rows of a split as one table, in the order of the parts. Raises InputError if it is not as described."""
        table = self._read(name, self.parts(name))
        missing = [column for column in self.columns if column not in table.column_names]
        if table.num_rows != self._split_info(name).rows or missing:
            what = f"without {', '.join(missing)}" if missing else f"with {table.num_rows} rows"
            raise InputError(f"data: want the {name} split that {MANIFEST} describes, got one {what}; {AGAIN}")
        if nulls := [column for column in self.columns if table[column].null_count]:
            raise InputError(f"data: want no nulls in the {name} split, got some in {', '.join(nulls)}; {AGAIN}")
        return table

    def first_rows(self, split: str, column: str, rows: int) -> pa.ChunkedArray:
        """A column of the first rows of a split, at most so many, without reading the others."""
        found: list[pa.Array] = []
        for part in self.parts(split):
            require_parts([part])
            try:
                with pq.ParquetFile(part, memory_map=True) as file:
                    for batch in file.iter_batches(rows, columns=[column], use_threads=False):
                        found.append(batch.column(0))
                        if sum(map(len, found)) >= rows:
                            return pa.chunked_array(found).slice(0, rows)
            except (pa.ArrowException, OSError) as error:
                raise not_whole(part, error) from error
        return pa.chunked_array(found, self.columns[column].arrow)

    def item_attributes(self) -> pa.Table:
        """The attribute columns of items, one row a row of vocabulary `item`; no columns where there are none."""
        if not self.manifest.item_attributes:
            return pa.table({})
        return self._read("attributes/item", [self.folder / "attributes" / "item.parquet"])

    def _read(self, name: str, files: list[Path]) -> pa.Table:
        if name not in self._tables:
            require_parts(files)
            # one chunk a column: whoever reads it by numpy would join the chunks again and again
            self._tables[name] = pa.concat_tables([_read_file(file) for file in files]).combine_chunks()
        return self._tables[name]

    def vocabulary_file(self, table: str) -> Path:
        """Where a vocabulary is."""
        return self.folder / "vocabulary" / f"{table}.parquet"

    def _vocabulary_info(self, table: str) -> VocabularyInfo:
        known = self.manifest.vocabularies
        if table not in known:
            raise InputError(f"data: want a vocabulary of {self.folder}, got {table!r}{nearest(table, known)}")
        return known[table]

    def _split_info(self, split: str) -> SplitInfo:
        known = self.manifest.splits
        if split not in known:
            raise InputError(f"data: want a split of {self.folder}, got {split!r}{nearest(split, known)}")
        return known[split]


AGAIN = "prepare the folder again with overwrite=true"


def _read_file(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise not_whole(file, error) from error


def not_whole(file: Path, error: Exception) -> InputError:
    """Of a Parquet file that cannot be read."""
    return InputError(f"data: want a whole Parquet file in {file}, got {str(error).splitlines()[0]}; {AGAIN}")


def other_vocabulary(file: Path) -> InputError:
    """Of a file whose rows are not those that the manifest describes."""
    return InputError(
        f"data: want the vocabulary that {MANIFEST} describes in {file}, got another; {AGAIN}, or put the file back"
    )


def require_parts(files: list[Path]) -> None:
    """Raises InputError for a file that is not there."""
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(f"data: want the file {missing[0]}, which the manifest names, got none; {AGAIN}")


def part_name(number: int) -> str:
    """The file name of a part of a split."""
    return f"part-{number:05d}.parquet"


def aside(folder: Path) -> Path:
    """Where a dataset is while another one takes its name."""
    return folder.with_name(f".{folder.name}.old")


def moved_aside(folder: Path) -> Path | None:
    """The dataset that had this name, where a kill has left none there."""
    if folder.exists():
        return None
    return old if ((old := aside(folder)) / MANIFEST).is_file() else None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset folder. Raises InputError on `data`: no folder, no manifest, another version."""
    if (old := moved_aside(folder)) is not None:
        got = f"got {folder}, which a prepare that was killed has moved to {old}"
        raise InputError(f"data: want a dataset folder, {got}; move it back")
    if not folder.is_dir():
        raise InputError(
            f"data: want a dataset folder, got {folder}, which is none; make it with prepare data={folder}"
        )
    file = folder / MANIFEST
    if not file.is_file():
        raise InputError(
            f"data: want a folder with {MANIFEST}, got {folder} without one; make one with prepare data=..."
        )
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"data: want YAML in {file}, got {str(error).splitlines()[0]}; {AGAIN}") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"data: want schema_version {SCHEMA_VERSION} in {file}, got {version}; {AGAIN}")
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise InputError(*(f"data: want a sound {file}, got {line}; {AGAIN}" for line in lines)) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a folder that is being prepared."""
    text = yaml.safe_dump(manifest.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
