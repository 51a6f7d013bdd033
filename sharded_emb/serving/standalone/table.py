"""Vectors of a table, which stays on the disk.

N  ids    B  bags    D  dim
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .vocabulary import FIRST, mapped, of_kind

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.uint8}
_ROWS_AT_ONCE = 1 << 18  # of a table that is scanned


class Table:
    """Vectors by id, an id being a row of the vocabulary, or any whole number where the table has none. file: of its
    numbers, without an ending. said: what export.json says of it.
    """

    def __init__(self, file: Path, said: Mapping[str, Any]) -> None:
        self.name, self.size, self.dim, self.said = file.name, said["rows"], said["dim"], said
        self.parts = {part: Table(of_kind(file, part), each) for part, each in said["parts"].items()}
        self._numbers: Tensor | None = None
        self._scales: Tensor | None = None
        if not self.parts:
            self._numbers = mapped(of_kind(file, "bin"), DTYPES[said["dtype"]], self.size, self.dim)
        if said["dtype"] == "int8":
            self._scales = mapped(of_kind(file, "scales"), torch.float32, self.size, 2)
        if said["ids"] == "managed_collision":
            ids, rows = (mapped(of_kind(file, each), torch.int64, said["known"]) for each in ("ids", "rows"))
            self._ids, self._rows = ids, rows

    def mapped(self) -> Iterator[Tensor]:
        """All that is mapped of files."""
        yield from (each for each in (self._numbers, self._scales) if each is not None)
        for part in self.parts.values():
            yield from part.mapped()

    def rows_of(self, ids_N: Tensor, raw: bool) -> Tensor:
        """The rows that ids read. raw: they are of no vocabulary, so that 0 and 1 are ids like all others."""
        if self.said["ids"] in ("rows", "quotient_remainder"):
            return ids_N
        found_N = hashed(ids_N, self.size) if self.said["ids"] == "hash" else self._managed(ids_N)
        return found_N if raw else torch.where((ids_N >= 0) & (ids_N < FIRST), ids_N, found_N)

    def _managed(self, ids_N: Tensor) -> Tensor:
        begins = torch.tensor(self.said["bounds"])
        shared_N = begins[1 + (_mixed(ids_N) & (2**63 - 1)) % (len(begins) - 1)] - 1
        if not len(self._ids):
            return shared_N
        at_N = torch.searchsorted(self._ids, ids_N).clamp(max=len(self._ids) - 1)
        return torch.where(self._ids[at_N] == ids_N, self._rows[at_N], shared_N)

    def owners(self, at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Of a managed table the ids that have a row, rising, and their rows, some at a time."""
        yield from zip(self._ids.split(at_once), self._rows.split(at_once), strict=True)

    def read(self, rows_N: Tensor) -> Tensor:
        """The vectors (N, D) of rows: float32."""
        if self.parts:
            return self._joined({part: table.read(self._part(part, rows_N)) for part, table in self.parts.items()})
        return self._decoded(rows_N)

    def sums(self, rows_N: Tensor, row_N: Tensor, bags: int) -> Tensor:
        """The sums (B, D) of vectors by bag, row_N being the bag of each."""
        if self.parts:
            parts = {part: t.sums(self._part(part, rows_N), row_N, bags) for part, t in self.parts.items()}
            return self._joined(parts)
        summed_BD = torch.zeros(bags, self.dim).index_add_(0, row_N, self.read(rows_N))
        return self.as_output(summed_BD)

    def as_output(self, vectors: Tensor) -> Tensor:
        """In the values of the dtype that lookups gave in training."""
        output = self.said["output"]
        return vectors if output == "fp32" else vectors.to(DTYPES[output]).float()

    def vectors(self, rows_N: Tensor) -> Tensor:
        """As a model reads them: (N, D), zeros for the padding row."""
        if self.parts:
            parts = {part: table.as_output(table.read(self._part(part, rows_N))) for part, table in self.parts.items()}
            found_ND = self._joined(parts)
        else:
            found_ND = self.as_output(self.read(rows_N))
        padding = self.said["padding_row"]
        return found_ND if padding is None else found_ND * (rows_N != padding)[:, None]

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """All rows of a table that is no composed one, some at a time, with the number of the first: float32 (N, D)."""
        for first in range(0, self.size, _ROWS_AT_ONCE):
            end = min(first + _ROWS_AT_ONCE, self.size)
            yield first, self._decoded(slice(first, end))

    def _decoded(self, rows: Tensor | slice) -> Tensor:
        assert self._numbers is not None
        found_ND = self._numbers[rows].float()
        if self._scales is None:
            return found_ND
        scales_N2 = self._scales[rows]
        return found_ND * scales_N2[:, :1] + scales_N2[:, 1:]

    def _part(self, part: str, rows_N: Tensor) -> Tensor:
        whole_N, divisor = rows_N - FIRST, self.said["divisor"]
        of_part_N = whole_N // divisor if part == "quotient" else whole_N % divisor
        return torch.where(rows_N < FIRST, rows_N, of_part_N + FIRST)

    def _joined(self, parts: Mapping[str, Tensor]) -> Tensor:
        quotient_ND, remainder_ND = parts["quotient"], parts["remainder"]
        if self.said["combined_by"] == "concatenate":
            return torch.cat([quotient_ND, remainder_ND], 1)
        return quotient_ND + remainder_ND if self.said["combined_by"] == "add" else quotient_ND * remainder_ND


def hashed(ids_N: Tensor, rows: int) -> Tensor:
    """A row in [2, rows) for any 64-bit id: SplitMix64's finalizer, as an unsigned number, modulo their number."""
    mixed_N, given = _mixed(ids_N), rows - FIRST
    half_N = (mixed_N >> 1) & (2**63 - 1)  # torch has no unsigned 64-bit arithmetic
    return ((half_N % given) * 2 + (mixed_N & 1)) % given + FIRST


def _mixed(ids_N: Tensor) -> Tensor:
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        ids_N = (ids_N ^ ((ids_N >> bits) & ((1 << (64 - bits)) - 1))) * (factor - 2**64 if factor >> 63 else factor)
    return ids_N
