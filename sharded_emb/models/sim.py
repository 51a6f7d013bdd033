"""SIM: search-based interest model (Pi et al., CIKM 2020), its soft search.

Of a long history only the events most like the item in question, by the dot product of their vectors, reach the
attention unit. The published model trains a smaller table for the search, with a loss of its own; here it reads the
vectors of the item table, which need no second lookup.

B  rows    L  longest row    K  events that are found    D  dim of the item table
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Jagged
from sharded_emb.layers.jagged import pad
from sharded_emb.models.click import HistoriesConfig, InterestModel
from sharded_emb.models.din import AttentionUnit
from sharded_emb.tables import Table


class SIM(HistoriesConfig):
    """found: how many events of a history are attended to. attention_hidden and hidden: widths of the layers of the
    attention units, one a history, and of the final net.
    """

    reads_numbers: ClassVar[bool] = True

    found: PositiveInt = 20
    attention_hidden: tuple[PositiveInt, ...] = (64,)

    def build(self, tables: Sequence[Table]) -> InterestModel:
        """The module."""
        return InterestModel(self, tables, lambda dim: SearchedAttention(dim, self.attention_hidden, self.found))


def search(events: Jagged, target_BD: Tensor, found: int) -> tuple[Tensor, Tensor]:
    """The vectors (B, K, D) of the events most like the target, and which of them there are: bool (B, K)."""
    values_BLD = pad(events).values_BLD
    place_L = torch.arange(values_BLD.shape[1], device=values_BLD.device)
    inside_BL = place_L < events.lengths_B[:, None]
    # which events are found is no smooth function of their vectors: no gradient goes this way
    likeness_BL = (values_BLD.detach() @ target_BD.detach()[:, :, None])[:, :, 0].masked_fill(~inside_BL, -torch.inf)
    at_BK = _most(likeness_BL, min(found, values_BLD.shape[1]))
    return values_BLD.gather(1, at_BK[:, :, None].expand(-1, -1, values_BLD.shape[2])), inside_BL.gather(1, at_BK)


def _most(likeness_BL: Tensor, found: int) -> Tensor:
    """Places (B, K) of the largest, of equal ones the first, in the order of events: `topk` takes whichever of equal
    ones, by how long the longest row of a batch is.
    """
    least_B1 = likeness_BL.topk(found, dim=1).values[:, -1:]
    above_BL, equal_BL = likeness_BL > least_B1, likeness_BL == least_B1
    wanted_BL = above_BL | (equal_BL & (equal_BL.cumsum(1) <= found - above_BL.sum(1, keepdim=True)))
    from_behind_L = torch.arange(likeness_BL.shape[1], 0, -1, device=likeness_BL.device)
    return (wanted_BL * from_behind_L).topk(found, dim=1).indices


class SearchedAttention(AttentionUnit):
    """DIN's unit over the events that are found."""

    def __init__(self, dim: int, hidden: Sequence[int], found: int) -> None:
        super().__init__(dim, hidden)
        self.found = found

    def forward(self, history: Jagged, target_BD: Tensor) -> Tensor:
        """The interest (B, D), normalized; zeros for a row without events."""
        seen_BKD, there_BK = search(history, target_BD, self.found)
        rows, found = there_BK.shape
        row_N = torch.arange(rows, device=target_BD.device).repeat_interleave(found)
        weight_BK1 = self.weights(seen_BKD.flatten(0, 1), target_BD, row_N).view(rows, found, 1) * there_BK[:, :, None]
        interest_BD = (weight_BK1 * seen_BKD).sum(1) / there_BK.sum(1, keepdim=True).clamp(min=1)
        return F.layer_norm(interest_BD, interest_BD.shape[1:])
