"""DIEN: deep interest evolution network (Zhou et al., AAAI 2019), without its auxiliary loss, for which the data path
draws no negatives.

A recurrent net reads past events; a second one, whose update gate is scaled by the attention of each state to the item
in question, follows the interest in it.

B  rows    L  longest row    D  dim of the item table
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sharded_emb.batch import Embedded, Jagged
from sharded_emb.layers.fields import dims_by_feature
from sharded_emb.layers.jagged import pad
from sharded_emb.layers.mlp import mlp
from sharded_emb.models.click import HistoriesConfig, pooled_names
from sharded_emb.tables import Table


class DIEN(HistoriesConfig):
    """hidden: widths of the layers of the final net."""

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        return DIENModel(self, dims_by_feature(tables), pooled_names(tables))


class DIENModel(nn.Module):
    """The interest at the end of each history, beside all pooled features, into a net."""

    def __init__(self, config: DIEN, dims: Mapping[str, int], pooled: Sequence[str]) -> None:
        super().__init__()
        self.histories, self.target, self.pooled = config.histories, config.target, list(pooled)
        dim = dims[config.target]
        self.interests = nn.ModuleDict({name: InterestEvolution(dim) for name in self.histories})
        width = sum(dims[name] for name in pooled) + 2 * dim * len(self.histories)
        self.net = mlp((width, *config.hidden), config.dropout)

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        target_BD = embedded.pooled[self.target]
        parts = [embedded.pooled[name] for name in self.pooled]
        for name in self.histories:
            interest_BD = self.interests[name](embedded.sequences[name], target_BD)
            parts += [interest_BD, interest_BD * target_BD]
        return self.net(torch.cat(parts, 1))[:, 0]


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
