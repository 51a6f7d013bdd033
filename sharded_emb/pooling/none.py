"""No pooling: the feature stays a sequence."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sharded_emb.pooling.base import Pooling


class NoPooling(Pooling):
    """For models that read events one by one. times: the column with the time of each event in seconds, for models that
    read it; null for none.
    """

    keeps_sequence: ClassVar[bool] = True
    types: ClassVar[Mapping[str, tuple[str, ...]]] = {"times": ("list<int64>", "list<float32>")}

    times: str | None = None

    def numbers(self, read: Mapping[str, npt.NDArray[Any]], lengths_B: npt.NDArray[np.int64]) -> Any:
        """Seconds since the event before, 0 for the first one of a row: a float32 would round the times themselves."""
        if "times" not in read:
            return None
        gaps_T = np.diff(read["times"].astype(np.float64), prepend=0.0)
        gaps_T[(np.cumsum(lengths_B) - lengths_B)[lengths_B > 0]] = 0
        return gaps_T.astype(np.float32)
