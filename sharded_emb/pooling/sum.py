"""The sum of the vectors, as `torch.nn.EmbeddingBag(mode="sum")`."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from sharded_emb.batch import Jagged
from sharded_emb.layers.jagged import sums
from sharded_emb.pooling.base import Pool, Pooling


class Sum(Pooling):
    """What the kernel itself computes."""

    from_sum: ClassVar[bool] = True

    def finish(self, summed_BD: Tensor, lengths_B: Tensor) -> Tensor:  # noqa: ARG002
        """As it is."""
        return summed_BD

    def build(self, dim: int, max_length: int | None) -> Pool:  # noqa: ARG002
        """For a table that another feature reads as a sequence."""
        return FromSum(self)


class FromSum(Pool):
    """Sums, then finishes."""

    def __init__(self, config: Pooling) -> None:
        super().__init__()
        self.config = config

    def forward(self, events: Jagged, pooled: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """See `Pool`."""
        return self.config.finish(sums(events, events.values_TD), events.lengths_B)
