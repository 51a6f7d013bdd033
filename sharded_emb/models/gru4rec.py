"""GRU4Rec: a recurrent net over the events so far (Hidasi et al., ICLR 2016; Hidasi and Karatzoglou, CIKM 2018).

S  events with a successor    D  dim
"""

import math
from collections.abc import Sequence

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Jagged
from sharded_emb.layers.attention import init_linear
from sharded_emb.layers.dropout import Dropout
from sharded_emb.layers.jagged import pad
from sharded_emb.models.compared import ComparedConfig, ComparedModel
from sharded_emb.tables import Table


class GRU4Rec(ComparedConfig):
    """layers, hidden (width of the state), dropout (of item vectors and states): of the recurrent net."""

    layers: PositiveInt = 1
    hidden: PositiveInt = 128
    dropout: float = Field(default=0.2, ge=0, lt=1)

    def build(self, tables: Sequence[Table]) -> ComparedModel:
        """The module."""
        return GRU4RecModel(self, self.item_table(tables).dim)


class GRU4RecModel(ComparedModel):
    """Item vectors, recurrent layers, a linear map back to the dim of the items, a last norm."""

    def __init__(self, config: GRU4Rec, dim: int) -> None:
        super().__init__(config)
        self.dropout = Dropout(config.dropout)
        self.gru = nn.GRU(dim, config.hidden, config.layers, batch_first=True)
        self.project = nn.Linear(config.hidden, dim)
        self.norm = nn.LayerNorm(dim)
        init_linear(self, std=0.5 / math.sqrt(config.hidden))

    def encode(self, events: Jagged) -> Tensor:
        """The state (S, D) after each event."""
        padded = pad(events)  # what stands behind the end of a row comes after it
        hidden, _ = self.gru(self.dropout(padded.values_BLD))
        return self.compared(self.norm(self.project(self.dropout(padded.unpad(hidden)))))
