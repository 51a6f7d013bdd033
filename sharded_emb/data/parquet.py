"""Parquet files as text: each by its own types, as DuckDB would cast the values of all to those of the first."""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import duckdb

from sharded_emb.data.attribute import RAW
from sharded_emb.data.tabular import TableFiles, first_line, parquet_types, sql_files, sql_name
from sharded_emb.errors import InputError

_WHOLE_TYPES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT")
_ID_TYPES = (*_WHOLE_TYPES, "UHUGEINT", "VARCHAR", "UUID", "ENUM", "DECIMAL", "DATE")
_FLOATS = ("DOUBLE", "FLOAT")
_EMPTY = "empty"
"""The kind of a column without a value, which fits any other."""
_TOGETHER = ({"whole", "text"}, {"whole", "float"}, {"whole[]", "text[]"})
"""Kinds that files may mix: their texts are the same for the same value, or are made so."""


@dataclass(frozen=True)
class _File:
    """types: of its columns. kinds: of the wanted ones."""

    path: Path
    types: dict[str, str]
    kinds: dict[str, str]


def parquet_scans(files: TableFiles, wanted: list[str]) -> list[tuple[list[str], str]]:
    """SQL: columns of strings, or lists of strings, and what they are scanned from, one after the other.

    Raises InputError on the files' key for columns that hold no ids, or whose types differ so that values would.
    """
    found = [_file(files, path, wanted) for path in files.paths]
    for column in wanted:
        _require_alike(files, found, column)
    groups = groupby(found, lambda file: [(file.types[column], file.kinds[column]) for column in wanted])
    scans = []
    for _, alike in groups:
        some = list(alike)
        columns = [f"{_text(files, found, some[0], column)} AS {sql_name(RAW + column)}" for column in wanted]
        scans.append((columns, f"read_parquet({sql_files([file.path for file in some])}, hive_partitioning=false"))
    return scans


def _file(files: TableFiles, path: Path, wanted: list[str]) -> _File:
    try:
        types = parquet_types(path)
    except (duckdb.Error, OSError) as error:
        raise InputError(f"{files.key}: want parquet in {path}, got {first_line(error)}") from error
    return _File(path, types, {column: _kind(types[column]) for column in wanted})


def _kind(kind: str) -> str:
    """Types whose texts are the same for the same value have one."""
    if kind.endswith("[]"):
        return f"{_kind(kind.removesuffix('[]'))}[]"
    if kind in (*_WHOLE_TYPES, "UHUGEINT") or (kind.startswith("DECIMAL") and kind.endswith(",0)")):
        return "whole"
    if kind in _FLOATS:
        return "float"
    return "text" if kind.startswith(("VARCHAR", "ENUM", "UUID")) else kind


def _require_alike(files: TableFiles, found: list[_File], column: str) -> None:
    """Raises InputError where texts of the column would not be the same for the same value in each file."""
    if _alike({file.kinds[column] for file in found}):
        return
    for file in found:
        count = f"SELECT count({sql_name(column)}) FROM read_parquet({sql_files([file.path])}, hive_partitioning=false)"
        if duckdb.sql(count).fetchall() == [(0,)]:
            file.kinds[column] = _EMPTY
    full = [file for file in found if file.kinds[column] != _EMPTY]
    if _alike({file.kinds[column] for file in full}):
        return
    other = next(file for file in full if file.kinds[column] != full[0].kinds[column])
    pair = next((file for file in full if not _alike({file.kinds[column], other.kinds[column]})), full[0])
    got = ", ".join(f"{file.types[column]} in {file.path.name}" for file in (pair, other))
    raise InputError(f"{files.key}: want column {column} of one type in all files, got {got}; store them as one type")


def _alike(kinds: set[str]) -> bool:
    return len(kinds) <= 1 or any(kinds <= together for together in _TOGETHER)


def _text(files: TableFiles, found: list[_File], file: _File, column: str) -> str:
    kind, value = file.types[column], sql_name(column)
    kinds = {each.kinds[column] for each in found}
    target = "VARCHAR[]" if any(each.endswith("[]") for each in kinds) else "VARCHAR"
    if file.kinds[column] == _EMPTY:
        return f"CAST(NULL AS {target})"
    whole = f"{value} = floor({value}) AND abs({value}) < 9007199254740992"
    if column in files.ids and kind in _FLOATS:
        # what pandas makes of whole numbers where some are missing; beyond 2^53 they are rounded
        value = f"CASE WHEN {whole} THEN {value}::BIGINT END"
    elif column in files.ids and (kind.endswith("]") or not kind.startswith(_ID_TYPES)):
        want = f"want ids in column {column} of {file.path.name}"
        raise InputError(f"{files.key}: {want}, got the type {kind}; store them as text or whole numbers")
    elif kind in _FLOATS and "whole" in kinds:  # the same text as in the files where none is missing
        value = f"CASE WHEN {whole} THEN CAST({value}::BIGINT AS VARCHAR) ELSE CAST({value} AS VARCHAR) END"
    value = f"CAST({value} AS {target})"
    return f"nullif({value}, '')" if column in files.ids else value  # an empty text is no id, as in CSV
