"""Columns of raw values to what the graph of the model takes.

B  rows    T  events over all rows    N  ids    L  longest row    D  dim    A  columns of numbers
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .table import Table, hashed
from .vocabulary import UNKNOWN, Vocabulary, absent, mapped, of_64_bits, of_kind, plain
from .words import words_of

Columns = Mapping[str, Sequence[Any]]
ROWS_BEHIND = 2
_BEYOND = 3.4028235e38  # the largest number of 32 bits is below it
_BOOLEANS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Bags:
    """Ids of rows, one row after the other: ids_T and lengths_B, int64. numbers_T: float32, what a pooling asks for."""

    ids_T: Tensor
    lengths_B: Tensor
    numbers_T: Tensor | None = None

    @property
    def row_T(self) -> Tensor:
        """The row of each."""
        return torch.repeat_interleave(self.lengths_B)

    def only(self, kept_T: Tensor) -> "Bags":
        """The same rows with some of their ids."""
        if bool(kept_T.all()):
            return self
        lengths_B = torch.bincount(self.row_T[kept_T], minlength=len(self.lengths_B))
        return Bags(self.ids_T[kept_T], lengths_B, None if self.numbers_T is None else self.numbers_T[kept_T])

    def with_one_more(self) -> "Bags":
        """Each row with a place behind its events, of id 0."""
        at_T, count = torch.arange(len(self.ids_T)) + self.row_T, len(self.ids_T) + len(self.lengths_B)
        ids_T = self.ids_T.new_zeros(count).index_copy_(0, at_T, self.ids_T)
        numbers_T = self.numbers_T
        if numbers_T is not None:
            numbers_T = numbers_T.new_zeros(count).index_copy_(0, at_T, numbers_T)
        return Bags(ids_T, self.lengths_B + 1, numbers_T)

    def with_rows_behind(self, rows: int, length: int) -> "Bags":
        """With so many rows more, of ids and numbers 0."""
        ids_T = torch.cat([self.ids_T, self.ids_T.new_zeros(rows * length)])
        numbers_T = self.numbers_T
        if numbers_T is not None:
            numbers_T = torch.cat([numbers_T, numbers_T.new_zeros(rows * length)])
        return Bags(ids_T, torch.cat([self.lengths_B, self.lengths_B.new_full((rows,), length)]), numbers_T)


class Inputs:
    """What a model reads. said: export.json. ROWS_BEHIND rows of no meaning come behind those of the caller: a graph is
    traced for two rows and more, of two events and more, and would refuse fewer.
    """

    def __init__(
        self, folder: Path, said: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary], tables: Mapping[str, Table]
    ) -> None:
        self.said, self.vocabularies, self.tables = said, vocabularies, tables
        self.features = {each["name"]: each for each in said["features"]}
        self.columns: dict[str, str | None] = {f["column"]: f["vocabulary"] for f in said["features"] if not f["of"]}
        for feature in said["features"]:
            self.columns |= dict.fromkeys(feature["numbers"].get("columns", {}).values())
        self.columns |= dict.fromkeys(said["numbers"])
        self.prepared: dict[str, Mapping[str, Any]] = said.get("prepared", {})
        self.texts = frozenset[str](said.get("texts", ()))  # columns of which a row may be a text
        self._of_items: dict[str, tuple[Tensor, Tensor]] = {}
        for feature in filter(lambda each: each["of"], said["features"]):
            file, items = folder / "items" / feature["name"], tables[self.features[feature["of"]]["table"]].size
            begins = mapped(of_kind(file, "offsets"), torch.int64, items + 1)
            self._of_items[feature["name"]] = begins, mapped(of_kind(file, "values"), torch.int64, feature["values"])

    def of(self, columns: Columns) -> dict[str, Tensor]:
        """The inputs of the graph, by name. Raises ValueError for a column that is missing or does not fit."""
        self._require(columns)
        found: dict[str, Tensor] = {}
        bags: dict[str, Bags] = {}
        for name, feature in self.features.items():
            if not feature["of"]:
                bags[name] = self._read(feature, columns).with_rows_behind(ROWS_BEHIND, feature["behind"])
                found |= self._looked_up(feature, bags[name])
        for feature in self.features.values():
            if feature["of"]:
                found |= self._sequence(feature, self._describing(feature, bags[feature["of"]]))
        if self.said["numbers"]:
            scaled = [map(float, self._scaled(name, columns[name])) for name in self.said["numbers"]]
            found["numbers"] = torch.tensor([[*values, *[0.0] * ROWS_BEHIND] for values in scaled]).T.contiguous()
        return {name: found[name] for name in self.said["inputs"]}

    def histories(self, columns: Columns) -> Bags:
        """The items of each row, all of them, as rows of their table."""
        self._require(columns)
        history = self.features[self.said["history"]]
        return self._known({**history, "limit": None, "numbers": {}}, columns)

    def _require(self, columns: Columns) -> None:
        """Raises ValueError unless all columns are there, with as many rows."""
        missing = [name for name in self.columns if name not in columns]
        if missing:
            raise ValueError(f"columns: want {', '.join(self.columns)}, got no {', '.join(missing)}")
        counts = {name: len(columns[name]) for name in self.columns}
        if len({*counts.values()}) > 1 or not all(counts.values()):
            raise ValueError(f"columns: want as many rows in each, one at least, got {counts}")

    def _read(self, feature: Mapping[str, Any], columns: Columns) -> Bags:
        """What the graph reads of a feature: as many events as it was trained with, without padding."""
        bags = self._known(feature, columns)
        if feature["padding"] is not None:
            bags = bags.only(bags.ids_T != feature["padding"])
        if not feature["asked"]:
            return bags
        if not bool(bags.lengths_B.all()):
            raise ValueError(f"{feature['column']}: want one event or more in each row, got a row without any")
        return bags.with_one_more()  # the event that is asked for, which nothing looks at

    def _known(self, feature: Mapping[str, Any], columns: Columns) -> Bags:
        """Rows of the table alone, and what the pooling asks for of each."""
        table, unknown = self.tables[feature["table"]], feature["unknown"]
        bags = self._cut(feature, columns)
        rows_T = table.rows_of(bags.ids_T, feature["raw"])
        wrong_T = (rows_T < 0) | (rows_T >= table.size)
        if unknown == "error" and bool(wrong_T.any()):
            wrong = int(rows_T[wrong_T][0])
            raise ValueError(f"{feature['column']}: id {wrong} is out of range [0, {table.size}) of table {table.name}")
        if unknown == "drop":
            return replace(bags, ids_T=rows_T).only(~wrong_T & (rows_T != UNKNOWN))
        instead_T = hashed(rows_T, table.size) if unknown == "hash" else torch.full_like(rows_T, UNKNOWN)
        return replace(bags, ids_T=torch.where(wrong_T, instead_T, rows_T))

    def _cut(self, feature: Mapping[str, Any], columns: Columns) -> Bags:
        """The ids of each row that are read, as the data have them."""
        column, limit, newest = feature["column"], feature["limit"], feature["keep"] == "newest"
        whole = [_listed(column, value, feature["scalar"]) for value in self._in_words(column, columns[column])]
        vocabulary = self.columns[column]
        if vocabulary is not None and not feature["scalar"] and not feature["numbers"]:
            whole = [[value for value in row if value != ""] for row in whole]  # which `prepare` takes for no value
        rows = [_cut(row, limit, newest) for row in whole]
        values = [*itertools.chain.from_iterable(rows)]
        if vocabulary is None:
            ids_T = torch.tensor([of_64_bits(column, value) for value in values], dtype=torch.int64)
        else:
            ids_T = self.vocabularies[vocabulary].rows(self._in_buckets(column, values))
        lengths_B = torch.tensor([*map(len, rows)])
        numbers = self._numbers(feature, columns, [*map(len, whole)])
        if numbers is None:
            return Bags(ids_T, lengths_B)
        return Bags(ids_T, lengths_B, torch.tensor([*itertools.chain.from_iterable(numbers)], dtype=torch.float32))

    def _in_words(self, column: str, values: Sequence[Any]) -> Sequence[Any]:
        if column not in self.texts:
            return values
        return [words_of(value) if isinstance(value, str) else value for value in values]

    def _numbers(self, feature: Mapping[str, Any], columns: Columns, whole: list[int]) -> list[list[float]] | None:
        """What the pooling asks for, of the ids that are read of each row. whole: how many ids rows have."""
        said, limit, newest = feature["numbers"], feature["limit"], feature["keep"] == "newest"
        if not said:
            return None
        read: dict[str, list[Any]] = {}
        for key, column in said["columns"].items():
            if key == "now":  # one a row
                read[key] = self._scaled(column, columns[column])
                continue
            rows = [_listed(column, value, scalar=False) for value in columns[column]]
            for number, (row, count) in enumerate(zip(rows, whole, strict=True)):
                if len(row) != count:
                    wanted = f"want {count} values in row {number}, as {feature['column']} has"
                    raise ValueError(f"{column}: {wanted}, got {len(row)}")
            read[key] = [self._scaled(column, _cut(row, limit, newest)) for row in rows]
        if said["kind"] == "weights":
            return read["weights"]
        if said["kind"] == "gaps":
            return [_gaps(row) for row in read["times"]]
        nows = read.get("now", [max(row, default=0) for row in read["times"]])
        return [_decayed(row, now, said) for row, now in zip(read["times"], nows, strict=True)]

    def _in_buckets(self, column: str, values: list[Any]) -> list[Any]:
        """With the name of its bucket for each number, also one in a text, where numbers have become ids so; names
        stay, and nothing does.
        """
        said = self.prepared.get(column)
        if said is None or "edges" not in said:
            return values
        names: list[str] = said["names"]
        return [
            value or None
            if value is None or value == "" or value in names
            else names[bisect_right(said["edges"], _number(column, value, "a number, or the name of a bucket"))]
            for value in values
        ]

    def _scaled(self, column: str, values: Sequence[Any]) -> list[Any]:
        """Numbers as the model has them."""
        said = self.prepared.get(column)
        if said is None or "edges" in said:
            return [*values]
        return [_on_scale(said, column, value) for value in values]

    def _looked_up(self, feature: Mapping[str, Any], bags: Bags) -> dict[str, Tensor]:
        """Of a feature its inputs."""
        if not feature["summed"]:
            return self._sequence(feature, bags)
        name, rows = feature["name"], len(bags.lengths_B)
        sums_BD = self.tables[feature["table"]].sums(bags.ids_T, bags.row_T, rows)
        return {f"{name}.sums": sums_BD, f"{name}.lengths": bags.lengths_B}

    def _sequence(self, feature: Mapping[str, Any], bags: Bags) -> dict[str, Tensor]:
        name, longest = feature["name"], feature["longest"] or int(bags.lengths_B.max())
        found = {
            f"{name}.values": self.tables[feature["table"]].vectors(bags.ids_T),
            f"{name}.ids": bags.ids_T,
            f"{name}.lengths": bags.lengths_B,
            f"{name}.places": torch.arange(longest),
            f"{name}.filled": torch.arange(int((bags.lengths_B > 0).sum())),
        }
        return found if bags.numbers_T is None else {**found, f"{name}.numbers": bags.numbers_T}

    def _describing(self, feature: Mapping[str, Any], items: Bags) -> Bags:
        """What describes items: a row an item, those of the rows behind with values of no meaning."""
        offsets, values = self._of_items[feature["name"]]
        behind = ROWS_BEHIND * self.features[feature["of"]]["behind"]
        item_T = items.ids_T[: len(items.ids_T) - behind]
        lengths_T = offsets[item_T + 1] - offsets[item_T]
        shift_T = offsets[item_T] - (lengths_T.cumsum(0) - lengths_T)
        at_N = torch.arange(int(lengths_T.sum())) + torch.repeat_interleave(shift_T, lengths_T)
        return Bags(values[at_N], lengths_T).with_rows_behind(behind, feature["behind"])


def _number(column: str, value: Any, wanted: str) -> float:
    """Of any library. Raises ValueError for what is no number."""
    value = plain(value)
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    try:
        # of few bits by its shortest text, as which `prepare` has read it
        number = float(str(value) if type(value).__name__ in ("float32", "float16") else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{column}: want {wanted}, got {value!r}")
    return number


def _is_none(value: Any) -> bool:
    """Whether it says that there is no number, in the words of some library."""
    value = plain(value)
    if not isinstance(value, str):
        return absent(value)
    try:
        return math.isnan(float(value or "nan"))
    except ValueError:
        return not value.strip()


def _on_scale(said: Mapping[str, Any], column: str, value: Any) -> float:
    if said["missing"] is not None and _is_none(value):
        return float(said["missing"])  # of a user or an item without
    number = _number(column, value, "a number")
    if said["log"] and math.isfinite(number):
        number = math.copysign(math.log(abs(number) + 1), number)
    scaled = (number - said["mean"]) / said["deviation"]
    if not abs(scaled) < _BEYOND:
        raise ValueError(f"{column}: want a number of 32 bits, got {value!r}")
    return float(scaled)


def _listed(column: str, value: Any, scalar: bool) -> list[Any]:
    if scalar:
        return [value]
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise ValueError(f"{column}: want a list of values in each row, got {value!r}")
    return [*value]


def _cut(row: list[Any], limit: int | None, newest: bool) -> list[Any]:
    if limit is None or len(row) <= limit:
        return row
    return row[-limit:] if newest else row[:limit]


def _gaps(times: list[float]) -> list[float]:
    """Since the event before, 0 of the first."""
    return [float(each - before) for before, each in zip([*times[:1], *times], times, strict=False)]


def _decayed(times: list[float], now: float, said: Mapping[str, Any]) -> list[float]:
    """Half the weight for every half-life of an event's age."""
    ages = [max(now - each, 0) for each in times]
    youngest = min(ages, default=0) if said["normalize"] else 0
    return [2.0 ** (-(age - youngest) / said["half_life_seconds"]) for age in ages]
