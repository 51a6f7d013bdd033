"""How the events of rows lie in a tensor while layers work on them, and how those of a row attend to each other.

On a CPU rows are padded to the longest one of the batch, and batches are of rows of like lengths. On a GPU they lie one
after the other, and kernels that know where each begins attend within them: no padding is computed or kept.

B  rows    L  longest row    T  events over all rows    P  T, filled up    D  dim    H  heads    d  dim of a head
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Extent, Jagged
from sharded_emb.layers.jagged import of_rows, pad, place_of_event
from sharded_emb.layers.pointwise_attention import JaggedRows

_ALL, _CAUSAL = 0, 1  # masks of torch's memory-efficient kernel
_MULTIPLE = 8  # of the numbers of a head that the kernels take
_WIDEST = 256  # head that they take
_OLDEST = (8, 0)  # GPU that all of them run on
_MOST_ROWS = 65_535  # that one of them is launched for
_SIZE_BITS = 5  # of the number of packed events that are not zeros at its end


class Layout(Protocol):
    """Where events are in tensors that end with a dimension of their own. values: the vectors of all events."""

    @property
    def values(self) -> Tensor:
        """The vectors of the events."""

    def by_place(self, places_LD: Tensor) -> Tensor:
        """What each place in a row has, laid out as `values` or broadcast to it."""

    def attend(self, projected: Tensor, heads: int) -> Tensor:
        """Scaled dot-product attention (..., D) within each row, of queries, keys and values (..., 3D) that stand one
        after the other in the last dimension.
        """

    def attend_first(self, query_BD: Tensor, projected: Tensor, heads: int) -> Tensor:
        """The same of one query a row, which sees all of the row: (B, D). projected: keys and values (..., 2D)."""

    def first(self, values: Tensor) -> Tensor:
        """The first event (B, D) of each row, which has to have one, of a tensor that is laid out as `values`."""

    def events(self, values: Tensor) -> Tensor:
        """All events (T, D) of such a tensor."""


def lay_out(events: Jagged, heads: int, causal: bool = True) -> Layout:
    """heads: that will attend. causal: whether an event sees itself and those before it, else all of its row."""
    values_TD = events.values_TD
    known = values_TD.is_cuda and values_TD.shape[1] // heads <= _WIDEST
    packs = known and torch.cuda.get_device_capability(values_TD.device) >= _OLDEST
    return Packed(events, causal) if packs else PaddedRows(events, causal)


class PaddedRows:
    """Tensors (B, L, ...)."""

    def __init__(self, events: Jagged, causal: bool = True) -> None:
        # at least one place, or a rank whose rows are all empty would give attention a sequence of length 0
        longest = max(events.extent.longest, 1)
        extent = Extent(longest, events.extent.nonempty)
        self.padded = pad(Jagged(events.values_TD, events.ids_T, events.lengths_B, extent))
        self.values, self._lengths_B, self._causal = self.padded.values_BLD, events.lengths_B, causal

    def by_place(self, places_LD: Tensor) -> Tensor:
        """(L, D)."""
        return places_LD[: self.values.shape[1]]

    def attend(self, projected: Tensor, heads: int) -> Tensor:
        """(B, L, D)."""
        return padded_attention(projected.chunk(3, -1), heads, None if self._causal else self._inside_B11L)

    def attend_first(self, query_BD: Tensor, projected: Tensor, heads: int) -> Tensor:
        """(B, D)."""
        return padded_attention((query_BD[:, None], *projected.chunk(2, -1)), heads, self._inside_B11L)[:, 0]

    def first(self, values: Tensor) -> Tensor:
        """(B, D)."""
        return values[:, 0]

    @cached_property
    def _inside_B11L(self) -> Tensor:
        place_L = torch.arange(self.values.shape[1], device=self._lengths_B.device)
        # the first place of an empty row is looked at too: a softmax over nothing is no number
        return (place_L < self._lengths_B.clamp(min=1)[:, None])[:, None, None]

    def events(self, values: Tensor) -> Tensor:
        """(T, D)."""
        return self.padded.unpad(values)


class Packed:
    """Tensors (P, ...) on a CUDA device: the events, and zeros behind them, so that P is one of 16 sizes an octave.

    cuBLAS remembers how it multiplies matrices of the sizes that it has met, and takes its host long for others. The
    zeros are rows of their own, which nothing reads.
    """

    def __init__(self, events: Jagged, causal: bool = True) -> None:
        self._events, self._causal = events, causal
        count, longest = len(events.values_TD), events.extent.longest
        self._behind = -count % (1 << max(0, count.bit_length() - _SIZE_BITS))
        self.values = self.fill(events.values_TD)
        offsets_B1 = events.offsets_B1
        if self._behind:
            ends = torch.arange(longest, self._behind + longest, longest, device=offsets_B1.device)
            offsets_B1 = torch.cat([offsets_B1, count + ends.clamp(max=self._behind)])
        self.rows = JaggedRows(offsets_B1, longest)

    def fill(self, values: Tensor) -> Tensor:
        """A tensor (P, ...) of one (T, ...) of events."""
        return F.pad(values, (*[0] * (2 * values.dim() - 1), self._behind)) if self._behind else values

    def by_place(self, places_LD: Tensor) -> Tensor:
        """(P, D)."""
        return self.fill(of_rows(places_LD, place_of_event(self._events)))

    def attend(self, projected: Tensor, heads: int) -> Tensor:
        """(P, D)."""
        query, key, value = (part.unflatten(-1, (heads, -1)) for part in projected.chunk(3, -1))
        if not len(projected):  # whose longest row may all the same be said to have a place
            return value.flatten(1)
        begins = self._begins
        return packed_attention((query, key, value), begins, begins, self._causal).flatten(1)

    def attend_first(self, query_BD: Tensor, projected: Tensor, heads: int) -> Tensor:
        """(B, D)."""
        parts = query_BD, *self.events(projected).chunk(2, -1)
        query, key, value = (part.unflatten(-1, (heads, -1)) for part in parts)
        one_each = torch.arange(len(query_BD) + 1, dtype=torch.int32, device=query_BD.device)
        of_events = Begins(self._begins.at_B1[: len(one_each)], self.rows.longest)
        return packed_attention((query, key, value), Begins(one_each, 1), of_events, causal=False).flatten(1)

    def first(self, values: Tensor) -> Tensor:
        """(B, D)."""
        return values.index_select(0, self._events.offsets_B1[:-1])

    def events(self, values: Tensor) -> Tensor:
        """(T, D)."""
        return values[: len(self._events.values_TD)] if self._behind else values

    @cached_property
    def _begins(self) -> "Begins":
        return Begins(self.rows.offsets_B1.to(torch.int32), self.rows.longest)


class Begins(NamedTuple):
    """Where each row begins and the last one ends, int32 (B + 1), and the longest of them, at least 1."""

    at_B1: Tensor
    longest: int


def padded_attention(parts_BLD: Sequence[Tensor], heads: int, seen_B1LL: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (B, L, D) of queries, keys and values. seen: which places a place looks at, bool and
    broadcast; None for itself and those before it, which needs no mask for the padding behind the end of a row.
    """
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts_BLD)
    # no dropout on the weights: it would leave the fused kernels
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_B1LL, is_causal=seen_B1LL is None)
    return mixed.transpose(1, 2).flatten(2)


def packed_attention(parts_THd: Sequence[Tensor], queries: Begins, keys: Begins, causal: bool) -> Tensor:
    """Scaled dot-product attention (T, H, d) of queries, keys and values of rows that lie one after the other.

    Kernels are given all events whatever rows they are launched for, since the host does not know where the rows begin.
    What they make of other events, gradients too, is memory as it was found, and is replaced by zeros.
    """
    if len(queries.at_B1) - 1 <= _MOST_ROWS:
        return _attended(parts_THd, queries, keys, causal)
    query_THd, key_THd, value_THd = parts_THd
    first_q, first_k = (
        (torch.arange(len(part), device=part.device) < each.at_B1[_MOST_ROWS])[:, None, None]
        for part, each in ((query_THd, queries), (key_THd, keys))
    )
    mixed = []
    for own_q, own_k, rows in (
        (first_q, first_k, slice(_MOST_ROWS + 1)),
        (~first_q, ~first_k, slice(_MOST_ROWS, None)),
    ):
        parts = [query_THd.where(own_q, 0), key_THd.where(own_k, 0), value_THd.where(own_k, 0)]
        of_q, of_k = (Begins(each.at_B1[rows], each.longest) for each in (queries, keys))
        mixed.append(packed_attention(parts, of_q, of_k, causal).where(own_q, 0))
    return mixed[0] + mixed[1]


def _attended(parts_THd: Sequence[Tensor], queries: Begins, keys: Begins, causal: bool) -> Tensor:
    """The same of as many rows as kernels take: by the flash kernel in half precision, by the memory-efficient one in
    float32.
    """
    dim = parts_THd[0].shape[-1]
    parts = [F.pad(part, (0, -dim % _MULTIPLE)) if dim % _MULTIPLE else part for part in parts_THd]
    rows, scale = (queries.at_B1, keys.at_B1, queries.longest, keys.longest), dim**-0.5
    # what torch's nested tensors call as well, who would wait for the device to learn of rows that are empty
    if parts[0].dtype == torch.float32:
        mask, batch = _CAUSAL if causal else _ALL, [part[None] for part in parts]
        kernel = torch.ops.aten._efficient_attention_forward
        mixed = kernel(*batch, None, *rows, 0.0, mask, compute_log_sumexp=True, scale=scale)[0][0]
    else:
        mixed = torch.ops.aten._flash_attention_forward(*parts, *rows, 0.0, causal, False, scale=scale)[0]
    found: Tensor = mixed[..., :dim]
    return found
