"""A run on samples that come while it trains: one pass over each part of a folder, in the order of the names.

Which samples a global batch has depends on the parts and the seed, and not on when the parts came: no batch has samples
of two of them, and the last one of a part may be smaller. The first rank looks, and tells the others.
"""

import logging
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from sharded_emb.batch import UnknownCount
from sharded_emb.data.collate import Collate
from sharded_emb.data.dataset import Column
from sharded_emb.data.source import Source
from sharded_emb.data.stream import END, MEND, StreamConfig, crc32_of, listed, read_part
from sharded_emb.distributed.agree import all_values, from_first_rank
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError
from sharded_emb.training.course import Fetching
from sharded_emb.training.feed import Fed, Feed
from sharded_emb.training.state import Progress, StreamPosition

log = logging.getLogger("sharded_emb")


@dataclass(frozen=True)
class Parting:
    """columns: that a part has. collate: of the train split, which says what is read. source, collate_of: of a part."""

    columns: Mapping[str, Column]
    collate: Collate
    source: Callable[[pa.Table], Source]
    collate_of: Callable[[pa.Table], Collate]


@dataclass(frozen=True)
class _Open:
    name: str
    crc32: int
    source: Source
    collate: Collate


@dataclass(frozen=True)
class _Look:
    """part: the next one. there: the names of those that are done. others: that are no parts."""

    part: str | None
    over: bool
    there: list[str]
    others: list[str]


class Stream:
    """See `Course`. An epoch of it is none: it is read once."""

    batches_per_epoch = None

    def __init__(self, config: StreamConfig, parting: Parting, place: Place) -> None:
        assert config.folder is not None
        self.config, self.parting, self.place = config, parting, place
        self.folder: Path = config.folder.expanduser()
        self.unknown: dict[str, UnknownCount] = parting.collate.unknown
        self.over = False
        self._open: _Open | None = None
        self._since = time.monotonic()  # when there was last something to train on
        self._told: set[str] = set()

    def policy(self, feature: str) -> str:
        """See `Course`."""
        return self.parting.collate.policy(feature)

    def begins(self, progress: Progress, pause: Callable[[], bool]) -> bool:
        """Raises InputError on every rank for a part that cannot be read, if that is not to be skipped; for one that
        stands before what was read already; and for one that is gone or another before all of it was read.
        """
        position = progress.stream
        self._since = time.monotonic()
        while not self.over:
            if position.under_way:
                self._open = self._opened(position)
                return True
            look = from_first_rank(lambda: self._look(position), self.place)
            position.done = look.there
            if look.part is not None:
                self._begin(look.part, position)
                self._since = time.monotonic()
                continue
            self.over = look.over
            if not self.over:
                self._tell_others(look.others)
                if pause():
                    return False
                time.sleep(self.config.poll_seconds)
        if not position.trained and self.place.rank == 0:
            log.warning("stream.folder: %s ended without a row: the weights are what the run began with", self.folder)
        return False

    def batches(self, progress: Progress, fetching: Fetching) -> Generator[Fed]:
        """Of the part under way."""
        part, position = self._open, progress.stream
        assert part is not None
        assert part.name == position.part
        feed = Feed(part.source, part.collate, fetching.share, fetching.device, fetching.prefetch)
        every = feed.epoch(position.parts, position.samples, progress.step + 1)
        try:
            for fed in every:
                yield fed if fed.error is None else Fed([], fed.samples, self._of_part(fed.error, part.name))
        finally:
            every.close()

    def passed(self, progress: Progress, samples: int) -> None:
        """See `Course`."""
        position = progress.stream
        progress.samples += samples
        position.samples += samples
        if not position.under_way:
            position.trained += 1
            self._finish(position)

    def evaluates(self, progress: Progress, every_epochs: int) -> bool:  # noqa: ARG002
        """At the end of a part that had rows; others come and go while the run waits."""
        position, every = progress.stream, self.config.evaluate_every_parts
        return every is not None and not position.under_way and position.trained % every == 0

    def where(self, progress: Progress) -> str:
        """`part 12, a.parquet: 30 of 90`."""
        position = progress.stream
        number = position.parts + position.under_way
        return f"part {number}, {position.part}: {position.samples:,} of {position.rows:,}"

    def result(self, progress: Progress) -> dict[str, Any]:
        """See `Course`. ended: by END, so that nothing is left."""
        position = progress.stream
        said = {"parts": position.parts, "last": position.part, "skipped": position.skipped}
        return {"epochs": 0, "stream": {**said, "ended": self.over and (self.folder / END).exists()}}

    def _look(self, position: StreamPosition) -> _Look:
        """Of the first rank. Raises InputError for a part that came before what was read."""
        found = listed(self.folder)
        done = {*position.done, position.part}
        last = position.part or ""
        late = [name for name in found.parts if name <= last and name not in done]
        if late:
            raise InputError(
                f"stream.folder: want parts in the order of their names, got {self.folder / late[0]}, which came after "
                f"{last} was read; give it a name behind that"
            )
        new = [name for name in found.parts if name > last]
        idle = self.config.idle_seconds
        idle_over = idle is not None and time.monotonic() - self._since >= idle
        there = [name for name in found.parts if name <= last]
        return _Look(new[0] if new else None, found.ended or idle_over, there, found.others)

    def _begin(self, name: str, position: StreamPosition) -> None:
        """Goes on to a part."""
        position.part, position.samples, position.rows, position.crc32 = name, 0, 0, None
        try:
            self._open = self._read(name)
            position.rows, position.crc32 = self._open.source.samples, self._open.crc32
        except InputError as error:
            if self.config.bad_parts == "error":
                raise
            position.skipped.append(name)
            if self.place.rank == 0:
                log.warning("part %s is left out: %s", name, str(error).removesuffix(f"; {MEND}"))
        if not position.rows:
            self._finish(position)

    def _opened(self, position: StreamPosition) -> _Open:
        """The part under way, which another process may have begun."""
        assert position.part is not None
        if self._open is not None and self._open.name == position.part:
            return self._open
        found = self._read(position.part)
        rows = found.source.samples
        if rows != position.rows or position.crc32 not in (None, found.crc32):
            got = "as many others" if rows == position.rows else str(rows)
            raise InputError(
                f"stream.folder: want {position.rows} rows in {self.folder / position.part}, {position.samples} of "
                f"which the run has had, got {got}; put the part back as it was"
            )
        return found

    def _finish(self, position: StreamPosition) -> None:
        position.parts += 1
        self._open = None

    def _read(self, name: str) -> _Open:
        """Raises InputError on every rank."""
        made: _Open | None = None
        wrong: InputError | None = None
        try:
            table = read_part(self.folder / name, self.parting.columns, self.parting.collate.columns)
            made = _Open(name, crc32_of(table), self.parting.source(table), self.parting.collate_of(table))
        except InputError as error:
            wrong = error
        for each in all_values(wrong, self.place):
            if each is not None:
                raise each
        assert made is not None
        return made

    def _of_part(self, error: InputError, name: str) -> InputError:
        return type(error)(*(f"{problem}; in {self.folder / name}" for problem in error.problems))

    def _tell_others(self, others: list[str]) -> None:
        """What lies there and is no part, once each."""
        new = [name for name in others if name not in self._told]
        self._told.update(new)
        if new and self.place.rank == 0:
            log.warning("stream.folder: %s, in %s, are no NAME.parquet and not read", ", ".join(new[:5]), self.folder)
