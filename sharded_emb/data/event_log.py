"""Event logs: one event a row, in CSV, TSV, JSONL or Parquet, with tables of users and items beside them."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from sharded_emb.data.base import RAW, LogConfig, RawLog, attribute_columns, event_columns, require_columns
from sharded_emb.data.tabular import FORMATS, TableFiles, column_names, find_files, format_of, load
from sharded_emb.errors import InputError

SEPARATORS = {"csv": ",", "tsv": "\t", "jsonl": "", "parquet": ""}


class EventLog(LogConfig):
    """One event a row. `raw` is a file, or a folder whose files of one format are read in the order of their names.

    user, item, time: the columns that hold them; time is a number or a date, null takes the order of the rows.
    format: null goes by the file's ending. separator: of CSV and TSV, where it is another. header: column names, for
    files that do not begin with them. users, items: tables of attributes, one user or item a row, whose key column is
    called as in the log.
    """

    paths: ClassVar[tuple[str, ...]] = ("raw", "users", "items")

    user: str = "user"
    item: str = "item"
    time: str | None = "time"
    format: Literal["csv", "tsv", "jsonl", "parquet"] | None = None
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    header: list[str] | None = None
    users: str | None = None
    items: str | None = None

    def read(self, backend: Any, workspace: Path, seed: int) -> RawLog:  # noqa: ARG002
        """See `LogConfig.read`."""
        path = self.raw_path("an event log (CSV, TSV, JSONL or Parquet)")
        log = self._files("dataset.raw", path, self.format, self.header)
        wanted = {"dataset.user": self.user, "dataset.item": self.item, **event_columns(self)}
        if self.time is not None:
            wanted["dataset.time"] = self.time
        require_columns(wanted, column_names(log), log.paths[0])
        events = load(backend, "raw_events", log, sorted(set(wanted.values())))
        events = events.mutate(user=events[RAW + self.user], item=events[RAW + self.item])
        if self.time is not None:
            events = events.mutate(time=events[RAW + self.time])
        users, user_files = self._side_table(backend, "user")
        items, item_files = self._side_table(backend, "item")
        files = [*log.paths, *user_files, *item_files]
        return RawLog(events=events, users=users, items=items, has_time=self.time is not None, files=files)

    def _files(self, key: str, path: Path, kind: str | None, header: list[str] | None) -> TableFiles:
        paths = find_files(key, path, kind)
        kind = kind or format_of(paths[0])
        if kind is None:
            hint = "; say dataset.format=csv (or tsv, jsonl, parquet)" if key == "dataset.raw" else ""
            raise InputError(f"{key}: want a file that ends with {', '.join(FORMATS)}, got {paths[0].name}{hint}")
        return TableFiles(key, paths, kind, self.separator or SEPARATORS[kind], header=header)

    def _side_table(self, backend: Any, of: Literal["user", "item"]) -> tuple[Any | None, list[Path]]:
        wanted = attribute_columns(self, of)
        place, key_column = (self.users, self.user) if of == "user" else (self.items, self.item)
        key = f"dataset.{of}s"
        if not wanted:
            return None, []
        if place is None:
            raise InputError(f"{key}: want a table of {of}s, got none, but {next(iter(wanted))} reads it; {key}=PATH")
        path = Path(place).expanduser()
        if not path.is_file():
            raise InputError(f"{key}: want a table of {of}s, got {place}, which does not exist; check the path")
        files = self._files(key, path, None, None)
        require_columns({f"dataset.{of}": key_column, **wanted}, column_names(files), path)
        table = load(backend, f"raw_{of}s", files, sorted({key_column, *wanted.values()}))
        return table.mutate(**{of: table[RAW + key_column]}), files.paths
