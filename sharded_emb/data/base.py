"""The slot `dataset`: where a raw log comes from, how it is filtered, and which samples it becomes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from sharded_emb.component import Component, Frozen, Slot
from sharded_emb.data.attribute import RAW, Attribute
from sharded_emb.data.bad_rows import Place
from sharded_emb.data.dataset import Dataset, Manifest
from sharded_emb.data.filters import Keep, seconds
from sharded_emb.data.layouts.base import Layout
from sharded_emb.data.layouts.next_item import NextItem
from sharded_emb.data.locations import is_pattern, is_remote, local_files, local_path, require_sha256, unpacked
from sharded_emb.data.work import Work
from sharded_emb.errors import InputError, nearest

__all__ = ["RAW", "Attribute", "DatasetConfig", "LogConfig", "RawLog"]

_TAKEN = {
    "user",
    "item",
    "items",
    "time",
    "times",
    "label",
    "moment",
    "position",
    "row",
    "first",
    "events",
    "piece",
    "tie",
    "fraction",
    "count",
}


PER_SECOND = {"seconds": 1, "milliseconds": 1000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
"""By the units of times that are numbers."""


def no_place(position: int) -> Place:
    """For rows that were not read from a file."""
    return Place("the log", position + 1, "row")


@dataclass(frozen=True)
class RawLog:
    """Raw tables as Ibis expressions; every raw column is a string (or a list of strings) named `raw:NAME`.

    events: user, item (strings, each where the log has it), position (int64, unique, the order of the file), time
    (string, where has_time) and raw columns. users, items: user or item, position, and raw columns; null where nothing
    asks for them. place, user_place, item_place: where the row of a position stood. starts: where there may be several
    files of events, the name of each that has some, and their first position. per_second: what a whole number of time
    counts. tables: what the events were read into, which is dropped once it is not needed.
    """

    events: Any
    users: Any | None
    items: Any | None
    has_time: bool
    files: list[Path]
    place: Callable[[int], Place] = no_place
    user_place: Callable[[int], Place] = no_place
    item_place: Callable[[int], Place] = no_place
    per_second: int = 1
    starts: list[tuple[str, int]] | None = None
    tables: list[str] = field(default_factory=list)


class DatasetConfig(Component):
    """What becomes a dataset folder.

    raw: the raw data: a path, a URL (https://, s3://, gs://), and for event logs and texts with a label also a pattern
    (`logs/*.csv`) or a list of all these. What is fetched is kept in `downloads`, and a zip archive stands for the
    folder of its files. sha256: the hash that the one file of `raw` has to have, before it is unpacked. paths: the keys
    that name files of the raw data. max_bad_rows: as many malformed rows are left out, counted and listed in
    bad_rows.jsonl; more are an error.
    """

    paths: ClassVar[tuple[str, ...]] = ("raw",)

    raw: str | list[str] | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-fA-F]{64}$")
    downloads: str = "data/downloads"
    max_bad_rows: int = Field(default=0, ge=0)

    def make(self, work: Work) -> Manifest:
        """Writes vocabularies and splits into the folder of `work`, which may be used for other files meanwhile.

        Raises InputError, each line on a key of `dataset`, for files, columns and lines that are not as they should.
        """
        raise NotImplementedError

    def best_reachable(self, dataset: Dataset, seed: int) -> dict[str, dict[str, float]] | None:  # noqa: ARG002
        """Metrics by split that no ranker can beat in expectation; null where the truth is not known."""
        return None

    def missing_files(self) -> list[str]:
        """A problem for each path of this config that is not there: known before anything is read or fetched."""
        found = []
        for name in self.paths:
            place = getattr(self, name)
            if name == "raw" and not place:
                found.append(_no_raw("the raw data"))
            for each in place if isinstance(place, list) else [place] if place else []:
                if is_remote(each) or is_pattern(each):
                    continue
                try:
                    local_path(f"dataset.{name}", each, "the raw data" if name == "raw" else "a file")
                except InputError as error:
                    found += error.problems
        return found

    def raw_files(self, what: str, work: Work) -> list[Path]:
        """The raw data as local files and folders, fetched and unpacked. Raises InputError on `dataset.raw`."""
        if not self.raw:
            raise InputError(_no_raw(what))
        places = [self.raw] if isinstance(self.raw, str) else self.raw
        for place in places:
            if not is_remote(place) and not is_pattern(place):
                local_path("dataset.raw", place, what)
        key, downloads = "dataset.raw", Path(self.downloads)
        files = [file for place in places for file in local_files(key, place, downloads, work.progress)]
        if self.sha256 is not None:
            require_sha256("dataset.sha256", files, self.sha256)
        return [unpacked(key, file, work) if file.suffix.lower() == ".zip" else file for file in files]

    def raw_path(self, what: str, work: Work) -> Path:
        """The one place of the raw data. Raises InputError on `dataset.raw`."""
        files = self.raw_files(what, work)
        if len(files) != 1:
            raise InputError(f"dataset.raw: want {what}, got {len(files)} files; name one")
        return files[0]


def _no_raw(what: str) -> str:
    return f"dataset.raw: missing; want {what}, give it as dataset.raw=PATH"


class VocabularyRule(Frozen):
    """Which raw ids get a row of their own: those with min_count events, and of these the max_rows most frequent."""

    min_count: PositiveInt = 1
    max_rows: PositiveInt | None = None


class LogConfig(DatasetConfig):
    """What all logs of events share.

    keep: column -> which events stay. time_from, time_to: seconds since 1970, or ISO dates; the latter is excluded.
    min_user_events, min_item_events: users and items with fewer events are dropped, again and again until all that are
    left have enough (a k-core); 1 keeps all. ties: the order of a user's events of the same time: that of the `file`,
    `reversed`, by raw `item` ascending, or `random` by the seed. attributes: columns beside the ids. vocabularies:
    table -> which ids get a row; the others are row 1. layout: which samples the log becomes, and how they are split.
    """

    keep: dict[str, Keep] = Field(default_factory=dict)
    time_from: int | float | str | None = None
    time_to: int | float | str | None = None
    min_user_events: int = Field(default=1, ge=1)
    min_item_events: int = Field(default=1, ge=1)
    ties: Literal["file", "reversed", "item", "random"] = "file"
    attributes: dict[str, Attribute] = Field(default_factory=dict)
    vocabularies: dict[str, VocabularyRule] = Field(default_factory=dict)
    layout: Slot[Layout] = NextItem()

    @field_validator("time_from", "time_to", mode="after")
    @classmethod
    def _a_time(cls, time: int | float | str | None) -> int | float | str | None:
        if time is not None:
            try:
                seconds(time)
            except ValueError:
                raise ValueError(f"want seconds since 1970 or a date such as 2020-01-31, got {time!r}") from None
        return time

    @field_validator("attributes")
    @classmethod
    def _free_names(cls, attributes: dict[str, Attribute]) -> dict[str, Attribute]:
        by_letters: dict[str, str] = {}
        for name, attribute in attributes.items():
            if (other := by_letters.setdefault(name.lower(), name)) != name:
                raise ValueError(f"{name}: want names that differ by more than case, got {other} as well; rename one")
            if name.lower() in _TAKEN:
                raise ValueError(f"{name} is a column of its own; name the attribute otherwise")
            if attribute.table in {"user", "item"}:
                raise ValueError(f"{name}: the vocabulary {attribute.table} holds ids alone; name another table")
        return attributes

    def make(self, work: Work) -> Manifest:
        """See `DatasetConfig.make`."""
        from sharded_emb.data.from_log import make  # whose steps need this class

        return make(self, work)

    def kept_columns(self) -> list[str]:
        """The raw columns that `keep` looks at."""
        return sorted(self.keep)

    def all_attributes(self) -> dict[str, Attribute]:
        """The attributes to read, those that the source brings of itself included."""
        return self.attributes

    def read(self, work: Work) -> RawLog:
        """The raw log as Ibis tables. The folder of `work` may be written to.

        Raises InputError, each line on a key of `dataset`, for files, columns and lines that are not as they should.
        """
        raise NotImplementedError


def require_columns(wanted: Mapping[str, str], present: Iterable[str], file: Path) -> None:
    """Raise InputError for each config key (wanted: key -> column) whose column the file has not, all at once."""
    there = list(present)
    problems = [
        f"{key}: want a column of {file.name}, got {column!r}{nearest(column, there)}"
        for key, column in wanted.items()
        if column not in there
    ]
    if problems:
        raise InputError(*problems)


def attribute_columns(config: LogConfig, of: str) -> dict[str, str]:
    """Config key -> raw column, for the attributes of items, users or events."""
    wanted: dict[str, str] = {}
    for name, each in config.all_attributes().items():
        if each.of == of and each.flags:
            wanted |= {f"dataset.attributes.{name}.flags.{i}": flag for i, flag in enumerate(each.flags)}
        elif each.of == of:
            wanted[f"dataset.attributes.{name}.column"] = each.column or name
    return wanted


def event_columns(config: LogConfig) -> dict[str, str]:
    """Config key -> raw column of all that is read of an event besides user, item and time."""
    label = config.layout.label_column()
    kept = {f"dataset.keep.{column}": column for column in config.kept_columns()}
    return {**({"dataset.layout.label": label} if label else {}), **kept, **attribute_columns(config, "event")}
