"""Writing a dataset folder so that it is there whole or not at all."""

import fcntl
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sharded_emb.data.dataset import MANIFEST, Column, SplitInfo, part_name
from sharded_emb.errors import InputError

ROWS_PER_PART = 1_048_576
ROWS_PER_GROUP = 65_536
LOCK = "lock"
# all that prepare ever writes into a dataset folder, and the flat copy of a run; anything else in it is somebody's own
# and is never deleted
_OURS = {MANIFEST, LOCK, "vocabulary", "attributes", "train", "valid", "test", "raw", "flat"}


@contextmanager
def staged(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write to, beside `folder`, which takes its name when the block ends without an error.

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
        _empty(part)
        try:
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
    old = part.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old)


def write_split(folder: Path, batches: Iterable[Any], columns: dict[str, Column]) -> SplitInfo:
    """Write record batches, in order, as parts of at most ROWS_PER_PART rows; an empty split has one empty part."""
    folder.mkdir()
    schema = pa.schema([pa.field(name, column.arrow, nullable=False) for name, column in columns.items()])
    rows = parts = 0
    for part in _in_chunks(_in_chunks(batches, schema, ROWS_PER_GROUP), schema, ROWS_PER_PART):
        pq.write_table(part, folder / part_name(parts), row_group_size=ROWS_PER_GROUP)
        rows, parts = rows + len(part), parts + 1
    if not parts:
        pq.write_table(schema.empty_table(), folder / part_name(0))
    return SplitInfo(rows=rows, parts=max(parts, 1))


def _in_chunks(batches: Iterable[Any], schema: pa.Schema, rows_per_chunk: int) -> Iterator[pa.Table]:
    """Tables of exactly rows_per_chunk rows (the last may be shorter), whatever sizes the batches come in."""
    waiting: list[pa.Table] = []
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        waiting.append(table.cast(schema))
        while sum(map(len, waiting)) >= rows_per_chunk:
            every = pa.concat_tables(waiting)
            yield every.slice(0, rows_per_chunk)
            waiting = [every.slice(rows_per_chunk)]
    if sum(map(len, waiting)):
        yield pa.concat_tables(waiting)
