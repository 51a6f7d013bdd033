"""What computes a dataset: DuckDB inside this process, or Spark."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis

from sharded_emb.data.work import EngineConfig
from sharded_emb.errors import InputError

JAVA = "apt-get install openjdk-17-jre-headless, or any Java 17"


@dataclass(frozen=True)
class Engine:
    """backend: an Ibis backend that computes. reader: the DuckDB that reads files. scratch: their folder."""

    backend: Any
    reader: Any
    scratch: Path


@contextmanager
def running(scratch: Path, config: EngineConfig) -> Iterator[Engine]:
    """An engine whose files are in a new folder, or in one below `prepare.temp`; they are gone afterwards.

    Raises InputError on `prepare.engine` and `prepare.temp`.
    """
    if config.temp is not None:
        name = scratch.parent.name.removesuffix(".part").lstrip(".")
        scratch = Path(config.temp).expanduser() / f"{name}.prepare"
        shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"prepare.temp: want a folder to spill to, got {scratch}: {error.strerror}") from error
    try:
        reader = _duckdb(scratch, config)
        try:
            if config.engine == "duckdb":
                yield Engine(reader, reader, scratch)
            else:
                with _spark(scratch, config) as backend:
                    yield Engine(backend, reader, scratch)
        finally:
            reader.disconnect()
    finally:
        shutil.rmtree(scratch)


def _duckdb(scratch: Path, config: EngineConfig) -> Any:
    """With its tables in memory, and in temp_directory what memory_limit leaves no room for: a database in a file would
    compress every table that a step makes for the next one, which takes four times as long as to make it.
    """
    settings: dict[str, Any] = {"temp_directory": str(scratch)}
    if config.memory_limit is not None:
        settings["memory_limit"] = config.memory_limit
    if config.threads is not None:
        settings["threads"] = config.threads
    return ibis.duckdb.connect(**settings)


def _megabytes(size: str) -> str:
    """Of `1.5GB`, as the JVM reads it, which knows whole numbers alone: `1536m`."""
    found = re.fullmatch(r"([0-9.]+) ?([KMGT])i?B", size)
    assert found is not None, "the config takes no other"
    return f"{max(1, round(float(found[1]) * 1024 ** ('KMGT'.index(found[2]) - 1)))}m"


@contextmanager
def _spark(scratch: Path, config: EngineConfig) -> Iterator[Any]:
    """A Spark of this process (local mode), or the one that spark-submit has given it."""
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise InputError(
            "prepare.engine: want pyspark for spark, got none; pip install 'sharded-emb[spark]'"
        ) from error
    builder = SparkSession.builder.appName("sharded_emb.prepare")
    settings = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "false",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.local.dir": str(scratch),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": str(4 * (config.threads or 2)),
        "spark.driver.memory": _megabytes(config.memory_limit or "2GB"),
    }
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        session = builder.master(f"local[{config.threads or '*'}]").getOrCreate()
    except Exception as error:  # py4j, the JVM and Spark raise what they like
        got = type(error).__name__ if shutil.which("java") else "none"
        raise InputError(f"prepare.engine: want Java for spark, got {got}: {_cause(error)}; {JAVA}") from error
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield ibis.pyspark.connect(session)
    finally:
        session.stop()


def _cause(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no reason given")
