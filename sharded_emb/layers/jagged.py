"""Between rows of different lengths and padded ones, without a loop and without a sync.

B  rows    L  longest row    T  events over all rows    S  events that have a successor    D  dim
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Extent, Jagged


def row_of_event(jagged: Jagged) -> Tensor:
    """The row that each event belongs to: int64 (T)."""
    rows_B = torch.arange(jagged.lengths_B.numel(), device=jagged.lengths_B.device)
    return torch.repeat_interleave(rows_B, jagged.lengths_B, output_size=jagged.ids_T.numel())


def place_of_event(jagged: Jagged) -> Tensor:
    """The place of each event in its row, counted from 0: int64 (T)."""
    places_T = torch.arange(jagged.ids_T.numel(), device=jagged.lengths_B.device)
    return places_T - jagged.offsets_B1[:-1][row_of_event(jagged)]


def of_rows(values_BD: Tensor, row_T: Tensor) -> Tensor:
    """The values of each event's row: (T, D). Gradients are added up in the same order each time."""
    # the fastest of lookups, indices and selections that does so: what a row gets is many gradients
    return F.embedding(row_T, values_BD) if values_BD.is_cuda else values_BD.index_select(0, row_T)


def last_of_row(jagged: Jagged) -> Tensor:
    """The index among T of each row's last event: int64 (B). Every row has to have one."""
    return jagged.offsets_B1[1:] - 1


class Padded(NamedTuple):
    """Vectors (B, L, D), zeros behind the end of a row, and where event t stands among the B * L places."""

    values_BLD: Tensor
    at_T: Tensor

    def unpad(self, values_BLD: Tensor) -> Tensor:
        """The events (T, D) of another tensor of the same layout."""
        return values_BLD.flatten(0, 1).index_select(0, self.at_T)

    def lay(self, values_T: Tensor) -> Tensor:
        """One value an event in the same layout (B, L), zeros behind the end of a row."""
        rows, longest = self.values_BLD.shape[:2]
        return values_T.new_zeros(rows * longest).index_copy(0, self.at_T, values_T).view(rows, longest)


def pad(jagged: Jagged) -> Padded:
    """Rows side by side, as long as the longest."""
    rows, dim, longest = jagged.lengths_B.numel(), jagged.values_TD.shape[-1], jagged.extent.longest
    at_T = row_of_event(jagged) * longest + place_of_event(jagged)
    flat_ND = jagged.values_TD.new_zeros(rows * longest, dim).index_copy(0, at_T, jagged.values_TD)
    return Padded(flat_ND.view(rows, longest, dim), at_T)


def with_first(jagged: Jagged, vectors_BD: Tensor) -> Jagged:
    """Every row with a vector of its own before its events, whose id is -1."""
    lengths_B = jagged.lengths_B + 1
    rows, count = lengths_B.numel(), jagged.ids_T.numel()
    at_T = torch.arange(count, device=lengths_B.device) + row_of_event(jagged) + 1
    at_B = jagged.offsets_B1[:-1] + torch.arange(rows, device=lengths_B.device)
    values_ND = vectors_BD.new_zeros(count + rows, vectors_BD.shape[1])
    values_ND = values_ND.index_copy(0, at_T, jagged.values_TD).index_copy(0, at_B, vectors_BD)
    ids_N = jagged.ids_T.new_full((count + rows,), -1).index_copy(0, at_T, jagged.ids_T)
    return Jagged(values_ND, ids_N, lengths_B, Extent(jagged.extent.longest + 1, rows))


def inputs_and_successors(jagged: Jagged) -> tuple[Jagged, Tensor]:
    """Every row without its last event, and for each of those S events the index among T of the one that followed.

    a b c | d | e f    ->    a b | | e    and the indices of    b c f
    """
    lengths_B = (jagged.lengths_B - 1).clamp(min=0)
    count = jagged.ids_T.numel() - jagged.extent.nonempty
    rows_B = torch.arange(lengths_B.numel(), device=lengths_B.device)
    row_S = torch.repeat_interleave(rows_B, lengths_B, output_size=count)
    shift_B = jagged.offsets_B1[:-1] - (lengths_B.cumsum(0) - lengths_B)
    at_S = torch.arange(count, device=lengths_B.device) + shift_B[row_S]
    # at least one place, or a rank whose rows are all empty would give attention a sequence of length 0
    extent = Extent(longest=max(jagged.extent.longest - 1, 1), nonempty=jagged.extent.nonempty)
    numbers_S = None if jagged.numbers_T is None else jagged.numbers_T[at_S]
    # no event is read twice, and the backward pass of an index would sort them to find out
    return Jagged(jagged.values_TD.index_select(0, at_S), jagged.ids_T[at_S], lengths_B, extent, numbers_S), at_S + 1


def sums(jagged: Jagged, values_TD: Tensor) -> Tensor:
    """The sum over each row of vectors that belong to its events: (B, D). An empty row gives zeros."""
    zeros_BD = values_TD.new_zeros(jagged.lengths_B.numel(), values_TD.shape[-1])
    return zeros_BD.index_add(0, row_of_event(jagged), values_TD)


def pool(jagged: Jagged, mean: bool) -> Tensor:
    """Sum or mean of each row's vectors: (B, D). An empty row gives zeros."""
    summed_BD = sums(jagged, jagged.values_TD)
    return divide_by_length(summed_BD, jagged.lengths_B) if mean else summed_BD


def divide_by_length(summed_BD: Tensor, lengths_B: Tensor) -> Tensor:
    """The mean from a sum; a row of length 0 stays zero."""
    return summed_BD / lengths_B.clamp(min=1).to(summed_BD.dtype)[:, None]
