"""A folder to which samples are added while they are trained on: its parts, in the order of their names."""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveFloat, PositiveInt

from sharded_emb.component import Frozen, GivenPath
from sharded_emb.data.columns import as_numpy
from sharded_emb.data.dataset import Column
from sharded_emb.errors import InputError, nearest

END = "END"
_ENDING = ".parquet"
MEND = "replace it, or set stream.bad_parts=skip"


class StreamConfig(Frozen):
    """The key `stream`: samples that come while they are trained on, in place of the train split.

    folder: where they come as NAME.parquet, each whole once it has its name: what is written is renamed when it is
    done. Names that begin with a dot or an underscore are none, and a name that comes stands behind those that were
    there. Parts have the columns of the splits of `data`, whose vocabularies their ids are of. A file called END says
    that no part will follow. null trains on the train split. poll_seconds: between two looks for a part. idle_seconds:
    the run ends when no part has come for so long; null waits. evaluate_every_parts: of parts that had rows; null
    evaluates at the end. bad_parts: whether a part that cannot be read ends the run, or is left out and counted.
    context: of what `prepare` adds, the events before the first new one of a sequence that stand before it; all but the
    first of them are trained on again.
    """

    folder: GivenPath | None = None
    poll_seconds: float = Field(default=2.0, gt=0, le=10)
    idle_seconds: PositiveFloat | None = None
    evaluate_every_parts: PositiveInt | None = None
    bad_parts: Literal["error", "skip"] = "error"
    context: PositiveInt = 1


@dataclass(frozen=True)
class Listed:
    """parts: the names of all that are there, ascending. ended: whether none will follow. others: what is no part."""

    parts: list[str]
    ended: bool
    others: list[str]


def listed(folder: Path) -> Listed:
    """What is in the folder now. Raises InputError if it cannot be read."""
    try:
        ended = (folder / END).exists()  # looked for first: whatever came before it is then among the names
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise InputError(f"stream.folder: want a folder of parts, got {folder}: {error.strerror}") from error
    shown = [name for name in names if not name.startswith((".", "_")) and name != END]
    parts = [name for name in shown if name.endswith(_ENDING)]
    return Listed(parts, ended, [name for name in shown if not name.endswith(_ENDING)])


def read_part(file: Path, columns: Mapping[str, Column], wanted: Iterable[str]) -> pa.Table:
    """The wanted columns of a part, whole in memory. Raises InputError that names the file for what is no such part."""
    if file.is_dir():
        raise InputError(f"stream.folder: want the part {file} as one Parquet file, got a folder; {MEND}")
    if not file.is_file():
        raise InputError(f"stream.folder: want the part {file}, got none; put it back")
    try:
        with pq.ParquetFile(file) as parquet:
            there = parquet.schema_arrow
            for name in wanted:
                if name not in there.names:
                    hint = nearest(name, there.names)
                    raise InputError(f"stream.folder: want the column {name} in {file}, got none{hint}; {MEND}")
                if not _is(there.field(name).type, columns[name].arrow):
                    want, got = columns[name].type, f"{there.field(name).type}; {MEND}"
                    raise InputError(f"stream.folder: want {want} in column {name} of {file}, got {got}")
            table = parquet.read(columns=sorted(wanted), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        got = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"stream.folder: want a whole Parquet file in {file}, got {got}; {MEND}") from error
    table = table.combine_chunks()
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count or any(
            pa.types.is_list(chunk.type) and chunk.flatten().null_count for chunk in column.chunks
        ):
            raise InputError(f"stream.folder: want no nulls in column {name} of {file}, got some; {MEND}")
    return table


def crc32_of(table: pa.Table) -> int:
    """Of the values of a part, in whatever way its file holds them."""
    crc = 0
    for name in sorted(table.column_names):
        for chunk in table[name].chunks:
            arrays = [chunk.value_lengths(), chunk.flatten()] if pa.types.is_list(chunk.type) else [chunk]
            for array in arrays:
                crc = zlib.crc32(as_numpy(array).data, crc)
    return crc


def _is(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whatever the values of a list are called."""
    if pa.types.is_list(wanted):
        return pa.types.is_list(found) and bool(found.value_type.equals(wanted.value_type))
    return bool(found.equals(wanted))
