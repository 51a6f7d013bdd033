"""The slot `dataset`: where a raw log comes from, how it is filtered, and which samples it becomes."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sharded_emb.component import Component, Frozen, Slot
from sharded_emb.data.dataset import Dataset, Manifest
from sharded_emb.data.layouts.base import Layout
from sharded_emb.data.layouts.next_item import NextItem
from sharded_emb.errors import InputError, nearest

RAW = "raw:"
"""Prefix of raw columns, which may be called `user` or `label` themselves."""

_TAKEN = {"user", "item", "items", "time", "times", "label", "moment", "position", "row", "first", "events"}


class Attribute(Frozen):
    """One attribute of items, users or events that becomes a column of the dataset.

    of: whose it is. column: its raw name, the attribute's own by default. table: the vocabulary that it reads, the
    attribute's own name by default; attributes that name one table share it. separator: splits one text into many
    values (`Comedy|Drama`). edges: bounds of buckets that a number is put into, `[18, 25]` gives <18, 18-25, >=25.
    number: it is no id but a number of an event, which a pooling may weigh by. raw: its ids, whole numbers of 64 bits,
    stay as they are and have no vocabulary, for tables whose `ids` take any.
    """

    of: Literal["item", "user", "event"]
    column: str | None = None
    table: str | None = None
    separator: str | None = Field(default=None, min_length=1)
    edges: list[float] | None = Field(default=None, min_length=1)
    number: bool = False
    raw: bool = False

    @model_validator(mode="after")
    def _has_a_vocabulary(self) -> "Attribute":
        for key, others in (("number", "table, separator, edges or raw"), ("raw", "table, separator, edges or number")):
            alone = self.of == "event" and not (self.table or self.separator or self.edges or self.number == self.raw)
            if getattr(self, key) and not alone:
                raise ValueError(f"{key}: want false with of user or item, or with {others}, got true")
        return self

    @property
    def counted(self) -> bool:
        """Whether its values are numbered in a vocabulary."""
        return not (self.number or self.raw)

    @field_validator("edges")
    @classmethod
    def _ascending(cls, edges: list[float] | None) -> list[float] | None:
        if edges and any(low >= high for low, high in itertools.pairwise(edges)):
            raise ValueError(f"want rising numbers, got {edges}")
        return edges


@dataclass(frozen=True)
class RawLog:
    """Raw tables as Ibis expressions; every raw column is a string (or a list of strings) named `raw:NAME`.

    events: user, item (strings), position (int64, unique, the order of the file), time (string, where has_time) and raw
    columns. users, items: user or item, and raw columns; null where nothing asks for them.
    """

    events: Any
    users: Any | None
    items: Any | None
    has_time: bool
    files: list[Path]


class DatasetConfig(Component):
    """What becomes a dataset folder.

    raw: the path of the raw data. paths: the keys that name files of the raw data.
    """

    paths: ClassVar[tuple[str, ...]] = ("raw",)

    raw: str | None = None

    def make(self, backend: Any, folder: Path, seed: int) -> Manifest:
        """Writes vocabularies and splits into the folder, which may be used for other files meanwhile.

        backend: an Ibis backend to work with. Raises InputError, each line on a key of `dataset`, for files, columns
        and lines that are not as they should.
        """
        raise NotImplementedError

    def best_reachable(self, dataset: Dataset, seed: int) -> dict[str, dict[str, float]] | None:  # noqa: ARG002
        """Metrics by split that no ranker can beat in expectation; null where the truth is not known."""
        return None

    def missing_files(self) -> list[str]:
        """A problem for each path of this config that is not there: known before anything is read."""
        found = []
        for name in self.paths:
            place = getattr(self, name)
            if name == "raw":
                try:
                    self.raw_path("the raw data")
                except InputError as error:
                    found += error.problems
            elif place is not None and not Path(place).expanduser().exists():
                found.append(f"dataset.{name}: want a file, got {place}, which does not exist; check the path")
        return found

    def raw_path(self, what: str) -> Path:
        """The place of the raw data, which exists. Raises InputError on `dataset.raw`."""
        if not self.raw:
            raise InputError(f"dataset.raw: missing; want {what}, give it as dataset.raw=PATH")
        path = Path(self.raw).expanduser()
        if not path.exists():
            beside = [str(other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
            hint = nearest(path.name, beside) if beside else "; check the path"
            raise InputError(f"dataset.raw: want {what}, got {self.raw}, which does not exist{hint}")
        return path


class LogConfig(DatasetConfig):
    """What all logs of events share.

    min_user_events, min_item_events: users and items with fewer events are dropped, again and again until all that are
    left have enough (a k-core); 1 keeps all. attributes: columns beside the ids. layout: which samples the log becomes,
    and how they are split.
    """

    min_user_events: int = Field(default=1, ge=1)
    min_item_events: int = Field(default=1, ge=1)
    attributes: dict[str, Attribute] = Field(default_factory=dict)
    layout: Slot[Layout] = NextItem()

    @field_validator("attributes")
    @classmethod
    def _free_names(cls, attributes: dict[str, Attribute]) -> dict[str, Attribute]:
        for name, attribute in attributes.items():
            if name in _TAKEN:
                raise ValueError(f"{name} is a column of its own; name the attribute otherwise")
            if attribute.table in {"user", "item"}:
                raise ValueError(f"{name}: the vocabulary {attribute.table} holds ids alone; name another table")
        return attributes

    def make(self, backend: Any, folder: Path, seed: int) -> Manifest:
        """See `DatasetConfig.make`."""
        from sharded_emb.data.from_log import make  # whose steps need this class

        return make(self, folder, backend, seed)

    def all_attributes(self) -> dict[str, Attribute]:
        """The attributes to read, those that the source brings of itself included."""
        return self.attributes

    def read(self, backend: Any, workspace: Path, seed: int) -> RawLog:
        """The raw log as Ibis tables. `workspace` may be written to, and becomes the dataset folder.

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
    wanted = {name: each for name, each in config.all_attributes().items() if each.of == of}
    return {f"dataset.attributes.{name}.column": each.column or name for name, each in wanted.items()}


def event_columns(config: LogConfig) -> dict[str, str]:
    """Config key -> raw column of all that is read of an event besides user, item and time."""
    label = config.layout.label_column()
    return {**({"dataset.layout.label": label} if label else {}), **attribute_columns(config, "event")}
