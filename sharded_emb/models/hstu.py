"""HSTU: hierarchical sequential transduction units (Zhai et al., "Actions speak louder than words", ICML 2024).

Attention without a softmax: a weight is SiLU(query · key + bias), the bias learned by distance and, where the history
has times (`features.history.pooling: {_target_: none, times: times}`), by age. Without times (sequence text, such as
the Beauty reviews) it knows places alone.

Two departures: weights are divided by the number of events that are seen, where the published code divides by the
longest length of all, so that short rows do not vanish before the norm; and ages are between events that were read,
where the published code counts from the time of the event that is to be predicted.

    B  rows    L  longest row    H  heads    S  events with a successor    D  dim    d  dim of a head
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import Jagged
from sharded_emb.layers.attention import init_linear
from sharded_emb.layers.dropout import Dropout
from sharded_emb.layers.layout import Layout, Packed, PaddedRows, lay_out
from sharded_emb.layers.pointwise_attention import (
    Ages,
    Bias,
    age_buckets,
    age_edges,
    has_room,
    pointwise_attention,
)
from sharded_emb.models.compared import ComparedModel, PlacedConfig
from sharded_emb.pooling.none import NoPooling
from sharded_emb.tables import Table


class HSTU(PlacedConfig):
    """blocks, heads, dropout: of the units. time_buckets: of ages, which grow by a third from one to the next: 64 reach
    seven years.
    """

    blocks: PositiveInt = 2
    heads: PositiveInt = 1
    time_buckets: PositiveInt = 64
    dropout: float = Field(default=0.2, ge=0, lt=1)

    def build(self, tables: Sequence[Table]) -> ComparedModel:
        """The module; it reads times if the history has them."""
        (history,) = [f for table in tables for f in table.features if f.name == self.history]
        timed = isinstance(history.pooling, NoPooling) and history.pooling.times is not None
        return HSTUModel(self, *self.shape(tables), timed)


class HSTUModel(ComparedModel):
    """Item vectors plus a vector of the place, units, a last norm."""

    edges_A: Tensor

    def __init__(self, config: HSTU, dim: int, max_length: int, timed: bool) -> None:
        super().__init__(config)
        self.timed, self.heads = timed, config.heads
        self.register_buffer("edges_A", age_edges(config.time_buckets), persistent=False)
        self.places_LD = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        self.dropout = Dropout(config.dropout)
        self.units = nn.ModuleList(
            Unit(config, dim, max_length, config.time_buckets if timed else 0) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(dim)
        init_linear(self, std=0.5 / math.sqrt(dim))

    def encode(self, events: Jagged) -> Tensor:
        """The state (S, D) after each event."""
        layout = self._lay_out(events)
        when = self._when(events, layout) if self.timed else None
        x = self.dropout(layout.values + layout.by_place(self.places_LD))
        for unit in self.units:
            x = unit(x, layout, when)
        return self.compared(self.norm(layout.events(x)))

    def _lay_out(self, events: Jagged) -> Layout:
        layout = lay_out(events, self.heads)
        values_TD = events.values_TD
        if values_TD.is_cuda and not has_room(values_TD.device, values_TD.shape[1] // self.heads):
            return PaddedRows(events)
        return layout

    def _when(self, events: Jagged, layout: Layout) -> "When":
        """When events were: packed whole seconds (T), padded the bucket (B, L, L) of each event, as seen from each."""
        assert events.numbers_T is not None
        # whole seconds: sums of float32 gaps would round, and differences within a row need no beginning
        seconds_T = events.numbers_T.round().long().cumsum(0)
        if isinstance(layout, Packed):
            return When(layout.fill(seconds_T), self.edges_A)
        assert isinstance(layout, PaddedRows)
        seconds_BL = layout.padded.lay(seconds_T)
        return When(age_buckets(seconds_BL[:, :, None] - seconds_BL[:, None, :], self.edges_A), self.edges_A)


class When(NamedTuple):
    """What `Unit` makes of times. at: seconds or buckets, see `HSTUModel`."""

    at: Tensor
    edges_A: Tensor


class Unit(nn.Module):
    """Pointwise attention to oneself and what came before, gated, with a residual."""

    def __init__(self, config: HSTU, dim: int, max_length: int, buckets: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm, self.mixed_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.project_in, self.project_out = nn.Linear(dim, 4 * dim), nn.Linear(dim, dim)
        self.by_distance_LH = nn.Parameter(torch.randn(max_length, config.heads) * 0.02)
        self.by_age = nn.Embedding(buckets, config.heads) if buckets else None
        if self.by_age is not None:
            nn.init.normal_(self.by_age.weight, std=0.02)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, layout: Layout, when: When | None) -> Tensor:
        """The same shape: vectors of events, that lie as the layout has it."""
        gate, *parts = F.silu(self.project_in(self.norm(x))).chunk(4, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        if isinstance(layout, Packed):
            ages = Ages(when.at, self.by_age.weight, when.edges_A) if when and self.by_age else None
            mixed = pointwise_attention(query, key, value, Bias(self.by_distance_LH, ages), layout.rows)
        else:
            mixed = self._padded(query, key, value, when and when.at)
        return x + self.project_out(self.dropout(self.mixed_norm(mixed.flatten(-2)) * gate))

    def _padded(self, query: Tensor, key: Tensor, value: Tensor, ages_BLL: Tensor | None) -> Tensor:
        """The same of queries, keys and values (B, L, H, d)."""
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        longest = query.shape[2]
        scores_BHLL = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]) + self._bias(longest, ages_BLL)
        weights_BHLL = F.silu(scores_BHLL).tril()
        seen_L1 = torch.arange(1, longest + 1, device=query.device)[:, None]
        return (weights_BHLL @ value / seen_L1).transpose(1, 2)

    def _bias(self, longest: int, ages_BLL: Tensor | None) -> Tensor:
        """(H, L, L), with ages (B, H, L, L); what later places get does not matter."""
        places_L = torch.arange(longest, device=self.by_distance_LH.device)
        distance_LL = (places_L[:, None] - places_L).clamp(min=0)
        bias_HLL = self.by_distance_LH[distance_LL].permute(2, 0, 1)
        if self.by_age is None:
            return bias_HLL
        return bias_HLL + self.by_age(ages_BLL).permute(0, 3, 1, 2)
