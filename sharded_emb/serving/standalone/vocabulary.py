"""Raw ids and rows.

N  ids
"""

import mmap
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PADDING, UNKNOWN, FIRST = 0, 1, 2  # rows of every vocabulary


def mapped(file: Path, dtype: torch.dtype, *shape: int) -> Tensor:
    """The numbers of a file, mapped. Raises ValueError for a file of another size."""
    if not len(letters := bytes_of(file, prod(shape) * dtype.itemsize)):
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have what it may write to
        return torch.frombuffer(letters, dtype=dtype).view(shape)


def bytes_of(file: Path, size: int | None = None) -> memoryview:
    """A file, mapped. Raises ValueError for one of another size."""
    found = file.stat().st_size
    if size not in (None, found):
        raise ValueError(f"{file}: want {size} bytes, got {found}; export again")
    # to read alone: what may be written to counts as memory that is promised, even where nobody writes
    with file.open("rb") as opened:
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if found else b"")


def plain(value: Any) -> Any:
    """A scalar of Arrow as Python's."""
    return value.as_py() if hasattr(value, "as_py") else value


def absent(raw: Any) -> bool:
    """Whether it says that there is nothing, in the words of some library: None, not a number, NA."""
    raw = plain(raw)
    if raw is None or isinstance(raw, str | int):
        return raw is None
    try:
        return bool(raw != raw)
    except (TypeError, ValueError):  # pandas does not say whether what is not there is another
        return type(raw).__name__ == "NAType"


def whole(where: str, raw: Any) -> int:
    """A whole number of any library as one of Python. Raises TypeError for what is none."""
    if not hasattr(raw, "__index__") or isinstance(raw, bool):
        raise TypeError(f"{where}: want int as raw id, got {raw!r}")
    return int(raw.__index__())


def fits(number: int) -> bool:
    """Whether it has 64 bits."""
    return -(2**63) <= number < 2**63


def of_64_bits(where: str, raw: Any) -> int:
    """An id that has no vocabulary. Raises TypeError for what is no whole number, ValueError for a larger one."""
    if not fits(number := whole(where, raw)):
        raise ValueError(f"{where}: want an id of 64 bits, got {raw!r}")
    return number


def of_kind(file: Path, kind: str) -> Path:
    """The file of a kind, of a name that may have points of its own."""
    return file.with_name(f"{file.name}.{kind}")


class Vocabulary:
    """Raw ids by row, and rows by raw id: whole numbers or texts."""

    def __init__(self, folder: Path, name: str, said: Mapping[str, Any]) -> None:
        self.name, self.size, self.texts = name, said["rows"], said["raw"] == "string"
        self._tells = said.get("unknown") == 0  # once
        file = folder / "vocabulary" / name
        if self.texts:
            # a number of these is had in a tenth of the time that one of a tensor takes
            self._places = bytes_of(of_kind(file, "order"), 8 * (self.size - FIRST)).cast("q")
            self._ends = bytes_of(of_kind(file, "ends"), 8 * self.size).cast("q")
            self._letters = bytes_of(of_kind(file, "raw"), self._ends[-1])
        else:
            self._order = mapped(of_kind(file, "order"), torch.int64, self.size - FIRST)
            self._raw = mapped(of_kind(file, "raw"), torch.int64, self.size)
            self._sorted = mapped(of_kind(file, "sorted"), torch.int64, self.size - FIRST)

    def raw(self, row: int) -> int | str | None:
        """The raw id of a row, None for those of padding and of what is unknown."""
        if row < FIRST:
            return None
        return self._text(row).decode() if self.texts else int(self._raw[row])

    def _text(self, row: int) -> bytes:
        return bytes(self._letters[self._ends[row - 1] : self._ends[row]])

    def rows(self, raw_ids: Sequence[Any]) -> Tensor:
        """The row of each raw id, that of what is unknown for others and for None: int64 (N). Warns of the first one
        where nothing that is unknown has been trained on. Raises TypeError for a text in place of a number, and the
        other way round.
        """
        raw_ids = [*raw_ids]  # of any library
        rows_N = self.found(raw_ids)
        if self._tells:
            unknown = (raw_ids[at] for at in (rows_N == UNKNOWN).nonzero()[:, 0].tolist())
            first = next((raw for raw in unknown if not absent(raw)), None)
            if first is not None:
                self._tells = False
                warnings.warn(
                    f"vocabulary {self.name}: {first!r} is not in it, and is read as what is unknown, whose row was "
                    "never trained, as the dataset had nothing unknown; `known` tells which ids are in it (said once)",
                    stacklevel=3,
                )
        return rows_N

    def found(self, raw_ids: Sequence[Any]) -> Tensor:
        """As `rows`, without a word."""
        if self.texts:
            return torch.tensor([self._row_of(raw) for raw in raw_ids], dtype=torch.int64)
        where = f"vocabulary {self.name}"
        ids = [raw if type(raw) is int else None if absent(raw) else whole(where, raw) for raw in raw_ids]
        if not ids or not len(self._sorted):
            return torch.full((len(ids),), UNKNOWN)
        known = [raw is not None and fits(raw) for raw in ids]
        ids_N = torch.tensor([raw if inside else 0 for raw, inside in zip(ids, known, strict=True)])
        at_N = torch.searchsorted(self._sorted, ids_N).clamp(max=len(self._sorted) - 1)
        return torch.where(torch.tensor(known) & (self._sorted[at_N] == ids_N), self._order[at_N], UNKNOWN)

    def _row_of(self, raw: Any) -> int:
        if not isinstance(raw, str):
            if absent(raw):
                return UNKNOWN
            raise TypeError(f"vocabulary {self.name}: want str as raw id, got {raw!r}")
        text = raw.encode(errors="surrogatepass")  # which is no UTF-8, and so nobody's
        at = bisect_left(self._places, text, key=self._text)
        return self._places[at] if at < len(self._places) and self._text(self._places[at]) == text else UNKNOWN
