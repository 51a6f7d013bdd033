"""The greatest value of each column, as `torch.nn.EmbeddingBag(mode="max")`."""

from collections.abc import Mapping

from torch import Tensor

from sharded_emb.batch import Jagged
from sharded_emb.layers.jagged import row_of_event
from sharded_emb.pooling.base import Pool, Pooling


class Max(Pooling):
    """Ties share the gradient, so that the order of ids does not matter."""

    def build(self, dim: int, max_length: int | None) -> Pool:  # noqa: ARG002
        """The module."""
        return MaxPool()


class MaxPool(Pool):
    """No parameters."""

    def forward(self, events: Jagged, pooled: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """See `Pool`."""
        values_TD = events.values_TD
        rows_TD = row_of_event(events)[:, None].expand_as(values_TD)
        zeros_BD = values_TD.new_zeros(events.lengths_B.numel(), values_TD.shape[1])
        return zeros_BD.scatter_reduce(0, rows_TD, values_TD, "amax", include_self=False)
