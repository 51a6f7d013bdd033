"""Raw log -> dataset folder, by Ibis expressions on an embedded DuckDB.

The expressions keep to what Spark has as well: no ordered collect, no window over all rows, and vocabularies numbered
in this process. Only the readers of files (`tabular`) are DuckDB's own.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from sharded_emb.data import vocabulary
from sharded_emb.data.base import DatasetConfig, RawLog
from sharded_emb.data.dataset import SCHEMA_VERSION, Dataset, Manifest, SourceFile, SplitInfo, write_manifest
from sharded_emb.data.folder import staged, write_split
from sharded_emb.data.layouts.base import Arranged, Log
from sharded_emb.data.normalize import normalize
from sharded_emb.errors import InputError

_WORK = "work"
_ROWS_PER_BATCH = 65_536


def prepare(config: DatasetConfig, folder: Path, *, seed: int, overwrite: bool) -> Manifest:
    """Make the dataset folder that `config` describes. Equal inputs give equal folders, whatever the machine.

    The folder is written aside and renamed: it is there whole or not at all. Raises InputError, each line beginning
    with `dataset.` or `data`, for raw data that cannot be read and a folder that may not be written.
    """
    with staged(folder, overwrite=overwrite) as part:
        with _backend(part / _WORK) as backend:
            manifest = _prepare(config, part, backend, seed)
        dataset = Dataset(part, manifest)
        manifest = manifest.model_copy(update={"best_reachable": config.best_reachable(dataset, seed)})
        write_manifest(part, manifest)
    return manifest


def _prepare(config: DatasetConfig, part: Path, backend: Any, seed: int) -> Manifest:
    raw = normalize(config, config.read(backend, part, seed), backend)
    attributes = config.all_attributes()
    counts = vocabulary.count_ids(raw, attributes)
    if not len(counts["user"]) or not len(counts["item"]):
        raise InputError(f"dataset.raw: want events, got none in {config.raw}; give a log that holds some")
    vocabularies = {table: vocabulary.build(count) for table, count in counts.items()}
    log = vocabulary.Encoder(backend, vocabularies).encode(raw, attributes)
    arranged = config.layout.arrange(log, backend)
    splits = _write(part, arranged, log, len(vocabularies["item"]))
    return Manifest(
        schema_version=SCHEMA_VERSION,
        layout=type(config.layout).__name__,
        split=arranged.split_rule,
        columns=arranged.columns,
        item_attributes=log.item_columns if arranged.writes_item_attributes else {},
        splits=splits,
        counts={
            "users": len(counts["user"]),
            "items": len(counts["item"]),
            "events": int(raw.events.count().execute()),
        },
        vocabularies=vocabulary.write(part, vocabularies),
        built_over=vocabulary.BUILT_OVER,
        source=_fingerprint(raw),
        seed=seed,
        dataset=config.model_dump(mode="json"),
    )


@contextmanager
def _backend(work: Path) -> Iterator[Any]:
    """DuckDB with its database in a file: a log may be larger than memory. The file is gone afterwards."""
    work.mkdir()
    backend = ibis.duckdb.connect(work / "prepare.duckdb", temp_directory=str(work))
    try:
        yield backend
    finally:
        backend.disconnect()
        shutil.rmtree(work)


def _write(part: Path, arranged: Arranged, log: Log, items: int) -> dict[str, SplitInfo]:
    splits = {}
    for split, rows in arranged.splits.items():
        batches = rows.to_pyarrow_batches(chunk_size=_ROWS_PER_BATCH)
        splits[split] = write_split(part / split, batches, arranged.columns)
    if arranged.writes_item_attributes:
        table = vocabulary.attribute_table(log.items, log.item_columns, items)
        schema = pa.schema([pa.field(name, column.arrow, nullable=False) for name, column in log.item_columns.items()])
        (part / "attributes").mkdir()
        pq.write_table(table.cast(schema), part / "attributes" / "item.parquet")
    return splits


def _fingerprint(raw: RawLog) -> list[SourceFile]:
    files = []
    for path in raw.files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(SourceFile(name=path.name, size_bytes=path.stat().st_size, sha256=digest))
    return files
