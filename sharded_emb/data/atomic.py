"""RecBole's atomic files: a folder with NAME.inter, NAME.item and NAME.user, tab-separated, with typed headers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from sharded_emb.data.bad_rows import Place
from sharded_emb.data.base import (
    RAW,
    LogConfig,
    RawLog,
    attribute_columns,
    event_columns,
    no_place,
    require_columns,
)
from sharded_emb.data.reading import load
from sharded_emb.data.tabular import TableFiles, column_names
from sharded_emb.data.work import Work
from sharded_emb.errors import InputError, nearest

TYPES = ("token", "float", "token_seq", "float_seq")
"""Types of columns: https://recbole.io/docs/user_guide/data/atomic_files.html"""

_PlaceOf = Callable[[int], Place]


class AtomicFiles(LogConfig):
    """`raw` is the folder or its .inter file. Headers are `name:type`; columns are named without their type.

    user, item, time: columns of NAME.inter; time null takes the order of the lines. Attributes of items are columns of
    NAME.item, of users of NAME.user, of events of NAME.inter; columns of type token_seq hold many values, separated by
    spaces.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = "timestamp"

    def read(self, work: Work) -> RawLog:
        """See `LogConfig.read`."""
        inter = self._inter_file(work)
        wanted = {"dataset.user": self.user, "dataset.item": self.item, **event_columns(self)}
        if self.time is not None:
            wanted["dataset.time"] = self.time
        events, place = _load(work, "raw_events", inter, wanted)
        events = events.mutate(user=events[RAW + self.user], item=events[RAW + self.item])
        if self.time is not None:
            events = events.mutate(time=events[RAW + self.time])
        users, user_place = self._side_table(work, inter, "user")
        items, item_place = self._side_table(work, inter, "item")
        sides = {".user": users, ".item": items}
        return RawLog(
            events=events,
            users=users,
            items=items,
            has_time=self.time is not None,
            files=[inter, *(inter.with_suffix(ending) for ending, table in sides.items() if table is not None)],
            place=place,
            user_place=user_place,
            item_place=item_place,
            tables=["raw_events"],
        )

    def _inter_file(self, work: Work) -> Path:
        what = "a folder with NAME.inter"
        path = self.raw_path(what, work)
        found = sorted(path.glob("*.inter")) if path.is_dir() else [path]
        if path.is_file() and path.suffix != ".inter":
            raise InputError(f"dataset.raw: want {what}, got the file {path}; name the folder or its .inter file")
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise InputError(f"dataset.raw: want {what}, got {path} with {names}; name the folder or its .inter file")
        return found[0]

    def _side_table(self, work: Work, inter: Path, of: Literal["user", "item"]) -> tuple[Any | None, _PlaceOf]:
        wanted = attribute_columns(self, of)
        if not wanted:
            return None, no_place
        path = inter.with_suffix(f".{of}")
        if not path.is_file():
            key = next(iter(wanted))
            raise InputError(f"dataset.raw: want {path.name} beside {inter.name}, got none, but {key} reads it; add it")
        key_column = self.user if of == "user" else self.item
        table, place = _load(work, f"raw_{of}s", path, {f"dataset.{of}": key_column, **wanted})
        return table.mutate(**{of: table[RAW + key_column]}), place


def _load(work: Work, name: str, path: Path, wanted: dict[str, str]) -> tuple[Any, _PlaceOf]:
    """The wanted columns of one atomic file, named without their types; sequences are lists."""
    files = TableFiles("dataset.raw", [path], "tsv", separator="\t", quote="")
    types = _header(column_names(files), path)
    require_columns(wanted, types, path)
    typed = {column: f"{column}:{types[column]}" for column in sorted(set(wanted.values()))}
    loaded = load(work, name, files, list(typed.values()))
    table = loaded.table
    columns = {RAW + column: table[RAW + full] for column, full in typed.items()}
    for column, values in columns.items():
        if types[column.removeprefix(RAW)].endswith("_seq"):
            columns[column] = values.split(" ")
    return table.select(**columns, position=table.position), loaded.places.of


def _header(names: list[str], path: Path) -> dict[str, str]:
    """Column -> type. Raises InputError on dataset.raw for each name that is not `name:type`."""
    types, problems = {}, []
    for full in names:
        column, colon, kind = full.rpartition(":")
        want = f"dataset.raw: want a header of tab-separated name:type in {path.name}"
        if not colon or not column:
            problems.append(f"{want}, got {full!r}; types are {', '.join(TYPES)}")
        elif kind not in TYPES:
            problems.append(f"{want}, got {full!r}{nearest(kind, TYPES)}")
        types[column] = kind
    if problems:
        raise InputError(*problems)
    return types
