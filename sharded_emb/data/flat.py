"""A copy of a dataset's splits that can be read at any row: the numbers of each column one after the other.

Parquet has to be decoded a row group at a time, which is slow for rows from all over a split, and takes more memory the
larger its row groups are. The copy is made once and renewed when a part has changed.

FOLDER/SPLIT/meta.json    which parts it is made from, its rows and columns
FOLDER/SPLIT/N.values     the values of column N, little-endian
FOLDER/SPLIT/N.offsets    of a column of lists: where each row begins, and the end of the last; int64
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sharded_emb.data.alone import alone
from sharded_emb.data.columns import RaggedColumn, as_numpy
from sharded_emb.data.dataset import AGAIN, MANIFEST, Dataset, not_whole, require_parts
from sharded_emb.data.extents import Extents
from sharded_emb.data.window import Window
from sharded_emb.errors import InputError

FLAT = "flat"
_VERSION = 1
_ROWS_AT_ONCE = 65_536
_NUMPY: dict[str, np.dtype[Any]] = {"int64": np.dtype("<i8"), "float32": np.dtype("<f4")}


@dataclass(frozen=True)
class _Column:
    """One column on the disk."""

    path: Path
    type: str

    @property
    def dtype(self) -> np.dtype[Any]:
        return _NUMPY[self.type.removeprefix("list<").removesuffix(">")]

    @cached_property
    def values(self) -> BinaryIO:
        return self.path.with_suffix(".values").open("rb", buffering=0)

    @cached_property
    def offsets(self) -> BinaryIO | None:
        return self.path.with_suffix(".offsets").open("rb", buffering=0) if self.type.startswith("list<") else None

    def read(self, extents: Extents) -> RaggedColumn:
        """The rows of these extents."""
        runs = list(zip(extents.starts.tolist(), extents.ends.tolist(), strict=True))
        if self.offsets is None:
            return RaggedColumn(_gathered(self.values, self.dtype, runs, len(extents)))
        offsets, at, total = np.empty(len(extents) + 1, np.int64), 0, 0
        offsets[0] = 0
        values = []
        for start, end in runs:
            # one entry more than there are rows, which the next extent then overwrites with its own beginning
            found = offsets[at : at + end - start + 1]
            _fill(self.offsets, found, start)
            first, last = int(found[0]), int(found[-1])
            found += total - first
            values.append((first, last))
            at, total = at + end - start, total + last - first
        return RaggedColumn(_gathered(self.values, self.dtype, values, total), offsets)


def _gathered(file: BinaryIO, dtype: np.dtype[Any], runs: Iterable[tuple[int, int]], total: int) -> npt.NDArray[Any]:
    found = np.empty(total, dtype)
    if not total:
        return found
    room, size, at, descriptor = memoryview(found.data).cast("B"), found.itemsize, 0, file.fileno()
    for start, end in runs:  # of which a pool has some hundreds for each column, so little is done for each
        to = at + (end - start) * size
        if os.preadv(descriptor, (room[at:to],), start * size) != to - at:
            _fill(file, found[at // size : to // size], start)
        at = to
    return found


def _fill(file: BinaryIO, found: npt.NDArray[Any], start: int) -> None:
    """Reads the numbers from the start-th on. os.preadv moves no position, so that threads can share a file."""
    if not len(found):
        return
    wanted, at = memoryview(found.data).cast("B"), start * found.itemsize
    while len(wanted):
        count = os.preadv(file.fileno(), [wanted], at)
        if not count:
            raise InputError(f"data: want a whole file in {file.name}, got a shorter one; delete its folder")
        wanted, at = wanted[count:], at + count


class FlatSplit:
    """A split whose rows are read from the copy. Reading is safe from several threads."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self._columns = {
            name: _Column(folder / str(number), kind) for number, (name, kind) in enumerate(meta["columns"].items())
        }
        self.files = [(each.values, each.offsets) for each in self._columns.values()]  # while they are what meta is of
        self.rows: int = meta["rows"]
        # of the numbers alone: orders go by it, and are the same wherever the copy is
        self.row_bytes = sum(meta["sizes"].values()) / max(self.rows, 1)

    def window(self, columns: Iterable[str], extents: Extents) -> Window:
        """These columns of these rows. Raises InputError for what cannot be read."""
        try:
            return Window(extents, {name: self._columns[name].read(extents) for name in columns})
        except OSError as error:
            raise InputError(f"data: want to read {error.filename or 'the flat copy'}, got {error.strerror}") from error

    def spans(self, megabytes: float) -> Iterator[Extents]:
        """All rows in their order, so many at a time that they take about these megabytes."""
        step = max(1, int(megabytes * 1e6 / max(self.row_bytes, 1.0)))
        for start in range(0, self.rows, step):
            yield Extents.span(start, min(start + step, self.rows))


class FlatCopy:
    """The copy of a dataset: `flat` in its folder, or in a folder that is given, which may hold those of others."""

    def __init__(self, dataset: Dataset, folder: Path | None = None) -> None:
        self.dataset = dataset
        own = hashlib.sha256(str(dataset.folder.resolve()).encode()).hexdigest()[:16]
        self.folder = dataset.folder / FLAT if folder is None else folder / own
        self._splits: dict[str, FlatSplit] = {}

    def split(self, name: str) -> FlatSplit:
        """A split, copied first if that is not done yet. Raises InputError for parts that are not as the manifest says,
        and on `flat_copy` where nothing can be written.
        """
        if name not in self._splits:
            self._splits[name] = self._open(name)
        return self._splits[name]

    def _open(self, name: str) -> FlatSplit:
        origin = self._origin(name)
        try:
            if (found := self._found(name, origin)) is not None:
                return found
            with alone(self.folder / name):
                if (found := self._found(name, origin)) is None:
                    self._write(name, origin)
                    found = self._found(name, origin)
        except OSError as error:
            raise InputError(
                f"flat_copy: want a place for a copy of the {name} split, got {self.folder}: {error.strerror}; name "
                "another folder"
            ) from error
        if found is None:
            got = f"got {self.folder}, where somebody has changed it while it was made"
            raise InputError(f"flat_copy: want a copy of the {name} split, {got}; name another folder, or try again")
        return found

    def _origin(self, name: str) -> dict[str, Any]:
        """What tells whether a copy is one of the parts as they are now."""
        parts = self.dataset.parts(name)
        require_parts(parts)
        stats = [part.stat() for part in parts]
        columns = {column: each.type for column, each in self.dataset.columns.items()}
        return {
            "version": _VERSION,
            "parts": [
                [str(part.resolve()), stat.st_size, stat.st_mtime_ns] for part, stat in zip(parts, stats, strict=True)
            ],
            "rows": self.dataset.manifest.splits[name].rows,
            "columns": columns,
        }

    def _found(self, name: str, origin: dict[str, Any]) -> FlatSplit | None:
        """The copy, if it is whole and of these parts; None also where another process renews it just now."""
        folder = self.folder / name
        text = _text(folder / "meta.json")
        try:
            meta = json.loads(text)
            sizes = {file: (folder / file).stat().st_size for file in meta["sizes"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if {key: meta.get(key) for key in origin} != origin or sizes != meta["sizes"]:
            return None
        try:
            found = FlatSplit(folder, meta)
        except FileNotFoundError:
            return None
        return found if _text(folder / "meta.json") == text else None  # else the files may be those of the next copy

    def _write(self, name: str, origin: dict[str, Any]) -> None:
        aside, folder = self.folder / f".{name}.part", self.folder / name
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            _copy(self.dataset, name, aside)
            sizes = {file.name: file.stat().st_size for file in aside.iterdir()}
            (aside / "meta.json").write_text(json.dumps({**origin, "sizes": sizes}), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _text(file: Path) -> str:
    """Of a file; nothing where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _copy(dataset: Dataset, name: str, folder: Path) -> None:
    """Writes the columns of all parts, some rows at a time. Raises InputError as `Dataset.split` does."""
    writers = [_Writer(folder / str(number), each.type) for number, each in enumerate(dataset.columns.values())]
    rows = 0
    try:
        for part in dataset.parts(name):
            for batch in _batches(dataset, name, part):
                rows += batch.num_rows
                for column, writer, array in zip(dataset.columns, writers, batch.columns, strict=True):
                    if not writer.takes(array):
                        nulls = "nulls" if array.null_count or _nulls_within(array) else f"{array.type}"
                        wanted = f"want {writer.type} without nulls in column {column} of {part}"
                        raise InputError(f"data: {wanted}, got {nulls}; {AGAIN}")
                    writer.write(array)
    finally:
        for writer in writers:
            writer.close()
    if rows != dataset.manifest.splits[name].rows:
        raise InputError(f"data: want the {name} split that {MANIFEST} describes, got one with {rows} rows; {AGAIN}")


def _batches(dataset: Dataset, name: str, part: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(part, memory_map=True) as file:
            there = file.schema_arrow.names
            if missing := [column for column in dataset.columns if column not in there]:
                what = f"without {', '.join(missing)}"
                raise InputError(f"data: want the {name} split that {MANIFEST} describes, got one {what}; {AGAIN}")
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(dataset.columns), use_threads=False):
                yield batch.select(list(dataset.columns))
    except (pa.ArrowException, OSError) as error:
        raise not_whole(part, error) from error


def _nulls_within(array: pa.Array) -> bool:
    return pa.types.is_list(array.type) and bool(array.flatten().null_count)


class _Writer:
    """Appends arrays to the files of a column."""

    def __init__(self, path: Path, kind: str) -> None:
        self.type = kind
        self.ragged, self.dtype = kind.startswith("list<"), _Column(path, kind).dtype
        self.total = 0
        self.values = path.with_suffix(".values").open("wb")
        self.offsets = path.with_suffix(".offsets").open("wb") if self.ragged else None
        if self.offsets is not None:
            self.offsets.write(np.zeros(1, np.int64).tobytes())

    def takes(self, array: pa.Array) -> bool:
        """Whether it is of the type of the column, without nulls."""
        kind = array.type
        if self.ragged:
            if not pa.types.is_list(kind):
                return False
            kind = kind.value_type
        wanted = pa.int64() if self.dtype == _NUMPY["int64"] else pa.float32()
        return bool(kind.equals(wanted)) and not array.null_count and not _nulls_within(array)

    def write(self, array: pa.Array) -> None:
        """Appends its rows."""
        if self.offsets is not None:
            ends = as_numpy(array.offsets)[1:].astype(np.int64) + (self.total - array.offsets[0].as_py())
            self.offsets.write(ends.tobytes())
            array = array.flatten()
            self.total += len(array)
        if len(array):  # a view of nothing has no bytes to show
            self.values.write(np.ascontiguousarray(as_numpy(array)).data)

    def close(self) -> None:
        """Flushes."""
        self.values.close()
        if self.offsets is not None:
            self.offsets.close()
