"""Event logs: one event a row, in CSV, TSV, JSONL or Parquet, with tables of users and items beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sharded_emb.data.base import (
    PER_SECOND,
    RAW,
    LogConfig,
    RawLog,
    attribute_columns,
    event_columns,
    no_place,
    require_columns,
)
from sharded_emb.data.locations import is_pattern, is_remote
from sharded_emb.data.reading import Places, load
from sharded_emb.data.side_table import Format, SideTable
from sharded_emb.data.tabular import (
    FORMATS,
    Encoding,
    TableFiles,
    column_names,
    find_files,
    format_of,
    quote_of,
    require_once,
    unknown_format,
)
from sharded_emb.data.work import Work
from sharded_emb.errors import InputError

SEPARATORS = {"csv": ",", "tsv": "\t", "jsonl": "", "parquet": ""}


class EventLog(LogConfig):
    """One event a row. `raw` is a file, or a folder whose files of one format are read in the order of their names.

    file: the name, or a pattern, of the log in a folder or archive that holds more. user, item, time: the columns that
    hold them; a log with a label may have no user or no item (null). time is a number or a date, null takes the order
    of the rows. time_unit: what its numbers count. format:
    null goes by the file's ending. separator: of CSV and TSV, where it is another, up to four letters (`::`); beside
    several letters, quotes are ordinary ones. encoding: of text. header: column names, for files that do not begin with
    them. users, items: tables of attributes, read where attributes ask for them.
    """

    paths: ClassVar[tuple[str, ...]] = ("raw",)

    file: str | None = None
    user: str | None = "user"
    item: str | None = "item"
    time: str | None = "time"
    time_unit: Literal["seconds", "milliseconds", "microseconds", "nanoseconds"] = "seconds"
    format: Format | None = None
    separator: str | None = Field(default=None, min_length=1, max_length=4)
    encoding: Encoding = "utf-8"
    header: list[str] | None = None
    users: SideTable | None = None
    items: SideTable | None = None

    def read(self, work: Work) -> RawLog:
        """See `LogConfig.read`."""
        log = self._log_files(work)
        ids = {"user": self.user, "item": self.item, "time": self.time}
        named = {name: column for name, column in ids.items() if column is not None}
        wanted = {**{f"dataset.{name}": column for name, column in named.items()}, **event_columns(self)}
        require_columns(wanted, column_names(log), log.paths[0])
        loaded = load(work, "raw_events", log, sorted(set(wanted.values())))
        events = loaded.table
        events = events.mutate(**{name: events[RAW + column] for name, column in named.items()})
        users, items = (self._side_table(work, of, log.paths[0].parent) for of in ("user", "item"))
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
            starts=list(zip(loaded.places.files, loaded.places.starts, strict=True)),
            tables=["raw_events"],
        )

    @model_validator(mode="after")
    def _has_the_ids_that_are_asked_for(self) -> "EventLog":
        asked = {"user": [*self._asks_for("user")], "item": [*self._asks_for("item")]}
        for of, column in (("user", self.user), ("item", self.item)):
            if column is None and asked[of]:
                raise ValueError(f"{of}: want a column of {of}s with {', '.join(asked[of])}, got null; name it")
        return self

    def _asks_for(self, of: Literal["user", "item"]) -> Iterator[str]:
        """What makes no sense in a log without users or without items, in words."""
        yield from self.layout.asks_for(of)
        if getattr(self, f"min_{of}_events") > 1:
            yield f"min_{of}_events"
        if of == "item" and self.ties == "item":
            yield "ties: item"
        yield from (f"attributes.{name} of {of}s" for name, each in self.attributes.items() if each.of == of)

    def missing_files(self) -> list[str]:
        """See `DatasetConfig.missing_files`: side tables are looked for where they are read."""
        found = super().missing_files()
        for of, table in (("user", self.users), ("item", self.items)):
            if table is not None and attribute_columns(self, of) and not self._may_be_there(table):
                found.append(f"dataset.{of}s: want a file, got {table.path}, which does not exist; check the path")
        return found

    def _may_be_there(self, table: SideTable) -> bool:
        """Whether a side table is there, or may be once the log is."""
        path = Path(table.path).expanduser()
        if path.exists() or self.raw is None:
            return path.exists()
        if not isinstance(self.raw, str) or is_remote(self.raw) or is_pattern(self.raw):
            return not path.is_absolute()
        raw = Path(self.raw).expanduser()
        folder = raw if raw.is_dir() else raw.parent
        return raw.suffix.lower() == ".zip" or any(folder.rglob(escape(table.path)) if not path.is_absolute() else ())

    def _log_files(self, work: Work) -> TableFiles:
        key, what = "dataset.raw", "an event log (CSV, TSV, JSONL or Parquet)"
        places = self.raw_files(what, work)
        paths = [path for place in places for path in find_files(key, place, self.format, self.file)]
        require_once(key, paths)
        kinds = {self.format or format_of(path) for path in paths}
        if len(kinds) > 1:
            got = ", ".join(sorted(path.name for path in paths)[:5])
            raise InputError(f"{key}: want files of one format ({', '.join(FORMATS)}), got {got}; name fewer")
        kind = kinds.pop()
        if kind is None:
            raise unknown_format(key, paths[0])
        separator = self.separator or SEPARATORS[kind]
        ids, single = (
            frozenset(filter(None, each)) for each in ((self.user, self.item), (self.time, self.layout.label_column()))
        )
        return TableFiles(key, paths, kind, separator, quote_of(separator), self.header, self.encoding, ids, single)

    def _side_table(self, work: Work, of: str, beside: Path) -> "_Side | None":
        wanted = attribute_columns(self, of)
        table, log_key = (self.users, self.user) if of == "user" else (self.items, self.item)
        key = f"dataset.{of}s"
        if not wanted:
            return None
        if table is None:
            raise InputError(f"{key}: want a table of {of}s, got none, but {next(iter(wanted))} reads it; {key}=PATH")
        key_column = table.key or log_key
        assert key_column is not None, "attributes of users and items are refused where the log has none"
        path = Path(table.path).expanduser()
        path = path if path.is_file() else beside / table.path
        if not path.is_file():
            raise InputError(f"{key}: want a table of {of}s, got {table.path}, which does not exist; check the path")
        kind = table.format or format_of(path)
        if kind is None:
            raise unknown_format(key, path)
        separator = table.separator or SEPARATORS[kind]
        ids = frozenset({key_column})
        files = TableFiles(key, [path], kind, separator, quote_of(separator), table.header, table.encoding, ids)
        require_columns({f"dataset.{of}": key_column, **wanted}, column_names(files), path)
        loaded = load(work, f"raw_{of}s", files, sorted({key_column, *wanted.values()}))
        return _Side(loaded.table.mutate(**{of: loaded.table[RAW + key_column]}), loaded.places, files.paths)


@dataclass(frozen=True)
class _Side:
    table: Any
    places: Places
    paths: list[Path]
