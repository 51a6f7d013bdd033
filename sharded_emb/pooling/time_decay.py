"""A mean in which an event counts half as much for every half-life of its age.

weight = 2 ** (-age / half_life): exponential forgetting, as in Koren, "Collaborative filtering with temporal dynamics"
(KDD 2009).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import PositiveFloat

from sharded_emb.pooling.base import Pool, Pooling
from sharded_emb.pooling.weighted import WeightedPool


class TimeDecay(Pooling):
    """times: the column with the time of each event, in seconds. now: the column with the time of the row, from which
    ages are counted; null counts them from the newest event of the row. An event of the future has age 0.
    normalize: false gives the weighted sum in place of the mean.
    """

    types: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "times": ("list<int64>", "list<float32>"),
        "now": ("int64", "float32"),
    }

    times: str = "times"
    now: str | None = None
    half_life_seconds: PositiveFloat = 7 * 24 * 3600.0
    normalize: bool = True

    def numbers(self, read: Mapping[str, npt.NDArray[Any]], lengths_B: npt.NDArray[np.int64]) -> Any:
        """The weights. Ages are differences of whole seconds: a float32 would round the times themselves."""
        times_T = read["times"]
        now_B = read["now"] if "now" in read else _of_rows(np.maximum, times_T, lengths_B)
        age_T = np.maximum(np.repeat(now_B, lengths_B) - times_T, 0)
        if self.normalize:  # a factor of all weights of a row cancels, unless float32 has no number so small
            age_T = age_T - np.repeat(_of_rows(np.minimum, age_T, lengths_B), lengths_B)
        return np.exp2(-age_T / self.half_life_seconds).astype(np.float32)

    def build(self, dim: int, max_length: int | None) -> Pool:  # noqa: ARG002
        """The module."""
        return WeightedPool(self.normalize)


def _of_rows(extreme: np.ufunc, values_T: npt.NDArray[Any], lengths_B: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """The least or greatest value of each row (B); 0 of an empty one."""
    found_B = np.zeros(len(lengths_B), dtype=values_T.dtype)
    filled_B = lengths_B > 0
    if filled_B.any():
        found_B[filled_B] = extreme.reduceat(values_T, (np.cumsum(lengths_B) - lengths_B)[filled_B])
    return found_B
