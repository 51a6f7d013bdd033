"""SIM: search-based interest model (Pi et al., CIKM 2020), its soft search.

Of a long history only the events most like the item in question, by the dot product of their vectors, reach the
attention unit. The published model trains a smaller table for the search, with a loss of its own; here it reads the
vectors of the item table, which need no second lookup.

B  rows    L  longest row    K  events that are found    D  dim of the item table
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import Embedded, Jagged
from sharded_emb.layers.fields import dims_by_feature
from sharded_emb.layers.jagged import pad
from sharded_emb.layers.mlp import mlp
from sharded_emb.models.click import HistoriesConfig, pooled_names
from sharded_emb.tables import Table


class SIM(HistoriesConfig):
    """found: how many events of a history are attended to. attention_hidden and hidden: widths of the layers of the
    attention units, one a history, and of the final net.
    """

    found: PositiveInt = 20
    attention_hidden: tuple[PositiveInt, ...] = (64,)

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        return SIMModel(self, dims_by_feature(tables), pooled_names(tables))


def search(events: Jagged, target_BD: Tensor, found: int) -> tuple[Tensor, Tensor]:
    """The vectors (B, K, D) of the events most like the target, and which of them there are: bool (B, K)."""
    values_BLD = pad(events).values_BLD
    place_L = torch.arange(values_BLD.shape[1], device=values_BLD.device)
    inside_BL = place_L < events.lengths_B[:, None]
    # which events are found is no smooth function of their vectors: no gradient goes this way
    likeness_BL = (values_BLD.detach() @ target_BD.detach()[:, :, None])[:, :, 0].masked_fill(~inside_BL, -torch.inf)
    at_BK = likeness_BL.topk(min(found, values_BLD.shape[1]), dim=1).indices
    return values_BLD.gather(1, at_BK[:, :, None].expand(-1, -1, values_BLD.shape[2])), inside_BL.gather(1, at_BK)


class SIMModel(nn.Module):
    """Found events weighted by their attention to the target, beside all pooled features, into a net."""

    def __init__(self, config: SIM, dims: Mapping[str, int], pooled: Sequence[str]) -> None:
        super().__init__()
        self.histories, self.target, self.pooled = config.histories, config.target, list(pooled)
        self.found = config.found
        dim = dims[config.target]
        self.attention = nn.ModuleDict({name: mlp((4 * dim, *config.attention_hidden), 0.0) for name in self.histories})
        width = sum(dims[name] for name in pooled) + 2 * dim * len(self.histories)
        self.net = mlp((width, *config.hidden), config.dropout)

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        target_BD = embedded.pooled[self.target]
        parts = [embedded.pooled[name] for name in self.pooled]
        for name in self.histories:
            seen_BKD, there_BK = search(embedded.sequences[name], target_BD, self.found)
            target_BKD = target_BD[:, None].expand_as(seen_BKD)
            pair = torch.cat([seen_BKD, target_BKD, seen_BKD - target_BKD, seen_BKD * target_BKD], 2)
            weight_BK = torch.sigmoid(self.attention[name](pair)[:, :, 0]) * there_BK
            interest_BD = (weight_BK[:, :, None] * seen_BKD).sum(1) / there_BK.sum(1, keepdim=True).clamp(min=1)
            interest_BD = F.layer_norm(interest_BD, interest_BD.shape[1:])
            parts += [interest_BD, interest_BD * target_BD]
        return self.net(torch.cat(parts, 1))[:, 0]
