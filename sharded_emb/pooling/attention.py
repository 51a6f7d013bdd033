"""A mean weighted by attention to a target, such as the item in question.

A small net scores each event beside the target, as in DIN (Zhou et al., KDD 2018), or their scaled dot product does
(Vaswani et al., NeurIPS 2017); scores become weights by a softmax over the row.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Jagged
from sharded_emb.errors import nearest
from sharded_emb.layers.jagged import of_rows, row_of_event, sums
from sharded_emb.layers.pairs import of_pairs
from sharded_emb.layers.prelu import PReLU
from sharded_emb.pooling.base import Pool, Pooling


class Attention(Pooling):
    """target: a pooled feature of the same dim. hidden: width of the net that scores."""

    target: str
    score: Literal["net", "dot"] = "net"
    hidden: PositiveInt = 32

    def problems(self, name: str, features: Mapping[str, Any], tables: Mapping[str, Any]) -> list[str]:
        """The target has to be there, pooled by itself, and of the same dim."""
        key = f"features.{name}.pooling.target"
        if self.target not in features:
            return [f"{key}: want a feature, got {self.target!r}{nearest(self.target, features)}"]
        target = features[self.target]
        if not target.pooled or target.of is not None or target.pooling.needs():
            return [f"{key}: want a feature that is pooled by itself, got {self.target!r}; choose another"]
        mine, its = tables.get(features[name].table), tables.get(target.table)
        if mine is not None and its is not None and mine.dim != its.dim:
            return [f"{key}: want a feature of dim {mine.dim}, got {self.target!r} of dim {its.dim}; choose another"]
        return []

    def needs(self) -> tuple[str, ...]:
        """The target."""
        return (self.target,)

    def build(self, dim: int, max_length: int | None) -> Pool:  # noqa: ARG002
        """The module."""
        return AttentionPool(self, dim)


class AttentionPool(Pool):
    """The net sees event, target, difference and product."""

    def __init__(self, config: Attention, dim: int) -> None:
        super().__init__()
        self.target = config.target
        self.net = None
        if config.score == "net":
            self.net = nn.Sequential(nn.Linear(4 * dim, config.hidden), PReLU(), nn.Linear(config.hidden, 1))

    def forward(self, events: Jagged, pooled: Mapping[str, Tensor]) -> Tensor:
        """See `Pool`."""
        row_T, seen_TD, target_BD = row_of_event(events), events.values_TD, pooled[self.target]
        if self.net is None:
            score_T = (seen_TD * of_rows(target_BD, row_T)).sum(1) / math.sqrt(seen_TD.shape[1])
        else:
            first, *rest = self.net
            score_T = nn.Sequential(*rest)(of_pairs(first, seen_TD, target_BD, row_T))[:, 0]
        lowest_B = score_T.new_full(events.lengths_B.shape, -torch.inf)
        greatest_B = lowest_B.scatter_reduce(0, row_T, score_T.detach(), "amax")
        weight_T1 = (score_T - greatest_B[row_T]).exp()[:, None]
        # an empty row has nothing to divide
        return sums(events, seen_TD * weight_T1) / sums(events, weight_T1).clamp(min=torch.finfo(seen_TD.dtype).tiny)
