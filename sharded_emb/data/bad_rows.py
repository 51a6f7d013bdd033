"""Rows of raw files that cannot be used: counted, the first ones shown with file and line, all in a side file."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from sharded_emb.errors import InputError

SIDE_FILE = "bad_rows.jsonl"
_SHOWN = 5
_KEPT = 100_000
LONGEST_TEXT = 200


@dataclass(frozen=True)
class Place:
    """Where a row stands: line counts from 1, the header included; in Parquet it is the number of the row."""

    file: str
    line: int
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.unit} {self.line:,} of {self.file}"


@dataclass(frozen=True)
class BadRow:
    """One row that is left out. key: the config key that it is about. want, got: as in any other problem."""

    key: str
    want: str
    got: str
    place: Place

    @property
    def problem(self) -> str:
        """`dataset.time: want a number below 2^62 or a date, got 'soon' in line 3 of log.csv`."""
        return f"{self.key}: want {self.want}, got {self.got} in {self.place}"


class BadRows:
    """What was left out so far. most: as many are allowed.

    count, by_key: of all of them. kept: the first 100,000.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self.by_key: dict[str, int] = {}
        self.kept: list[BadRow] = []

    def add(self, rows: Iterable[BadRow], unlisted: int = 0) -> None:
        """Counts more rows; unlisted: that many beyond those given, on the key of the last one."""
        key = ""
        for row in rows:
            key = row.key
            self._count(key, 1)
            if len(self.kept) < _KEPT:
                self.kept.append(row)
        if unlisted:
            self._count(key, unlisted)

    def _count(self, key: str, rows: int) -> None:
        self.count += rows
        self.by_key[key] = self.by_key.get(key, 0) + rows

    @property
    def room(self) -> int:
        """How many more are worth listing."""
        return max(_SHOWN, _KEPT - len(self.kept))

    def judge(self) -> None:
        """Raises InputError where there are more than allowed: the first ones, then how many there are."""
        if self.count <= self.most:
            return
        rows = "row" if self.count == 1 else "rows"
        raise InputError(
            *(row.problem for row in self.kept[:_SHOWN]),
            f"dataset.max_bad_rows: want at most {self.most:,} malformed rows, got {self.count:,} {rows}; mend them, "
            f"or raise it: they are left out then and listed in {SIDE_FILE}",
        )

    def write(self, folder: Path) -> None:
        """The side file, one JSON object a line: file, line, key, want, got. None where there is nothing to say."""
        if not self.kept:
            return
        with (folder / SIDE_FILE).open("w", encoding="utf-8") as file:
            for row in self.kept:
                values = {**asdict(row.place), "key": row.key, "want": row.want, "got": row.got}
                file.write(json.dumps(values, ensure_ascii=False) + "\n")

    def summary(self) -> list[str]:
        """What to tell at the end: how many, and the first ones."""
        if not self.count:
            return []
        first = [f"  {row.problem}" for row in self.kept[:_SHOWN]]
        return [f"{self.count:,} malformed rows left out, listed in {SIDE_FILE}; the first:", *first]


def shortened(text: object) -> str:
    """The text as a Python literal, cut where it is long."""
    whole = repr(text)
    return whole if len(whole) <= LONGEST_TEXT else f"{whole[:LONGEST_TEXT]}..."
