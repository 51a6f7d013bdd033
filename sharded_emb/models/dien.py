"""DIEN: deep interest evolution network (Zhou et al., AAAI 2019), without its auxiliary loss, for which the data path
draws no negatives.

A recurrent net reads past events; a second one, whose update gate is scaled by the attention of each state to the item
in question, follows the interest in it.

B  rows    L  longest row    D  dim of the item table
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from sharded_emb.batch import Jagged
from sharded_emb.layers.jagged import pad
from sharded_emb.models.click import HistoriesConfig, InterestModel
from sharded_emb.tables import Table


class DIEN(HistoriesConfig):
    """hidden: widths of the layers of the final net."""

    reads_numbers: ClassVar[bool] = True

    def build(self, tables: Sequence[Table]) -> InterestModel:
        """The module."""
        return InterestModel(self, tables, InterestEvolution)


class InterestEvolution(nn.Module):
    """Two recurrent nets; zeros for a row without events."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.extract = nn.GRU(dim, dim, batch_first=True)
        self.attend = nn.Linear(dim, dim, bias=False)
        self.inputs, self.states = nn.Linear(dim, 3 * dim), nn.Linear(dim, 3 * dim)

    def forward(self, events: Jagged, target_BD: Tensor) -> Tensor:
        """The last state (B, D)."""
        padded = pad(events)
        if not padded.values_BLD.shape[1]:
            return torch.zeros_like(target_BD)
        seen_BLD, _ = self.extract(padded.values_BLD)
        place_L = torch.arange(seen_BLD.shape[1], device=seen_BLD.device)
        inside_BL = place_L < events.lengths_B[:, None]
        scores_BL = (self.attend(seen_BLD) @ target_BD[:, :, None])[:, :, 0]
        # the lowest finite number, not -inf: a softmax over nothing is no number
        lowest = torch.finfo(scores_BL.dtype).min
        attention_BL = scores_BL.masked_fill(~inside_BL, lowest).softmax(1) * inside_BL
        state_BD = torch.zeros_like(target_BD)
        for inputs_BD, weight_B in zip(self.inputs(seen_BLD).unbind(1), attention_BL.unbind(1), strict=True):
            update, reset, new = inputs_BD.chunk(3, 1)
            update_of, reset_of, new_of = self.states(state_BD).chunk(3, 1)
            candidate_BD = torch.tanh(new + torch.sigmoid(reset + reset_of) * new_of)
            # behind the end of a row the weight is zero, and the state stays
            gate_BD = weight_B[:, None] * torch.sigmoid(update + update_of)
            state_BD = state_BD + gate_BD * (candidate_BD - state_BD)
        return state_BD
