"""What a task reads of a row that is no id: labels, a weight, numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.data.task import Reading
from sharded_emb.errors import InputError

Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PerRow:
    """Of N rows: label (N), or one column a task. weight (N), None for 1. numbers (N, A): columns that a model reads as
    they are. None for what is not read.
    """

    label: Float32s | None
    weight: Float32s | None
    numbers: Float32s | None

    @classmethod
    def read(cls, reading: Reading, columns: Mapping[str, RaggedColumn], places: Int64s, rows: Int64s) -> "PerRow":
        """Those of places in the columns, which are these rows of the split. Raises InputError for labels, weights and
        numbers that are none.
        """

        def values(name: str) -> npt.NDArray[Any]:
            return columns[name].values[places]

        found = [label.of(values(label.column), rows) for label in reading.labels]
        numbers = [_finite("model.numbers", name, values(name), rows) for name in reading.numbers]
        weight = None
        if reading.weight is not None:
            weight = _finite("loss.weight", reading.weight, values(reading.weight), rows, least=0.0)
        label = None if not found else found[0] if len(found) == 1 else np.stack(found, 1)
        return cls(label, weight, np.stack(numbers, 1) if numbers else None)


def require_finite(key: str, column: str, values: npt.NDArray[Any], lengths: Int64s, rows: Int64s) -> None:
    """Raises InputError for a value that is no number. lengths: how many each of these rows of the split has."""
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        wrong = int(np.argmin(finite))
        row = rows[np.searchsorted(np.cumsum(lengths), wrong, side="right")]
        got = f"{values[wrong]} in row {row} of the split"
        raise InputError(f"{key}: want numbers in column {column}, got {got}; prepare the data again")


def _finite(key: str, column: str, values: npt.NDArray[Any], rows: Int64s, least: float = -np.inf) -> Float32s:
    found = values.astype(np.float32)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= least)))
    if wrong.size:
        wanted = "numbers" if least == -np.inf else f"numbers of {least:g} and more"
        got = f"{found[wrong[0]]} in row {rows[wrong[0]]} of the split"
        remedy = "prepare the data again" if least == -np.inf else "name another column, or prepare it without a scale"
        raise InputError(f"{key}: want {wanted} in column {column}, got {got}; {remedy}")
    return found
