"""Tables in files: which files there are, their format, compression and columns."""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa

from sharded_emb.data.bad_rows import shortened
from sharded_emb.errors import InputError, nearest

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
LONGEST_LINE_BYTES = 16 * 1024 * 1024
NO_SEPARATOR = "\x1f"
"""A separator that no text holds makes each line one value."""
Encoding = Literal["utf-8", "utf-16", "latin-1"]

_SAMPLED_LINES = 1000
_MIXED_LINE_ENDS = "state machine reached an invalid state"  # in DuckDB's words
_BYTES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class TableFiles:
    """Files of one shape, read one after the other. `key` is the config key to blame.

    separator, quote: of delimited text; an empty quote means that quotes are ordinary letters. header: the names of
    the columns where the files do not begin with them. ids: columns that hold ids, which no number may round. single:
    columns that are to hold one value, whatever the first lines have.
    """

    key: str
    paths: list[Path]
    format: str
    separator: str = ","
    quote: str = '"'
    header: list[str] | None = None
    encoding: Encoding = "utf-8"
    ids: frozenset[str] = field(default_factory=frozenset)
    single: frozenset[str] = field(default_factory=frozenset)


def find_files(key: str, path: Path, kind: str | None, wanted: str | None = None) -> list[Path]:
    """The file, or the folder's files of one known format, in the order of their names. Raises InputError on `key`.

    kind: the format that the user says they have, whatever their names. wanted: the name, or a pattern of names, of
    those that count in the folder and the folders in it.
    """
    if path.is_file():
        return [path]
    if wanted is not None:
        found = (path.rglob(each) for each in (escape(wanted), wanted))  # a name may look like a pattern
        files = next(filter(None, (sorted(filter(Path.is_file, each)) for each in found)), [])
        if not files:
            there = [file.name for file in path.rglob("*") if file.is_file()]
            raise InputError(f"{key}: want {wanted} in {path}, got a folder without it{nearest(wanted, there)}")
        return files
    files = sorted(file for file in path.iterdir() if file.is_file() and (kind or format_of(file)) is not None)
    formats = {kind or format_of(file) for file in files}
    if len(formats) != 1:
        got = "files of several formats" if files else "no such file"
        raise InputError(f"{key}: want files of one format ({', '.join(FORMATS)}) in {path}, got {got}; name one file")
    return files


def require_once(key: str, paths: list[Path]) -> None:
    """Raises InputError on `key` for a file that is among them twice: its rows would count twice."""
    counts = Counter(path.resolve() for path in paths)
    if twice := next((path for path in paths if counts[path.resolve()] > 1), None):
        raise InputError(f"{key}: want each file once, got {twice} twice; leave one of the names or patterns out")


def format_of(path: Path) -> str | None:
    """csv, tsv, jsonl or parquet by the ending, before .gz or .zst; None for another one."""
    name = path.name.lower()
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    return next((kind for ending, kind in FORMATS.items() if name.endswith(ending)), None)


def quote_of(separator: str) -> str:
    """What encloses values that hold the separator: nothing where that has several letters, as in MovieLens."""
    return '"' if len(separator) <= 1 else ""


def require_whole(files: TableFiles) -> None:
    """Raises InputError on the files' key for compressed files that are cut off or damaged: DuckDB would not notice."""
    mixed = len({COMPRESSIONS.get(path.suffix.lower()) for path in files.paths}) > 1
    for path in files.paths:
        compression = COMPRESSIONS.get(path.suffix.lower())
        if compression is None or files.format == "parquet":
            continue
        if mixed and path.suffix not in COMPRESSIONS:
            want = f"an ending in small letters of {path.name}, which stands beside files that are not compressed so"
            raise InputError(f"{files.key}: want {want}, got {path.suffix}; rename it")
        try:
            with gzip.open(path) if compression == "gzip" else pa.input_stream(str(path), compression) as stream:
                while stream.read(_BYTES_AT_ONCE):
                    pass
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            got = first_line(error)
            raise InputError(
                f"{files.key}: want a whole {compression} file in {path}, got {got}; get it anew"
            ) from error


def column_names(files: TableFiles) -> list[str]:
    """The columns of the files. Raises InputError on their key where there are none, or not the same in each."""
    if files.header is not None:
        _require_apart(files, files.header)
        return files.header
    names = _names_in(files, files.paths[0])
    for path in files.paths[1:]:
        if files.format != "jsonl" and (others := _names_in(files, path)) != names:
            got = f"{', '.join(others)} in {path.name}"
            raise InputError(f"{files.key}: want the columns {', '.join(names)} of {files.paths[0].name}, got {got}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{files.key}: want each column once in {files.paths[0]}, got {twice[0]!r} twice; rename one")
    _require_apart(files, names)
    return names


def _require_apart(files: TableFiles, names: list[str]) -> None:
    """Raises InputError for names of delimited text that DuckDB cannot tell apart, or takes for none."""
    if files.format in ("parquet", "jsonl"):
        return
    where = files.paths[0] if files.header is None else "the header given"
    if "" in names:
        got = f"none for column {names.index('') + 1}"
        raise InputError(
            f"{files.key}: want a name for each column in {where}, got {got}; write one into the header (a separator "
            "at the end of a line begins a column, too, and so does an index of pandas)"
        )
    first: dict[bytes, str] = {}
    for name in names:
        if (other := first.setdefault(name.encode().lower(), name)) != name:
            got = f"{other!r} and {name!r}"
            raise InputError(f"{files.key}: want names that differ by more than case in {where}, got {got}; rename one")


def _names_in(files: TableFiles, path: Path) -> list[str]:
    try:
        if files.format == "parquet":
            return list(parquet_types(path))
        if files.format == "jsonl":
            return _keys(files, path)
        line = next(first_lines(files, path, 1), "").removeprefix("\ufeff")
        if files.quote and len(files.separator) == 1:  # all that Python's reader takes
            names = next(csv.reader(io.StringIO(line), delimiter=files.separator, quotechar=files.quote), [])
        else:
            names = line.split(files.separator)
    except (duckdb.Error, OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{files.key}: want {files.format} in {path}, got {first_line(error)}") from error
    if not any(names):
        raise InputError(f"{files.key}: want a header line in {path}, got an empty one; write the names into it")
    return names


def _keys(files: TableFiles, path: Path) -> list[str]:
    columns, line = list(json_columns(files)), next(first_lines(files, path, 1), "").strip()
    want = f"{files.key}: want an object a line in {path} (JSON Lines), got"
    if line.startswith("[") and (line == "[" or not columns):
        raise InputError(f"{want} an array; `jq -c '.[]'` writes those of an array so")
    if line and not columns:
        raise InputError(f"{want} first {shortened(line)}")
    return columns


def json_columns(files: TableFiles) -> dict[str, bool]:
    """The keys of the first lines, and whether they hold lists."""
    columns: dict[str, bool] = {}
    for path in files.paths[:1]:
        for line in first_lines(files, path, _SAMPLED_LINES):
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                continue  # counted when the file is read
            if isinstance(values, dict):
                for key, value in values.items():
                    listed = isinstance(value, list) and key not in files.single
                    columns[key] = columns.get(key, False) or listed
    return columns


def first_lines(files: TableFiles, path: Path, count: int) -> Iterator[str]:
    """The first lines of a text file that can be read, whatever its compression and encoding. Raises duckdb.Error."""
    lines = TableFiles(files.key, [path], "text", NO_SEPARATOR, "", ["line"], files.encoding)

    def read(more: str) -> list[tuple[str | None]]:
        with duckdb.connect() as connection:
            scan = csv_scan(lines, f", ignore_errors=true{more}")
            return connection.execute(f"SELECT line FROM {scan} LIMIT {count}").fetchall()

    try:
        found = read("")
    except duckdb.InvalidInputException as error:
        if _MIXED_LINE_ENDS not in str(error):
            raise
        # a quoted value of a later line may hold line ends of another kind than the file's own
        found = read(", strict_mode=false")
    return (line or "" for (line,) in found)


def _compression(paths: list[Path]) -> str:
    """The option that says it where all files have the same one: DuckDB knows endings in small letters alone."""
    kinds = {COMPRESSIONS.get(path.suffix.lower()) for path in paths}
    (only,) = kinds if len(kinds) == 1 else (None,)
    return "" if only is None else f", compression={sql_text(only)}"


def parquet_types(path: Path) -> dict[str, str]:
    """The columns of a Parquet file and their types in DuckDB. Raises duckdb.Error or OSError."""
    found = duckdb.read_parquet(escape(str(path)), hive_partitioning=False)
    return {column: str(kind) for column, kind in zip(found.columns, found.types, strict=True)}


def csv_scan(files: TableFiles, more: str = "") -> str:
    """SQL that scans delimited text as strings. more: further options of read_csv."""
    columns = ", ".join(f"{sql_text(column)}: 'VARCHAR'" for column in column_names(files))
    return (
        f"read_csv({sql_files(files.paths)}, columns={{{columns}}}, "
        f"auto_detect=false, header={str(files.header is None).lower()}, delim={sql_text(files.separator)}, "
        f"quote={sql_text(files.quote)}, escape={sql_text(files.quote)}, nullstr='', "
        f"max_line_size={LONGEST_LINE_BYTES}, buffer_size={2 * LONGEST_LINE_BYTES}, hive_partitioning=false, "
        f"encoding={sql_text(files.encoding)}{_compression(files.paths)}{more})"
    )


def sql_files(paths: list[Path]) -> str:
    """A list of SQL: these very files, whatever letters of patterns their names have."""
    return f"[{', '.join(sql_text(escape(str(path))) for path in paths)}]"


def sql_text(value: str) -> str:
    """A string of SQL."""
    return "'" + value.replace("'", "''") + "'"


def sql_name(value: str) -> str:
    """A name of SQL."""
    return '"' + value.replace('"', '""') + '"'


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def unreadable(files: TableFiles, error: BaseException) -> InputError:
    """For files that DuckDB cannot read, in words that say what to do."""
    place = f"{files.format} in {files.paths[0]}"
    if _MIXED_LINE_ENDS in str(error):
        of = "" if len(files.paths) == 1 else " (or a file beside it)"
        got = f"line ends of several kinds (\\r\\n, \\n or \\r){of} outside of quotes; make them one, as dos2unix does"
        return InputError(f"{files.key}: want {place}, got {got}")
    return InputError(f"{files.key}: want {place}, got {first_line(error)}; mend the file")


def unknown_format(key: str, path: Path) -> InputError:
    """For a file whose format its name does not tell."""
    hint = "; say dataset.format=csv (or tsv, jsonl, parquet)" if key == "dataset.raw" else ""
    if path.suffix and not hint:
        hint = nearest(path.suffix, FORMATS)
    return InputError(f"{key}: want a file that ends with {', '.join(FORMATS)}, got {path.name}{hint}")
