"""Writing a dataset folder so that it is there whole or not at all."""

import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharded_emb.data.bad_rows import SIDE_FILE
from sharded_emb.data.dataset import MANIFEST, Column, SplitInfo, aside, moved_aside, part_name
from sharded_emb.errors import InputError

ROWS_PER_PART = 1_048_576
ROWS_PER_GROUP = 65_536
VALUES_PER_GROUP = 4_000_000
LOCK = "lock"
REPORT = "report.html"
# all that prepare ever writes into a dataset folder, and the flat copy of a run; anything else in it is somebody's own
# and is never deleted
_OURS = {MANIFEST, LOCK, "vocabulary", "attributes", "train", "valid", "test", "raw", SIDE_FILE, REPORT, "flat"}


@contextmanager
def staged(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write to, beside `folder`, which takes its name when the block ends without an error.

    A dataset that an overwriting prepare had moved aside when it was killed has its name again first.

    Raises InputError on `data` when the name is taken: by a dataset without `overwrite`, by anything else, or by
    another prepare that is writing now; and when nothing can be written there.
    """
    folder = folder.expanduser().absolute()
    require_free(folder, overwrite=overwrite)
    part = folder.with_name(f".{folder.name}.part")
    if part.exists() and not (part / LOCK).exists() and any(part.iterdir()):
        raise InputError(f"data: want room to write at {part}, got a folder that prepare did not make; move it away")
    try:
        part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"data: want a place to write to, got {folder}: {error.strerror}; choose another") from error
    with (part / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"data: want {folder} for itself, got another prepare that writes it; wait for it"
            ) from error
        try:
            if (old := moved_aside(folder)) is not None:
                old.rename(folder)
            require_free(folder, overwrite=overwrite)  # again, as another prepare may have ended since
            _empty(part)
            yield part
            _take_name(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    (folder / LOCK).unlink()


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Raises InputError on `data` for a folder that `prepare` may not write."""
    if not folder.exists():
        return
    entries = {entry.name for entry in folder.iterdir()} if folder.is_dir() else {"."}
    if not entries:
        return
    if MANIFEST not in entries:
        got = f"got {folder}, which exists and is none"
        raise InputError(f"data: want a dataset folder or a new one, {got}; choose another data=FOLDER")
    if not overwrite:
        raise InputError(f"data: want a new folder, got {folder}, which holds a dataset; overwrite=true replaces it")
    others = sorted(entries - _OURS)
    if others:
        got = f"got {', '.join(others)} in {folder} too"
        raise InputError(f"data: want nothing but a dataset to overwrite, {got}; move that away")


def _empty(part: Path) -> None:
    """Remove what a killed prepare left, but not the lock that says that the folder is ours now."""
    for entry in part.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def _take_name(part: Path, folder: Path) -> None:
    if not folder.exists():
        part.rename(folder)
        return
    old = aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    part.rename(folder)
    (old / MANIFEST).unlink(missing_ok=True)  # first: what is deleted in part is no dataset
    shutil.rmtree(old)


class Aside:
    """One call at a time in a thread, while who started it goes on."""

    def __enter__(self) -> "Aside":
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def start(self, call: Callable[..., None], *given: Any, **named: Any) -> None:
        """Begins with a call once the one before has ended. Raises the error of that one."""
        self.wait()
        self._running = self._thread.submit(call, *given, **named)

    def wait(self) -> None:
        """Until nothing runs. Raises the error of what ran, once."""
        if (running := self._running) is None:
            return
        try:
            running.result()
        finally:
            if running.done():  # and not that somebody has interrupted who waits
                self._running = None

    @property
    def idle(self) -> bool:
        """Whether nothing runs."""
        return self._running is None


class Digest:
    """A hash of the values of a column, some rows at a time."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=8)

    def add(self, column: pa.ChunkedArray) -> "Digest":
        """The next rows, none of which is null. Returns itself."""
        values = column.combine_chunks()
        if pa.types.is_list(values.type):
            self._hash.update(pc.list_value_length(values).to_numpy().astype("<i4").tobytes())
            values = values.flatten()
        self._hash.update(values.to_numpy())
        return self

    def hexdigest(self) -> str:
        """Of all rows so far."""
        return self._hash.hexdigest()


class SplitWriter:
    """Writes record batches, in order, as the parts of a split, row group by row group, in the thread of `aside`.

    It holds one group that comes, and all writers of a thread one that is written.

    A part has at most ROWS_PER_PART rows; a row group ROWS_PER_GROUP, or fewer where lists are long: about
    VALUES_PER_GROUP values. The files depend on the rows alone, not on how they come; no row at all is one empty part.
    """

    def __init__(self, folder: Path, columns: dict[str, Column], aside: Aside) -> None:
        folder.mkdir()
        self._aside = aside
        self._folder = folder
        self._schema = pa.schema([pa.field(name, column.arrow, nullable=False) for name, column in columns.items()])
        self._waiting: list[pa.Table] = []
        self._values = 0
        self._file: pq.ParquetWriter | None = None
        self._rows_of_part = self._rows = self._parts = 0
        self._digests = {name: Digest() for name in self._schema.names}

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                if self._waiting:
                    self._write(pa.concat_tables(self._waiting))
                if not self._parts:
                    self._open()
        finally:
            self._close()

    @property
    def info(self) -> SplitInfo:
        """How much was written."""
        digests = {name: digest.hexdigest() for name, digest in self._digests.items()}
        return SplitInfo(rows=self._rows, parts=self._parts, digests=digests)

    def add(self, batch: Any) -> None:
        """The next rows: a record batch or a table."""
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        table = table.cast(self._schema)
        values_of_all = np.cumsum(_values_of_rows(table))
        while len(table):
            done = len(values_of_all) - len(table)
            values = values_of_all[done:] - (values_of_all[done - 1] if done else 0)
            room = ROWS_PER_GROUP - sum(map(len, self._waiting))
            # the row that passes the limit still goes in, so a group has at least one
            fits = int(np.searchsorted(values, VALUES_PER_GROUP - self._values)) + 1
            taken = min(room, fits, len(table), ROWS_PER_PART - self._rows_of_part - ROWS_PER_GROUP + room)
            self._waiting.append(table.slice(0, taken))
            self._values += int(values[taken - 1])
            if taken == room or self._values >= VALUES_PER_GROUP or self._full():
                self._write(pa.concat_tables(self._waiting))
            table = table.slice(taken)

    def _full(self) -> bool:
        return self._rows_of_part + sum(map(len, self._waiting)) >= ROWS_PER_PART

    def _write(self, group: pa.Table) -> None:
        if self._file is None:
            self._open()
        assert self._file is not None
        self._aside.start(self._write_group, self._file, group)
        self._rows += len(group)
        self._rows_of_part += len(group)
        self._waiting, self._values = [], 0
        if self._rows_of_part >= ROWS_PER_PART:
            self._close()

    def _write_group(self, file: pq.ParquetWriter, group: pa.Table) -> None:
        file.write_table(group, row_group_size=len(group))
        for name, digest in self._digests.items():  # groups depend on the rows alone
            digest.add(group[name])

    def _open(self) -> None:
        self._file = pq.ParquetWriter(self._folder / part_name(self._parts), self._schema)
        self._parts += 1

    def _close(self) -> None:
        try:
            self._aside.wait()
        finally:
            if self._file is not None and self._aside.idle:  # else who waited was interrupted, and it is written still
                self._file.close()
            self._file, self._rows_of_part = None, 0


def write_split(folder: Path, batches: Iterable[Any], columns: dict[str, Column]) -> SplitInfo:
    """Writes all batches, in order; see `SplitWriter`."""
    with Aside() as aside, SplitWriter(folder, columns, aside) as writer:
        for batch in batches:
            writer.add(batch)
    return writer.info


def _values_of_rows(table: pa.Table) -> Any:
    """How many values each row has, over all columns."""
    values = np.zeros(len(table), np.int64)
    for column in table.columns:
        if pa.types.is_list(column.type):
            values += pc.list_value_length(column).to_numpy().astype(np.int64)
        else:
            values += 1
    return values
