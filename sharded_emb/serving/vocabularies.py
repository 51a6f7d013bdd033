"""Writes vocabularies as `standalone.vocabulary` maps them: a batch of a Parquet file at a time.

NAME.raw     raw ids by row: int64, or the letters of all of them, one after the other, as UTF-8
NAME.ends    of texts: where each ends among these, int64
NAME.order   rows by rising raw id, int64, without the first two; NAME.sorted: of numbers these raw ids
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharded_emb.data.dataset import Dataset, not_whole, other_vocabulary
from sharded_emb.errors import InputError
from sharded_emb.serving.standalone.vocabulary import of_kind
from sharded_emb.vocabulary_rows import FIRST_ROW, UNKNOWN_ROW

_ROWS_AT_ONCE = 1 << 18
_MEMORY = "512MB"  # of a sort, before it spills


def write_vocabulary(folder: Path, dataset: Dataset, name: str) -> dict[str, Any]:
    """Writes it, and returns what export.json says of it. Raises InputError for a file that is not whole."""
    info = dataset.manifest.vocabularies[name]
    file, target = dataset.vocabulary_file(name), folder / "vocabulary" / name
    target.parent.mkdir(exist_ok=True)
    digest = hashlib.sha256(info.raw.encode())
    if info.raw == "string":
        _write_texts(file, target, digest)
    else:
        _write_numbers(file, target, digest)
    if digest.hexdigest() != info.sha256:
        raise other_vocabulary(file)
    _write_order(file, target, texts=info.raw == "string")
    return {"rows": info.rows, "raw": info.raw, "sha256": info.sha256, "unknown": _unknown(file)}


def _unknown(file: Path) -> int | None:
    """How often the dataset has what is out of vocabulary; None where somebody wrote the vocabulary without."""
    with pq.ParquetFile(file) as opened:
        first = next(opened.iter_batches(FIRST_ROW, columns=["row", "count"], use_threads=False)).to_pydict()
    found: int | None = first.get("count", [None] * FIRST_ROW)[UNKNOWN_ROW]
    return found


def raw_ids(file: Path) -> Iterator[pa.Array]:
    """Of all rows of a vocabulary, some at a time."""
    try:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=["raw"], use_threads=False):
                yield batch.column(0)
    except (pa.ArrowException, OSError) as error:
        raise not_whole(file, error) from error


def _write_numbers(file: Path, target: Path, digest: Any) -> None:
    first = FIRST_ROW
    with of_kind(target, "raw").open("wb") as out:
        for raw in raw_ids(file):
            numbers = pc.fill_null(raw, 0).to_numpy().astype("<i8")
            digest.update(numbers[first:].tobytes())
            first = max(0, first - len(numbers))
            out.write(numbers.tobytes())


def _write_texts(file: Path, target: Path, digest: Any) -> None:
    """The digest is of all lengths, then of all letters."""
    total, first = 0, FIRST_ROW
    with of_kind(target, "ends").open("wb") as out:
        for raw in raw_ids(file):
            lengths = pc.fill_null(pc.binary_length(raw), 0).to_numpy().astype("<i8")
            digest.update(lengths[first:].tobytes())
            first = max(0, first - len(lengths))
            ends = total + np.cumsum(lengths)
            total = int(ends[-1])
            out.write(ends.astype("<i8").tobytes())
    with of_kind(target, "raw").open("wb") as out:
        for raw in raw_ids(file):
            letters = "".join(pc.fill_null(raw, "").to_pylist()).encode()
            digest.update(letters)
            out.write(letters)


def _write_order(file: Path, target: Path, texts: bool) -> None:
    """Raises InputError where there is no room to sort."""
    settings = {"memory_limit": _MEMORY, "temp_directory": str(of_kind(target, "scratch")), "threads": 1}
    sql = 'select "row", "raw" from read_parquet($file) where "row" >= $first order by "raw"'
    try:
        with duckdb.connect(config=settings) as database, ExitStack() as files:
            rows = files.enter_context(of_kind(target, "order").open("wb"))
            raw = None if texts else files.enter_context(of_kind(target, "sorted").open("wb"))
            for batch in database.execute(sql, {"file": str(file), "first": FIRST_ROW}).to_arrow_reader(_ROWS_AT_ONCE):
                rows.write(batch.column(0).to_numpy().astype("<i8").tobytes())
                if raw is not None:
                    raw.write(batch.column(1).to_numpy().astype("<i8").tobytes())
    except duckdb.IOException as error:
        got = f"got {str(error).splitlines()[0]}"
        raise InputError(f"out: want a folder with room to sort the ids of {target.name}, {got}") from error
