"""What users did before each of their events, kept as it was done and cut out where it is read.

Events of a user's history stand in it once, not once for each event that comes later: a history is a stretch of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sharded_emb.data.columns import Int64s
from sharded_emb.data.layouts.base import FIRST, LABEL
from sharded_emb.data.layouts.sequences import as_stored, lists_of

Kept = Literal["all", "positive", "negative"]
_KEPT_LABEL = {"positive": 1, "negative": 0}


class History:
    """The newest events of a user before each event, of those that are kept by their label.

    columns: new name -> source; the first one names the history. length: at most so many. folder: new, for the kept
    events of all users, a file a column. where: columns of events that say where their history begins, and its length.
    """

    def __init__(self, kept: Kept, length: int, columns: Mapping[str, str], folder: Path) -> None:
        self.columns, self.length = columns, length
        self.where = (f"start:{next(iter(columns))}", f"length:{next(iter(columns))}")
        self._kept, self._folder = kept, folder
        self._count = 0
        self._types: dict[str, npt.DTypeLike] = {}
        folder.mkdir()

    def add(self, events: Mapping[str, npt.NDArray[Any]]) -> tuple[Int64s, Int64s]:
        """Where the history of each event (E) begins among all that are kept, and its length.

        events: columns (E) with `first`, `label` and the sources; all events of a user stand together, in their order.
        """
        label_E, first_E = events[LABEL], events[FIRST]
        kept_E = label_E == _KEPT_LABEL[self._kept] if self._kept != "all" else np.ones(len(label_E), bool)
        for number, (name, source) in enumerate(self.columns.items()):
            values = as_stored(events[source])[kept_E]
            kind = self._types.setdefault(name, values.dtype)
            assert kind == values.dtype, "pieces have the same columns"
            with self._file(number).open("ab") as file:
                file.write(values.data)  # not tofile, which says nothing of a full disk
        before_E = np.cumsum(kept_E) - kept_E
        begins_E = np.append(True, first_E[1:] != first_E[:-1])[: len(first_E)]
        lengths_E = np.minimum(before_E - before_E[begins_E][np.cumsum(begins_E) - 1], self.length)
        starts_E = self._count + before_E - lengths_E
        self._count += int(kept_E.sum())
        return starts_E, lengths_E

    def lists(self, rows: pa.Table) -> dict[str, pa.ListArray]:
        """By new name the histories of events, oldest first. rows: with the columns `where`, which `add` has given."""
        starts, lengths = (rows[name].to_numpy() for name in self.where)
        return {name: lists_of(self._values(at), starts, lengths) for at, name in enumerate(self.columns)}

    def _values(self, number: int) -> npt.NDArray[Any]:
        kind = self._types[list(self.columns)[number]]
        if not self._count:
            return np.zeros(0, kind)
        # torch takes no array that may not be written; none is, and a private map would count as memory
        return np.memmap(self._file(number), kind, "r+", shape=(self._count,))

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.bin"
