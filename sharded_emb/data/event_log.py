"""Event logs: one event a row, in CSV, TSV, JSONL or Parquet, with tables of users and items beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from sharded_emb.data.base import (
    RAW,
    LogConfig,
    RawLog,
    attribute_columns,
    event_columns,
    no_place,
    require_columns,
)
from sharded_emb.data.reading import Places, load
from sharded_emb.data.tabular import Encoding, TableFiles, column_names, find_files, format_of, unknown_format
from sharded_emb.data.work import Work
from sharded_emb.errors import InputError

PER_SECOND = {"seconds": 1, "milliseconds": 1000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
SEPARATORS = {"csv": ",", "tsv": "\t", "jsonl": "", "parquet": ""}


class EventLog(LogConfig):
    """One event a row. `raw` is a file, or a folder whose files of one format are read in the order of their names.

    user, item, time: the columns that hold them; time is a number or a date, null takes the order of the rows.
    time_unit: what its numbers count. format: null goes by the file's ending. separator: of CSV and TSV, where it is
    another, up to four letters (`::`). encoding: of text. header: column names, for files that do not begin with them.
    users, items: tables of attributes, one user or item a row, whose key column is called as in the log.
    """

    paths: ClassVar[tuple[str, ...]] = ("raw", "users", "items")

    user: str = "user"
    item: str = "item"
    time: str | None = "time"
    time_unit: Literal["seconds", "milliseconds", "microseconds", "nanoseconds"] = "seconds"
    format: Literal["csv", "tsv", "jsonl", "parquet"] | None = None
    separator: str | None = Field(default=None, min_length=1, max_length=4)
    encoding: Encoding = "utf-8"
    header: list[str] | None = None
    users: str | None = None
    items: str | None = None

    def read(self, work: Work) -> RawLog:
        """See `LogConfig.read`."""
        path = self.raw_path("an event log (CSV, TSV, JSONL or Parquet)")
        log = self._files("dataset.raw", path, self.format, self.header, {self.user, self.item})
        wanted = {"dataset.user": self.user, "dataset.item": self.item, **event_columns(self)}
        if self.time is not None:
            wanted["dataset.time"] = self.time
        require_columns(wanted, column_names(log), log.paths[0])
        loaded = load(work, "raw_events", log, sorted(set(wanted.values())))
        events = loaded.table
        events = events.mutate(user=events[RAW + self.user], item=events[RAW + self.item])
        if self.time is not None:
            events = events.mutate(time=events[RAW + self.time])
        users, items = self._side_table(work, "user"), self._side_table(work, "item")
        return RawLog(
            events=events,
            users=users and users.table,
            items=items and items.table,
            has_time=self.time is not None,
            files=[*log.paths, *(users.paths if users else []), *(items.paths if items else [])],
            place=loaded.places.of,
            user_place=users.places.of if users else no_place,
            item_place=items.places.of if items else no_place,
            per_second=PER_SECOND[self.time_unit],
            tables=["raw_events"],
        )

    def _files(self, key: str, path: Path, kind: str | None, header: list[str] | None, ids: set[str]) -> TableFiles:
        paths = find_files(key, path, kind)
        kind = kind or format_of(paths[0])
        if kind is None:
            raise unknown_format(key, paths[0])
        separator = self.separator or SEPARATORS[kind]
        return TableFiles(key, paths, kind, separator, header=header, encoding=self.encoding, ids=frozenset(ids))

    def _side_table(self, work: Work, of: Literal["user", "item"]) -> "_Side | None":
        wanted = attribute_columns(self, of)
        place, key_column = (self.users, self.user) if of == "user" else (self.items, self.item)
        key = f"dataset.{of}s"
        if not wanted:
            return None
        if place is None:
            raise InputError(f"{key}: want a table of {of}s, got none, but {next(iter(wanted))} reads it; {key}=PATH")
        path = Path(place).expanduser()
        if not path.is_file():
            raise InputError(f"{key}: want a table of {of}s, got {place}, which does not exist; check the path")
        files = self._files(key, path, None, None, {key_column})
        require_columns({f"dataset.{of}": key_column, **wanted}, column_names(files), path)
        loaded = load(work, f"raw_{of}s", files, sorted({key_column, *wanted.values()}))
        table = loaded.table.mutate(**{of: loaded.table[RAW + key_column]})
        return _Side(table, loaded.places, files.paths)


@dataclass(frozen=True)
class _Side:
    table: Any
    places: Places
    paths: list[Path]
