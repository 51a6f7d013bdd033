"""Reads tables in files into DuckDB, every value as a string, the order of the lines kept, malformed lines left out."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from sharded_emb.data.bad_rows import LONGEST_TEXT, BadRow, Place, shortened
from sharded_emb.data.base import RAW
from sharded_emb.data.parquet import parquet_scans
from sharded_emb.data.tabular import (
    NO_SEPARATOR,
    TableFiles,
    column_names,
    csv_scan,
    json_columns,
    require_whole,
    sql_name,
    sql_text,
    unreadable,
)
from sharded_emb.data.work import Work

_FILE, _ODD, _GOT = "#file", "#odd", "#got"
_OBJECT = "json_valid(line) AND starts_with(ltrim(line, ' \t\r'), '{')"


@dataclass(frozen=True)
class Places:
    """Where the rows of a table stood. paths: of its files, as DuckDB says them. starts: the first position of each.
    skipped: lines before the first row.

    rejected: by path, the lines that were left out before they had a position, ascending. Blank lines are not counted.
    """

    paths: list[str]
    starts: list[int]
    skipped: int
    rejected: dict[str, list[int]]
    unit: str

    @property
    def files(self) -> list[str]:
        """The names of the files; those in several folders may be the same."""
        return [Path(path).name for path in self.paths]

    def of(self, position: int) -> Place:
        """The file and line of a row."""
        at = bisect_right(self.starts, position) - 1
        path = self.paths[at]
        line = position - self.starts[at] + 1 + self.skipped
        for rejected in self.rejected.get(path, []):
            if rejected > line:
                break
            line += 1
        return Place(Path(path).name, line, self.unit)


@dataclass(frozen=True)
class Loaded:
    """table: `raw:NAME` for each wanted column (string, or list of strings) and `position` (int64), which numbers the
    rows from 0 in the order of the files.
    """

    table: Any
    places: Places


def load(work: Work, table: str, files: TableFiles, wanted: list[str]) -> Loaded:
    """The wanted columns of the files, as a table of the backend. Lines that do not have the shape go to `work.bad`.

    Raises InputError on the files' key for what cannot be read at all.
    """
    require_whole(files)
    connection = work.reader.con
    select = _SELECTS.get(files.format, _delimited)(files, wanted, len(files.paths) > 1)
    try:
        with work.progress.step(f"reading {files.paths[0].name}" + (" and more" if len(files.paths) > 1 else "")):
            connection.execute(f"CREATE TABLE {sql_name(table)} AS {select}")
        rejected = _rejected(work, files) if files.format != "parquet" else {}
        places = _places(connection, table, files, rejected)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        if isinstance(error, duckdb.IOException) and str(work.scratch) in str(error):  # it could not spill
            raise
        raise unreadable(files, error) from error
    odd = files.format == "jsonl"
    if odd:
        _count_odd(work, table, files, places)
    found = work.adopt(table)
    if odd:
        found = found.filter(found[_ODD].isnull())
    columns = {RAW + column: found[RAW + column] for column in wanted}
    return Loaded(found.select(**columns, position=found.position), places)


def load_lines(work: Work, table: str, key: str, path: Path) -> Loaded:
    """The lines of a text file: `line` (without spaces at its ends, null where it is empty) and `position`."""
    files = TableFiles(key, [path], "text", separator=NO_SEPARATOR, quote="", header=["line"])
    loaded = load(work, table, files, ["line"])
    lines = loaded.table
    return Loaded(lines.select(line=lines[f"{RAW}line"].strip(), position=lines.position), loaded.places)


def _delimited(files: TableFiles, wanted: list[str], many: bool) -> str:
    columns = [f"{sql_name(column)} AS {sql_name(RAW + column)}" for column in wanted]
    return _select(columns, csv_scan(files, _REJECTS + _filename(many)), many)


_REJECTS = ", store_rejects=true, rejects_limit=0"


def _filename(many: bool) -> str:
    return f", filename={sql_text(_FILE)}" if many else ""


def _select(columns: list[str], scan: str, many: bool) -> str:
    return f"SELECT {', '.join([*columns, *([sql_name(_FILE)] if many else [])])} FROM {scan}"


def _json(files: TableFiles, wanted: list[str], many: bool) -> str:
    """Each line as text, and the values out of it: a type that is guessed would rewrite ids that look like dates.

    The last columns are `#odd`, the name of one that holds what it should not: no text and no whole number as an id, a
    list where others have one value, or an object among lists; empty where the line is no object. `#got`: what it is.
    """
    lists = json_columns(files)
    columns, sound, odd, of_ids, got = ["line"], [_OBJECT], [], [], ["WHEN '' THEN line"]
    for column in wanted:
        at = sql_text("/" + column.replace("~", "~0").replace("/", "~1"))
        value = f"json_extract_string(line, {at})"
        if column in files.ids:  # 2^64 and 1.5 come back rounded
            kind = f"json_type(line, {at})"
            value = f"CASE WHEN {kind} IN ('VARCHAR', 'BIGINT', 'UBIGINT') THEN nullif({value}, '') END"
            sound.append(f"{sql_name(RAW + column)} IS NOT NULL")
            of_ids.append(f"WHEN {kind} NOT IN ('VARCHAR', 'BIGINT', 'UBIGINT', 'NULL') THEN {sql_text(column)}")
        elif lists.get(column):
            kind, one = f"json_type(line, {at})", f"nullif([{value}], [NULL])"
            value = f"CASE WHEN {kind} = 'ARRAY' THEN TRY_CAST(json_extract(line, {at}) AS VARCHAR[]) ELSE {one} END"
            odd.append(f"WHEN {kind} = 'OBJECT' THEN {sql_text(column)}")
        else:  # the type is asked of few lines, as each question reads the whole line
            odd.append(f"WHEN {value} LIKE '[%' AND json_type(line, {at}) = 'ARRAY' THEN {sql_text(column)}")
        got.append(f"WHEN {sql_text(column)} THEN CAST(json_extract(line, {at}) AS VARCHAR)")
        columns.append(f"CASE WHEN json_valid(line) THEN {value} END AS {sql_name(RAW + column)}")
    columns.append(f"CASE WHEN NOT json_valid(line) THEN NULL {' '.join(odd)} END AS {sql_name(_ODD)}")
    lines = TableFiles(files.key, files.paths, "text", NO_SEPARATOR, "", ["line"], files.encoding)
    rows = _select(columns, csv_scan(lines, _REJECTS + _filename(many)), many) + " WHERE line IS NOT NULL"
    # what is asked of few lines alone, as each question reads the whole line
    odd_too = f"WHEN NOT ({_OBJECT}) THEN '' {' '.join(of_ids)}"
    named = f"CASE WHEN {' AND '.join(sound)} THEN {sql_name(_ODD)} {odd_too} ELSE {sql_name(_ODD)} END"
    said = f"left(CASE {sql_name(_ODD)} {' '.join(got)} END, {LONGEST_TEXT})"
    told = f"SELECT * REPLACE ({named} AS {sql_name(_ODD)}) FROM ({rows})"
    return f"SELECT * EXCLUDE (line), {said} AS {sql_name(_GOT)} FROM ({told})"


def _parquet(files: TableFiles, wanted: list[str], many: bool) -> str:
    scans = parquet_scans(files, wanted)
    return " UNION ALL ".join(_select(columns, f"{scan}{_filename(many)})", many) for columns, scan in scans)


_SELECTS = {"parquet": _parquet, "jsonl": _json}


def _count_odd(work: Work, table: str, files: TableFiles, places: Places) -> None:
    """Lines that are no object, and rows whose values do not have the shape of the others', which is known from the
    first lines, are bad rows.
    """
    connection, odd = work.reader.con, sql_name(_ODD)
    count, names = connection.execute(
        f"SELECT count({odd}), list(DISTINCT {odd}) FILTER ({odd} IS NOT NULL) FROM {sql_name(table)}"
    ).fetchone()
    if not count:
        return
    lists = json_columns(files)
    wants = {name: _wanted(files.ids, lists, name) for name in names}
    found = connection.execute(
        f"SELECT rowid, {odd}, {sql_name(_GOT)} FROM {sql_name(table)} WHERE {odd} IS NOT NULL "
        f"ORDER BY rowid LIMIT {work.bad.room}"
    ).fetchall()
    rows = [BadRow(files.key, wants[column], shortened(value), places.of(at)) for at, column, value in found]
    work.bad.add(rows, unlisted=count - len(rows))


def _wanted(ids: frozenset[str], lists: Mapping[str, bool], column: str) -> str:
    """Of a column; without a name of a line."""
    if not column:
        return "a JSON object"
    if column in ids:
        return f"a text or a whole number of 64 bits in column {column}"
    return f"{'a list, or one value,' if lists.get(column) else 'one value, as in the first lines,'} in column {column}"


def _rejected(work: Work, files: TableFiles) -> dict[str, list[int]]:
    """Counts the lines that DuckDB rejected, and forgets them there. By path of a file: the lines."""
    connection = work.reader.con
    if not connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'").fetchone()[0]:
        return {}
    # a line may be wrong in several ways; the first one is told
    listed = connection.execute(
        "SELECT file_path, line, arg_min(error_message, byte_position), arg_min(csv_line, byte_position) "
        "FROM reject_errors JOIN reject_scans USING (scan_id, file_id) GROUP BY ALL ORDER BY 1, 2"
    ).fetchall()
    connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    lines: dict[str, list[int]] = {}
    rows = []
    for path, line, message, content in listed:
        lines.setdefault(path, []).append(line)
        got = f"{shortened(content)} ({message.rstrip('.')})"
        want = f"{files.format} of {len(column_names(files))} columns" if files.format != "jsonl" else "JSON"
        rows.append(BadRow(files.key, want if files.format != "text" else "text", got, Place(Path(path).name, line)))
    work.bad.add(rows[: work.bad.room], unlisted=max(0, len(rows) - work.bad.room))
    return lines


def _places(connection: Any, table: str, files: TableFiles, rejected: dict[str, list[int]]) -> Places:
    unit = "row" if files.format == "parquet" else "line"
    skipped = 1 if files.header is None and files.format not in ("parquet", "jsonl") else 0
    if len(files.paths) == 1:
        return Places([next(iter(rejected), str(files.paths[0]))], [0], skipped, rejected, unit)
    found = connection.execute(
        f"SELECT {sql_name(_FILE)}, min(rowid) FROM {sql_name(table)} GROUP BY 1 ORDER BY 2"
    ).fetchall()
    paths, starts = [path for path, _ in found], [start for _, start in found]
    return Places(paths or [str(files.paths[0])], starts or [0], skipped, rejected, unit)
