"""item2vec: vectors of items, or words, by those that occur near them (Barkan and Koenigstein, RecSys 2016).

Skip-gram with negative sampling (Mikolov et al., NeurIPS 2013): the vector of one event is to be near that of another
one of its row, at most `window` places away. Each step predicts every event of a row once, from a neighbour that is
drawn by (seed, step, sample, place), so it is the same on any number of ranks; over the steps all pairs have their
turn. Other than in word2vec the window does not shrink, and frequent items are not thinned out.

word2vec has two vectors for each word, one of what is predicted and one of what it is predicted from. Here the second
is the first plus what `beside` adds: a feature that reads the same column from a table of its own. Without it both are
the same.

A history is asked for what comes next by the mean of its last `window` events.

    B  rows    L  longest row    T  events over all rows    S  predicted events    D  dim
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import PositiveInt
from torch import Tensor

from sharded_emb.batch import Embedded
from sharded_emb.initializers import hashed_uniform, stream_key
from sharded_emb.layers.jagged import inputs_and_successors, place_of_event, row_of_event, sums
from sharded_emb.models.base import Drawn, NextItem
from sharded_emb.models.compared import ComparedConfig, ComparedModel
from sharded_emb.tables import Table


class Item2Vec(ComparedConfig):
    """window: places between an event and the one that it is predicted from, on either side."""

    draws_events: ClassVar[bool] = True

    window: PositiveInt = 5

    def predicted(self, drawn: Drawn) -> npt.NDArray[np.float64]:
        """Of each event (T) the neighbour that it is predicted from: how many places before it, or `window` more than
        how many after it; 0 of rows with a single event.
        """
        longest = int(drawn.lengths.max(initial=0))
        key = stream_key(drawn.seed, f"neighbour.{drawn.step}")
        uniform_BL = hashed_uniform(key, torch.from_numpy(drawn.samples), torch.arange(longest)).numpy()
        place_L, lengths_B1 = np.arange(longest), drawn.lengths[:, None]
        before_BL = np.minimum(place_L, self.window)
        after_BL = np.clip(lengths_B1 - 1 - place_L, 0, self.window)
        turn_BL = np.minimum((uniform_BL * (before_BL + after_BL)).astype(np.int64), before_BL + after_BL - 1)
        found_BL = np.where(turn_BL < before_BL, turn_BL + 1, turn_BL - before_BL + 1 + self.window)
        found_BL[lengths_B1[:, 0] < 2] = 0
        return found_BL[place_L < lengths_B1].astype(np.float64)

    def build(self, tables: Sequence[Table]) -> ComparedModel:  # noqa: ARG002
        """The module."""
        return Item2VecModel(self)


class Item2VecModel(ComparedModel):
    """The vectors alone."""

    def __init__(self, config: Item2Vec) -> None:
        super().__init__(config)
        self.window = config.window

    def forward(self, embedded: Embedded) -> NextItem:
        """Vectors of drawn neighbours, the events that they predict, and candidates."""
        history = embedded.sequences[self.history]
        assert history.numbers_T is not None
        at_S = history.numbers_T.nonzero()[:, 0]
        way_S = history.numbers_T[at_S].long()
        neighbour_S = at_S + torch.where(way_S > self.window, way_S - self.window, -way_S)
        states_SD = self.compared(self.told(embedded).values_TD.index_select(0, neighbour_S))
        return self.drawn(embedded, at_S, states_SD)

    def queries(self, embedded: Embedded) -> Tensor:
        """The mean (B, D) of the newest events before the last one of each row."""
        inputs, _ = inputs_and_successors(self.told(embedded))
        row_T = row_of_event(inputs)
        newest_T = inputs.lengths_B[row_T] - place_of_event(inputs) <= self.window
        sums_BD = sums(inputs, inputs.values_TD * newest_T[:, None])
        return self.compared(sums_BD / inputs.lengths_B.clamp(1, self.window)[:, None])
