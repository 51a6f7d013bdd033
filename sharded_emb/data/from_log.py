"""A log of events to vocabularies and splits: filter, count, number, encode, arrange, write."""

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharded_emb.data import vocabulary
from sharded_emb.data.base import RAW, LogConfig, RawLog
from sharded_emb.data.dataset import SCHEMA_VERSION, Manifest, SourceFile, SplitInfo
from sharded_emb.data.folder import Aside, Digest, SplitWriter
from sharded_emb.data.layouts.base import Arranged, Log
from sharded_emb.data.normalize import normalize
from sharded_emb.data.work import Work
from sharded_emb.errors import InputError, nearest
from sharded_emb.vocabulary_rows import FIRST_ROW

_SHOWN = 1000  # texts among which to look for a similar one


def make(config: LogConfig, work: Work) -> Manifest:
    """See `DatasetConfig.make`."""
    raw = config.read(work)
    _require_positive(config, raw, work)
    raw = normalize(config, raw, work)
    attributes = config.all_attributes()
    _check_tables(config, raw)
    with work.progress.step("counting ids"):
        counts = vocabulary.count_ids(raw, attributes)
    events = int(raw.events.count().execute())
    if not events:
        raise InputError(_no_events(config))
    for of, table in (("user", raw.users), ("item", raw.items)):
        if table is not None:
            _count_without_row(config, of, table.select(of).to_pyarrow()[of], counts[of]["raw"], work)
    for line in work.fits.told(attributes):
        work.progress.say(line)
    vocabularies = _vocabularies(config, counts, work)
    log = vocabulary.Encoder(work, vocabularies).encode(raw, config)
    arranged = config.layout.arrange(log, work)
    with work.progress.step("writing the splits"):
        splits = _write(work.folder, arranged)
        item_digests = (
            _write_items(work.folder, log, len(vocabularies["item"])) if arranged.writes_item_attributes else {}
        )
    return Manifest(
        schema_version=SCHEMA_VERSION,
        layout=type(config.layout).__name__,
        split=arranged.split_rule,
        columns=arranged.columns,
        item_attributes=log.item_columns if arranged.writes_item_attributes else {},
        item_digests=item_digests,
        splits=splits,
        counts={**{f"{of}s": len(counts[of]) for of in log.ids}, "events": events},
        vocabularies=vocabulary.write(work.folder, vocabularies),
        built_over=vocabulary.BUILT_OVER,
        source=fingerprint(raw.files),
        seed=work.seed,
        dataset=config.model_dump(mode="json"),
        facts=work.facts,
        fitted=work.fits.all(attributes),
    )


def _no_events(config: LogConfig) -> str:
    """The problem, under the keys that may have left none."""
    chosen = [f"dataset.{name}" for name in ("keep", "time_from", "time_to") if getattr(config, name) not in (None, {})]
    if chosen:
        return f"{', '.join(chosen)}: want events of {config.raw} that stay, got none; let more stay"
    return f"dataset.raw: want events, got none in {config.raw}; give a log that holds some"


def _require_positive(config: LogConfig, raw: RawLog, work: Work) -> None:
    """Raises InputError for a text of `layout.positive` that no event has: a typing error would make all labels 0."""
    column, wanted = config.layout.label_column(), config.layout.positive_values()
    if column is None or not wanted:
        return
    work.bad.judge()
    there = raw.events.select(text=raw.events[RAW + column]).distinct().filter(lambda t: t.text.notnull())
    found = set(there.filter(there.text.isin(wanted)).to_pyarrow()["text"].to_pylist())
    missing = [text for text in wanted if text not in found]
    if missing:
        some = there.order_by("text").limit(_SHOWN).to_pyarrow()["text"].to_pylist()
        raise InputError(
            *(
                f"dataset.layout.positive: want texts of column {column}, got {text!r}{nearest(text, some)}"
                for text in missing
            )
        )


def _count_without_row(config: LogConfig, of: str, keys: Any, ids: Any, work: Work) -> None:
    """Counts ids of the log without a row in a table of users or items. Raises InputError where all have none."""
    key = f"dataset.{of}s" if getattr(config, f"{of}s", None) is not None else "dataset.raw"
    bare = len(ids) - int(pc.sum(pc.is_in(ids, value_set=keys.combine_chunks())).as_py())
    if bare == len(ids):
        got = f"{_example(keys)} beside {_example(ids)}"
        raise InputError(
            f"{key}: want {of}s of the log in the table of {of}s, got {got}; ids are compared as text (1.0 is not 1)"
        )
    if bare:
        work.facts[f"{of}s_without_attributes"] = bare
        work.progress.say(f"{bare:,} of {len(ids):,} {of}s of the log have no row in the table of {of}s")


def _example(ids: Any) -> str:
    """The least id, so that it is the same each time."""
    return "none" if not len(ids) else repr(pc.min(ids).as_py())


def _check_tables(config: LogConfig, raw: RawLog) -> None:
    """Rules for vocabularies that there are none of."""
    ids = {"user", "item"} & {*raw.events.columns}
    tables = {*ids, *(a.table or name for name, a in config.all_attributes().items() if a.counted)}
    problems = [
        f"dataset.vocabularies.{name}: want a vocabulary of this dataset, got {name!r}{nearest(name, tables)}"
        for name in config.vocabularies
        if name not in tables
    ]
    if problems:
        raise InputError(*problems)


def _vocabularies(config: LogConfig, counts: dict[str, pa.Table], work: Work) -> dict[str, pa.Table]:
    old = work.extend
    built = {
        table: vocabulary.build(
            count,
            config.vocabularies.get(table),
            old.raw_ids(table)[FIRST_ROW:] if old is not None and table in old.manifest.vocabularies else None,
        )
        for table, count in counts.items()
    }
    problems = [
        f"dataset.vocabularies.{name}: want a rule that leaves an id, got one that leaves none of "
        f"{len(counts[name]):,}; the most frequent one is there {pc.max(counts[name]['count']).as_py():,} times"
        for name in config.vocabularies
        if len(built[name]) == FIRST_ROW and len(counts[name])
    ]
    if problems:
        raise InputError(*problems)
    return built


def _write(part: Path, arranged: Arranged) -> dict[str, SplitInfo]:
    with ExitStack() as stack:
        aside = stack.enter_context(Aside())
        writers = {
            split: stack.enter_context(SplitWriter(part / split, arranged.columns, aside))
            for split in ("train", "valid", "test")
        }
        for piece in arranged.pieces:
            for split, rows in piece.items():
                for some in rows:
                    writers[split].add(some)
    return {split: writer.info for split, writer in writers.items()}


def _write_items(part: Path, log: Log, items: int) -> dict[str, str]:
    """Attributes of items; returns their digests."""
    schema = pa.schema([pa.field(name, column.arrow, nullable=False) for name, column in log.item_columns.items()])
    table = vocabulary.attribute_table(log.items, log.item_columns, items).cast(schema)
    (part / "attributes").mkdir()
    pq.write_table(table, part / "attributes" / "item.parquet")
    return {name: Digest().add(table[name]).hexdigest() for name in table.column_names}


def fingerprint(paths: Iterable[Path]) -> list[SourceFile]:
    """Names, sizes and hashes of raw files."""
    files = []
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(SourceFile(name=path.name, size_bytes=path.stat().st_size, sha256=digest))
    return files
