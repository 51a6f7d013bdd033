"""Tables in files: CSV, TSV, JSONL and Parquet, read as strings with the order of their lines kept."""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import ibis

from sharded_emb.data.base import RAW
from sharded_emb.errors import InputError

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
LONGEST_LINE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class TableFiles:
    """Files of one shape, read one after the other. `key` is the config key to blame.

    separator, quote: of delimited text; an empty quote means that quotes are ordinary letters. header: the names of
    the columns where the files do not begin with them.
    """

    key: str
    paths: list[Path]
    format: str
    separator: str = ","
    quote: str = '"'
    header: list[str] | None = None


def find_files(key: str, path: Path, kind: str | None) -> list[Path]:
    """The file, or the folder's files of one known format, in the order of their names. Raises InputError on `key`.

    kind: the format that the user says they have, whatever their names.
    """
    if path.is_file():
        return [path]
    files = sorted(file for file in path.iterdir() if file.is_file() and (kind or format_of(file)) is not None)
    formats = {kind or format_of(file) for file in files}
    if len(formats) != 1:
        got = "files of several formats" if files else "no such file"
        raise InputError(f"{key}: want files of one format ({', '.join(FORMATS)}) in {path}, got {got}; name one file")
    return files


def format_of(path: Path) -> str | None:
    """csv, tsv, jsonl or parquet by the ending, before any .gz; None for another one."""
    name = path.name.lower().removesuffix(".gz")
    return next((kind for ending, kind in FORMATS.items() if name.endswith(ending)), None)


def column_names(files: TableFiles) -> list[str]:
    """The columns of the first file. Raises InputError on its key where there are none to be read."""
    if files.header is not None:
        return files.header
    path = files.paths[0]
    try:
        if files.format == "parquet":
            return list(duckdb.read_parquet(str(path)).columns)
        if files.format == "jsonl":
            return list(duckdb.read_json(str(path), format="newline_delimited").columns)
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:
            if files.quote:
                names = next(csv.reader(lines, delimiter=files.separator, quotechar=files.quote), [])
            else:
                names = lines.readline().rstrip("\r\n").split(files.separator)
    except (duckdb.Error, OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{files.key}: want {files.format} in {path}, got {_first_line(error)}") from error
    if not any(names):
        raise InputError(f"{files.key}: want a header line in {path}, got an empty one; write the names into it")
    return names


def load(backend: Any, name: str, files: TableFiles, wanted: list[str]) -> Any:
    """A table of the `wanted` columns, `raw:` before each name, as strings or lists of strings, and `position`.

    position (int64) numbers the rows from 0 in the order of the files. Raises InputError on the files' key.
    """
    try:
        rows = _scan(backend, files)
        columns = {RAW + column: _as_text(rows[column]) for column in wanted}
        # numbered where the file is read: every later order rests on it
        return backend.create_table(name, rows.select(**columns, position=ibis.row_number()))
    except duckdb.Error as error:
        got = _first_line(error)
        raise InputError(f"{files.key}: want {files.format} in {files.paths[0]}, got {got}; mend the file") from error


def load_lines(backend: Any, name: str, key: str, path: Path) -> Any:
    """A table of a text file's lines: `line` (without spaces at its ends) and `position`, counted from 0."""
    # a separator and a quote that no text holds make each line one value
    files = TableFiles(key, [path], "text", separator="\x1f", quote="", header=["line"])
    table = load(backend, name, files, ["line"])
    return table.select(line=table[f"{RAW}line"].strip(), position=table.position)


def _scan(backend: Any, files: TableFiles) -> Any:
    paths = [str(path) for path in files.paths]
    if files.format == "parquet":
        return backend.read_parquet(paths)
    if files.format == "jsonl":
        # read twice, the second time as text: guessed types would rewrite ids that look like dates or numbers
        guessed = backend.read_json(paths, format="newline_delimited").schema()
        columns = {column: "VARCHAR[]" if kind.is_array() else "VARCHAR" for column, kind in guessed.items()}
        return backend.read_json(paths, format="newline_delimited", columns=columns)
    names = column_names(files)
    return backend.read_csv(
        paths,
        columns=dict.fromkeys(names, "VARCHAR"),
        auto_detect=False,
        header=files.header is None,
        delim=files.separator,
        quote=files.quote,
        escape=files.quote,
        nullstr="",
        max_line_size=LONGEST_LINE_BYTES,
    )


def _as_text(column: Any) -> Any:
    return column.cast("array<string>" if column.type().is_array() else "string")


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
