"""Writes tables of a checkpoint as `standalone.table` maps them, some rows at a time, and vectors by raw id.

NAME.bin     rows x dim numbers, those of a row one after the other; of a part of a composed table NAME.PART.bin
NAME.scales  of int8: of each row what its numbers, 0 to 255, are multiplied by, and what is added then, float32
NAME.ids     of managed tables: ids that have a row, rising, int64; NAME.rows: their rows

N  rows    D  dim
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from sharded_emb.distributed.host_memory import let_go_of_pages
from sharded_emb.embeddings.local_rows import DTYPES, renormalized
from sharded_emb.ids.hash import Hash
from sharded_emb.ids.managed_collision import ManagedCollision
from sharded_emb.ids.quotient_remainder import QuotientRemainder
from sharded_emb.ids.rows import Rows
from sharded_emb.serving.standalone.table import Table as Served
from sharded_emb.serving.standalone.vocabulary import of_kind
from sharded_emb.serving.vocabularies import raw_ids
from sharded_emb.tables import Table
from sharded_emb.training.checkpoint_rows import SavedRows, saved_owners
from sharded_emb.vocabulary_rows import FIRST_ROW

Quantized = Literal["fp16", "bf16", "int8"]

SERVED_IDS = (Rows, Hash, QuotientRemainder, ManagedCollision)  # what `standalone` knows of ids
_NUMBERS_AT_ONCE = 1 << 22
_ROWS_APART = 256  # read at once where they lie anywhere
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_table(folder: Path, table: Table, checkpoint: Path, quantize: Quantized | None) -> dict[str, Any]:
    """Writes a table, or the parts it is composed of, and returns what export.json says of it."""
    (folder / "tables").mkdir(exist_ok=True)
    ids: dict[str, Any] = {"ids": str(table.ids), "parts": {}}
    if table.parts:
        assert isinstance(table.ids, QuotientRemainder)
        for part, each in table.parts.items():
            ids["parts"][part] = _write(folder / "tables" / f"{table.name}.{part}", each, checkpoint, quantize)
        ids |= {"divisor": table.ids.divisor(table.rows), "combined_by": table.ids.combined_by}
        return {**_said(table), **ids, "dtype": None}
    if table.ids.assigned:
        ids |= _write_owners(folder / "tables" / table.name, table, checkpoint)
    return {**_write(folder / "tables" / table.name, table, checkpoint, quantize), **ids}


def _said(table: Table) -> dict[str, Any]:
    return {"rows": table.rows, "dim": table.dim, "output": table.output_dtype, "padding_row": table.padding_row}


def _write(target: Path, table: Table, checkpoint: Path, quantize: Quantized | None) -> dict[str, Any]:
    saved = SavedRows(checkpoint, table.name)
    # rows that are read as if scaled down are so in float32
    own = "fp32" if table.max_norm is not None else _NAMES[saved.dtype]
    dtype = quantize if quantize is not None and (own == "fp32" or quantize == "int8") else own

    def pieces() -> Iterator[Tensor]:
        for first, end in saved.pieces:
            yield renormalized(table, saved.read(first, end))

    difference = write_rows(target, pieces(), dtype)
    return {**_said(table), "ids": "rows", "parts": {}, "dtype": dtype, "largest_difference": difference}


def write_rows(target: Path, pieces: Iterator[Tensor], dtype: str) -> float:
    """Writes rows (N, D), one piece after the other. Returns the largest difference of a number to what is written."""
    largest = 0.0
    with ExitStack() as files:
        out = files.enter_context(of_kind(target, "bin").open("wb"))
        scales = files.enter_context(of_kind(target, "scales").open("wb")) if dtype == "int8" else None
        for piece in pieces:
            for rows_ND in piece.split(max(1, _NUMBERS_AT_ONCE // max(1, piece.shape[1]))):
                if scales is None:
                    found_ND = decoded_ND = rows_ND.to(DTYPES[dtype])
                else:
                    found_ND, scales_N2 = quantized(rows_ND.float())
                    scales.write(_bytes(scales_N2))
                    decoded_ND = found_ND.float() * scales_N2[:, :1] + scales_N2[:, 1:]
                out.write(_bytes(found_ND))
                if found_ND.dtype != rows_ND.dtype:
                    largest = max(largest, float((decoded_ND.float() - rows_ND.float()).abs().max()))
    return largest


def _bytes(numbers: Tensor) -> memoryview:
    return numbers.contiguous().view(torch.uint8).numpy().data.cast("B")


def quantized(rows_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers from 0 to 255, and by row what they are multiplied by and what is added then: (N, 2), as FBGEMM's
    row-wise 8-bit tables have it. A row of one number alone, such as zeros, is exact.
    """
    low_N, high_N = rows_ND.amin(1), rows_ND.amax(1)
    scale_N = (high_N - low_N) / 255
    found_ND = ((rows_ND - low_N[:, None]) / scale_N.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round()
    return found_ND.clamp(0, 255).to(torch.uint8), torch.stack([scale_N, low_N], 1)


def _write_owners(target: Path, table: Table, checkpoint: Path) -> dict[str, Any]:
    assert isinstance(table.ids, ManagedCollision)
    ids_N, rows_N = saved_owners(checkpoint, table)
    for kind, numbers in (("ids", ids_N), ("rows", rows_N)):
        of_kind(target, kind).write_bytes(_bytes(numbers))
    return {"known": len(ids_N), "bounds": table.ids.bounds(table.rows)}


@dataclass(frozen=True)
class Named:
    """Which raw ids a table has vectors of: those of a file of a vocabulary, None for a table without one."""

    vocabulary: Path | None
    kind: str | None  # int64, string


def write_vectors(file: Path, table: Served, named: Named) -> int:
    """Writes raw id, row and vector (float32) as Parquet, in the order of the vocabulary; returns how many. A table
    without one has its rows alone, and a managed table the ids that have one.
    """
    raw_type = pa.string() if named.kind == "string" else pa.int64()
    fields = [("row", pa.int64()), ("vector", pa.list_(pa.float32(), table.dim))]
    named_ids = named.vocabulary is not None or table.said["ids"] == "managed_collision"
    schema = pa.schema([*([("raw", raw_type)] if named_ids else []), *fields])
    file.parent.mkdir(exist_ok=True)
    count = 0
    with pq.ParquetWriter(file, schema, use_dictionary=False) as out:
        for raw, rows_N in _named_rows(table, named.vocabulary):
            vectors = pa.array(_vectors(table, rows_N).flatten().numpy())
            columns = [pa.array(rows_N.numpy()), pa.FixedSizeListArray.from_arrays(vectors, table.dim)]
            out.write_table(pa.table([*([] if raw is None else [raw.cast(raw_type)]), *columns], schema=schema))
            count += len(rows_N)
    return count


def _vectors(table: Served, rows_N: Tensor) -> Tensor:
    """Those of rows: (N, D). A row that is touched may bring 2 MB of its file into the memory of the process."""
    found = []
    for some_N in rows_N.split(max(1, len(rows_N)) if table.said["ids"] == "rows" else _ROWS_APART):
        found.append(table.vectors(some_N))
        for mapped in table.mapped():
            let_go_of_pages(mapped)
    return torch.cat(found)


def _named_rows(table: Served, vocabulary: Path | None) -> Iterator[tuple[pa.Array | None, Tensor]]:
    at_once, first = max(1, _NUMBERS_AT_ONCE // table.dim), 0
    if vocabulary is not None:
        for batch in raw_ids(vocabulary):
            ids_N = torch.arange(max(first, FIRST_ROW), first + len(batch))
            first += len(batch)
            rows_N = table.rows_of(ids_N, raw=False)
            # of a table with fewer rows than ids, the others have none of their own
            kept_N = rows_N < table.size
            raw = batch[len(batch) - len(ids_N) :].filter(pa.array(kept_N.numpy()))
            for at in range(0, len(raw), at_once):
                yield raw[at : at + at_once], rows_N[kept_N][at : at + at_once]
    elif table.said["ids"] == "managed_collision":
        for ids_N, rows_N in table.owners(at_once):
            yield pa.array(ids_N.numpy()), rows_N
    else:
        for first in range(0, table.size, at_once):
            yield None, torch.arange(first, min(first + at_once, table.size))


def write_numbers(file: Path, numbers: np.ndarray) -> None:
    """Writes int64 numbers as they are mapped."""
    file.write_bytes(numbers.astype("<i8").tobytes())
