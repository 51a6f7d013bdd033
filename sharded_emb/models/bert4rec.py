"""BERT4Rec: events that are hidden, predicted from those on both sides (Sun et al., CIKM 2019).

Which events are hidden is drawn by (seed, step, sample), so it is the same on any number of ranks. Evaluation hides the
event that it asks for, and nothing else.

    B  rows    T  events over all rows    L  places    S  hidden events    D  dim
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Embedded, Jagged
from sharded_emb.initializers import hashed_uniform, stream_key
from sharded_emb.layers.attention import TransformerBlock, init_linear
from sharded_emb.layers.dropout import Dropout
from sharded_emb.layers.jagged import last_of_row
from sharded_emb.layers.layout import lay_out
from sharded_emb.models.base import Drawn, NextItem
from sharded_emb.models.compared import ComparedModel, PlacedConfig
from sharded_emb.tables import FeatureConfig, Table


class BERT4Rec(PlacedConfig):
    """hidden_share: of the events of a row that are to be predicted, at least one. last_only: the share of rows in
    which that is the last one alone, as evaluation has it. blocks, heads, hidden, dropout: of the transformer.
    """

    draws_events: ClassVar[bool] = True

    blocks: PositiveInt = 2
    heads: PositiveInt = 1
    hidden: PositiveInt = 256
    hidden_share: float = Field(default=0.2, gt=0, lt=1)
    last_only: float = Field(default=0.1, ge=0, le=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)

    def problems(self, features: Mapping[str, FeatureConfig]) -> list[str]:
        """What stands beside a hidden event would tell of it."""
        beside = f"model.beside: want none, since BERT4Rec hides events, got {', '.join(self.beside)}; leave it out"
        return super().problems(features) or ([beside] if self.beside else [])

    def predicted(self, drawn: Drawn) -> npt.NDArray[np.bool_]:
        """The hidden events. A row of a single event has nothing to predict from; of a longer one some are left."""
        longest = int(drawn.lengths.max(initial=0))
        key = stream_key(drawn.seed, f"hidden.{drawn.step}")
        # the first column decides on the row: which is the last one differs by the rows beside it
        uniform_B1L = hashed_uniform(key, torch.from_numpy(drawn.samples), torch.arange(longest + 1)).numpy()
        place_L, lengths_B1 = np.arange(longest), drawn.lengths[:, None]
        hidden_BL = (uniform_B1L[:, 1:] < self.hidden_share) & (place_L < lengths_B1)
        all_B1 = hidden_BL.sum(1, keepdims=True) == lengths_B1
        hidden_BL &= ~(all_B1 & (place_L == 0))
        last_alone_B1 = (uniform_B1L[:, :1] < self.last_only) | ~hidden_BL.any(1, keepdims=True)
        hidden_BL = np.where(last_alone_B1, place_L == lengths_B1 - 1, hidden_BL) & (lengths_B1 > 1)
        return hidden_BL[place_L < lengths_B1]

    def build(self, tables: Sequence[Table]) -> ComparedModel:
        """The module."""
        return BERT4RecModel(self, *self.shape(tables))


class BERT4RecModel(ComparedModel):
    """Item vectors, or that of what is hidden, plus a vector of the place; blocks that look both ways; a head."""

    def __init__(self, config: BERT4Rec, dim: int, max_length: int) -> None:
        super().__init__(config)
        self.heads = config.heads
        # the event that is asked for comes after the longest history
        self.places_LD = nn.Parameter(torch.randn(max_length + 1, dim) * 0.02)
        self.hidden_D = nn.Parameter(torch.randn(dim) * 0.02)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.heads, config.hidden, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        init_linear(self, std=0.5 / math.sqrt(dim))

    def forward(self, embedded: Embedded) -> NextItem:
        """States of the hidden events, what they are, and candidates."""
        history = embedded.sequences[self.history]
        assert history.numbers_T is not None
        hidden_T = history.numbers_T > 0
        at_S = hidden_T.nonzero()[:, 0]  # on a GPU one wait a step: how many are hidden differs by step and rank
        return self.drawn(embedded, at_S, self._states(history, hidden_T).index_select(0, at_S))

    def queries(self, embedded: Embedded) -> Tensor:
        """The states (B, D) of the last event of each row, hidden."""
        history = embedded.sequences[self.history]
        last_B = last_of_row(history)
        hidden_T = torch.zeros_like(history.ids_T, dtype=torch.bool).index_fill_(0, last_B.clamp(min=0), True)
        return self._states(history, hidden_T)[last_B]

    def _states(self, events: Jagged, hidden_T: Tensor) -> Tensor:
        """Of all events (T, D)."""
        values_TD = torch.where(hidden_T[:, None], self.hidden_D, events.values_TD)
        layout = lay_out(replace(events, values_TD=values_TD), self.heads, causal=False)
        x = self.dropout(layout.values + layout.by_place(self.places_LD))
        for block in self.blocks:
            x = block(x, layout)
        return self.compared(self.head(self.norm(layout.events(x))))
