"""A log of events to vocabularies and splits: filter, count, number, encode, arrange, write."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sharded_emb.data import vocabulary
from sharded_emb.data.base import LogConfig
from sharded_emb.data.dataset import SCHEMA_VERSION, Manifest, SourceFile, SplitInfo
from sharded_emb.data.folder import write_split
from sharded_emb.data.layouts.base import Arranged, Log
from sharded_emb.data.normalize import normalize
from sharded_emb.errors import InputError

_ROWS_PER_BATCH = 65_536


def make(config: LogConfig, part: Path, backend: Any, seed: int) -> Manifest:
    """See `DatasetConfig.make`."""
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
        source=fingerprint(raw.files),
        seed=seed,
        dataset=config.model_dump(mode="json"),
    )


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


def fingerprint(paths: Iterable[Path]) -> list[SourceFile]:
    """Names, sizes and hashes of raw files."""
    files = []
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(SourceFile(name=path.name, size_bytes=path.stat().st_size, sha256=digest))
    return files
