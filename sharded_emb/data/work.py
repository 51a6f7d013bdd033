"""What every step of `prepare` works with: an engine, a folder, and what it has to tell."""

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Annotated, Any, Literal

import duckdb
from pydantic import BeforeValidator, PositiveInt
from pydantic_core import PydanticCustomError

from sharded_emb.component import Frozen
from sharded_emb.data.bad_rows import BadRows
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.fits import Fits

_QUIET_SECONDS = 5.0


def _size(value: object) -> object:
    """One that both engines can read."""
    if value is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)? ?[KMGT]i?B", str(value)):
        raise PydanticCustomError("size", f"want a size such as 4GB, got {value}")
    return value


class EngineConfig(Frozen):
    """The key `prepare`: what computes a dataset, and how much it may take.

    engine: `duckdb` in this process, or `spark` (extra `[spark]`, needs Java): DuckDB reads the files in both cases,
    and both give the same dataset. memory_limit: of DuckDB, and of Spark's driver, as `4GB`; what does not fit is
    spilled to the disk; null for .8 of the machine. The process takes up to 1.5 GB more, files that it maps aside.
    threads: of the engine, null for all cores. temp: the folder to spill to, null for one beside `data`; it wants about
    five times the log as text. progress: say on stderr what takes long.
    """

    engine: Literal["duckdb", "spark"] = "duckdb"
    memory_limit: Annotated[str | None, BeforeValidator(_size)] = None
    threads: PositiveInt | None = None
    temp: str | None = None
    progress: bool = True


@dataclass(frozen=True)
class How:
    """engine: what computes, and how much it may take. extend: a dataset whose vocabularies keep their rows; new ids
    stand behind them.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    extend: Path | None = None


class Progress:
    """Says on stderr which step is running, once it takes long."""

    def __init__(self, connection: Any | None, *, shown: bool) -> None:
        self._connection = connection
        self._shown = shown

    def say(self, line: str) -> None:
        """One line on stderr."""
        if self._shown:
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Runs the block; every few seconds a line with the name, the seconds and what part of its query is done."""
        if not self._shown:
            yield
            return
        ended = threading.Event()
        talker = threading.Thread(target=self._talk, args=(name, ended), daemon=True)
        talker.start()
        try:
            yield
        finally:
            ended.set()
            talker.join()

    def _percent(self) -> float:
        """Of the running query; below 0 where there is none."""
        try:
            return -1.0 if self._connection is None else self._connection.query_progress()
        except duckdb.Error:  # closed meanwhile
            return -1.0

    def _talk(self, name: str, ended: threading.Event) -> None:
        start, wait = time.monotonic(), _QUIET_SECONDS
        while not ended.wait(wait):
            percent = self._percent()
            done = f", {percent:.0f} % of this query" if percent > 0 else ""
            print(f"{name}: {time.monotonic() - start:.0f} s{done}", file=sys.stderr, flush=True)
            wait = min(wait * 1.5, 60.0)


@dataclass
class Work:
    """backend: where expressions are computed, an Ibis backend. reader: the DuckDB that reads files, the same backend
    where that is DuckDB. folder: the dataset folder in the making. scratch: a folder that is gone in the end. extend:
    the dataset whose rows keep their numbers. fits: of attributes.
    """

    backend: Any
    reader: Any
    folder: Path
    scratch: Path
    seed: int
    bad: BadRows
    progress: Progress
    extend: Dataset | None = None
    facts: dict[str, int] = field(default_factory=dict)
    fits: Fits = field(default_factory=Fits)

    def adopt(self, table: str) -> Any:
        """A table that the reader has made, as one of the backend, with `position`: the order of its rows."""
        found = self.reader.table(table)
        found = found.mutate(position=found.rowid())
        if self.backend is self.reader:
            return found
        file = self.scratch / f"{table}.parquet"
        found.to_parquet(file)
        self.reader.raw_sql(f"DROP TABLE {table}")
        return self.backend.read_parquet(file, table_name=table)

    def read_parts(self, folder: Path, table: str) -> Any:
        """All Parquet files of a folder as a table of the backend. Its path says nothing of their columns."""
        if self.backend is not self.reader:
            return self.backend.read_parquet(str(folder), table_name=table)
        return self.backend.read_parquet(f"{escape(str(folder))}/*.parquet", table_name=table, hive_partitioning=False)

    def drop(self, *tables: str) -> None:
        """Gives back the room of tables that are not read again."""
        for table in tables:
            # not drop_table of Ibis, whose statement newer sqlglot empties
            kind = "VIEW" if (self.scratch / f"{table}.parquet").exists() else "TABLE"
            self.backend.raw_sql(f"DROP {kind} IF EXISTS {table}")
