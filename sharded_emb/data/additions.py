"""New events of a log that grows -> one more part of a stream, by the vocabularies of a dataset.

Events come as more files of the log. Which of them are samples already is known from the dataset's manifest and from
what earlier parts say: each has the names and hashes of its files, and `.sources.jsonl` keeps them once a part is gone.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sharded_emb.component import asks_for_nothing, leaves
from sharded_emb.data import vocabulary
from sharded_emb.data.bad_rows import BadRows
from sharded_emb.data.base import DatasetConfig, LogConfig, RawLog
from sharded_emb.data.dataset import Dataset, SourceFile, part_name
from sharded_emb.data.engines import running
from sharded_emb.data.fits import Fits
from sharded_emb.data.from_log import fingerprint
from sharded_emb.data.kafka import require_new
from sharded_emb.data.layouts.base import Arranged, Fresh
from sharded_emb.data.normalize import normalize
from sharded_emb.data.prepare import problems_of_engine
from sharded_emb.data.stream import StreamConfig, listed
from sharded_emb.data.work import How, Progress, Work
from sharded_emb.errors import InputError

_LEDGER = ".sources.jsonl"
_SHOWN = 5
_METADATA = b"sources"
_MAY_DIFFER = frozenset({"raw", "sha256", "downloads", "max_bad_rows", "time_from", "time_to"})


@dataclass(frozen=True)
class Added:
    """part: null where there was nothing new. samples: in it. new, known: files of events."""

    part: Path | None
    samples: int
    new: int
    known: int


def add_part(config: DatasetConfig, data: Path, stream: StreamConfig, how: How) -> Added:
    """Makes samples of the events in files that neither the dataset nor the stream has had, and adds them as a part.
    The other files are what came before: histories, and the beginnings of sequences.

    Ids without a row of the vocabulary are row 1, or stay as they are where they have none. No event is left out for
    being one of few. The part comes by a rename. Raises InputError as `prepare` does.
    """
    assert stream.folder is not None
    dataset, folder = Dataset.open(data), stream.folder.expanduser()
    if not isinstance(config, LogConfig):
        raise InputError(f"dataset: want a log of events to add to a stream, got {type(config).__name__}")
    if wrong := [*_differences(config, dataset, data)]:
        raise InputError(*wrong)
    config = config.model_copy(update={"min_user_events": 1, "min_item_events": 1})
    with _alone(folder) as scratch, running(scratch / "work", how.engine) as started, problems_of_engine(how.engine):
        bad, progress = BadRows(config.max_bad_rows), Progress(started.reader.con, shown=how.engine.progress)
        seed = dataset.manifest.seed
        work = Work(started.backend, started.reader, scratch, started.scratch, seed, bad, progress)
        work.fits = Fits.of(dataset, "data")
        raw = normalize(config, config.read(work), work)
        ledger = _ledger(folder)
        fresh, sources, known = _new_files(raw, stream.context, dataset, ledger)
        for line in bad.summary():
            progress.say(line)
        if not sources:
            return Added(None, 0, 0, known)
        if gone := _gone(raw, dataset, ledger):
            progress.say(gone)
        encoder = vocabulary.Encoder(work, {name: dataset.vocabulary(name) for name in dataset.manifest.vocabularies})
        arranged = config.layout.arrange(replace(encoder.encode(raw, config), fresh=fresh), work)
        with progress.step("writing the part"):
            aside = scratch / "part.parquet"
            samples = _write(aside, arranged, dataset, sources)
        if not samples:
            return Added(None, 0, len(sources), known)
        part = folder / part_name(_next_number(folder, ledger))
        aside.rename(part)
        _note(folder, part.name, sources)
    return Added(part, samples, len(sources), known)


def _differences(config: LogConfig, dataset: Dataset, data: Path) -> Iterator[str]:
    """Samples have to be made as those of the dataset were."""
    before, now = dict(leaves(dataset.manifest.dataset)), dict(leaves(config.model_dump(mode="json")))
    for key in dict.fromkeys((*before, *now)):
        was, is_now = before.get(key, "nothing"), now.get(key, "nothing")
        if key not in before and asks_for_nothing(is_now):  # it came after the dataset, and asks for nothing
            continue
        if was != is_now and key.partition(".")[0] not in _MAY_DIFFER:
            yield f"dataset.{key}: want {was}, with which {data} was prepared, got {is_now}; give it as it was"


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """The folder made, for one process at a time; a folder in it for what is written aside, gone in the end."""
    scratch = folder / ".adding"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"stream.folder: want a folder to add to, got {folder}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"stream.folder: want {folder} for itself, got another prepare that adds to it; wait for it"
            ) from error
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _ledger(folder: Path) -> dict[str, list[SourceFile]]:
    """By name of a part the files that it was made of. What a killed process had no time to note is noted now."""
    file, found = folder / _LEDGER, {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            noted = json.loads(line)
            found[noted["part"]] = [SourceFile(**each) for each in noted["files"]]
        except (ValueError, KeyError, TypeError):  # cut off by a kill; its part says the same
            continue
    for name in listed(folder).parts:
        if name not in found:
            try:
                metadata = pq.read_schema(folder / name).metadata or {}
            except (pa.ArrowException, OSError) as error:
                raise InputError(
                    f"stream.folder: want whole parts, got {folder / name}, which is none; remove it"
                ) from error
            found[name] = [SourceFile(**each) for each in json.loads(metadata.get(_METADATA, b"[]"))]
            _note(folder, name, found[name])
    return found


def _note(folder: Path, part: str, sources: list[SourceFile]) -> None:
    """Appends a line. One that a kill has cut off is ended first, or this one would be lost with it."""
    line = json.dumps({"part": part, "files": [each.model_dump() for each in sources]}).encode() + b"\n"
    with (folder / _LEDGER).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def _next_number(folder: Path, ledger: Mapping[str, object]) -> int:
    """Behind all that there ever were."""
    names = {*ledger, *listed(folder).parts}
    number = len(names)
    while part_name(number) <= max(names, default=""):
        number += 1
        if number > 99_999:
            raise InputError(f"stream.folder: want parts named as {part_name(0)} is, got {max(names)}; rename it")
    return number


def _new_files(
    raw: RawLog, context: int, dataset: Dataset, ledger: Mapping[str, list[SourceFile]]
) -> tuple[Fresh, list[SourceFile], int]:
    """Which events are new, the files that they are in, and how many files are known. Raises InputError for a file that
    is known with another content.
    """
    if raw.starts is None:
        raise InputError(
            "dataset: want a log that may have many files (dataset=events) to add to a stream, got another"
        )
    before = {each.name: each.sha256 for parts in (dataset.manifest.source, *ledger.values()) for each in parts}
    names = [path.name for path in raw.files]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"dataset.raw: want files of different names, got {twice[0]} twice; rename one")
    require_new((name for name in names if name not in before), before)
    with_events = [name for name, _ in raw.starts]
    files = {each.name: each for each in fingerprint(path for path in raw.files if path.name in with_events)}
    ends = [*(start for _, start in raw.starts[1:]), 2**63 - 1]
    ranges, sources = [], []
    for (name, start), end in zip(raw.starts, ends, strict=True):
        if name not in before:
            ranges.append((start, end))
            sources.append(files[name])
        elif before[name] != files[name].sha256:
            raise InputError(
                f"dataset.raw: want {name} as it was when its events became samples, got another content; new events "
                "belong into a new file"
            )
    return Fresh(ranges, context), sources, len(with_events) - len(sources)


def _gone(raw: RawLog, dataset: Dataset, ledger: Mapping[str, list[SourceFile]]) -> str | None:
    """A line about files whose events became samples and that are not among the log's any more, as one that was moved
    to an archive. New samples are whole without them, but their histories are shorter.
    """
    known = [each.name for files in (dataset.manifest.source, *ledger.values()) for each in files]
    there = {path.name for path in raw.files}
    gone = [name for name in dict.fromkeys(known) if name not in there]
    if not gone:
        return None
    names = ", ".join(gone[:_SHOWN]) + (" and more" if len(gone) > _SHOWN else "")
    return (
        f"dataset.raw lacks {len(gone):,} files whose events became samples: {names}; what users did in them is in no "
        "history or sequence of the new part"
    )


def _write(file: Path, arranged: Arranged, dataset: Dataset, sources: list[SourceFile]) -> int:
    """The samples as one file, which says what it is made of; how many they are."""
    if arranged.columns != dataset.columns:
        raise InputError(f"dataset.layout: want the columns of {dataset.folder}, got others; prepare it again")
    plain = pa.schema(pa.field(name, column.arrow, nullable=False) for name, column in arranged.columns.items())
    said = json.dumps([each.model_dump() for each in sources]).encode()
    schema = plain.with_metadata({_METADATA: said})
    samples = 0
    with pq.ParquetWriter(file, schema) as writer:
        for piece in arranged.pieces:
            if set(piece) != {"train"}:
                raise InputError("dataset.layout: want one that makes samples of new events, got one that splits a log")
            for table in filter(len, piece["train"]):
                samples += len(table)
                writer.write_table(table.cast(plain).cast(schema))
    return samples
