"""The vector of the last event of a row: the newest one, as sequences are oldest first."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Jagged
from sharded_emb.pooling.base import Pool, Pooling


class Last(Pooling):
    """No parameters."""

    def build(self, dim: int, max_length: int | None) -> Pool:  # noqa: ARG002
        """The module."""
        return LastPool()


class LastPool(Pool):
    """No parameters."""

    def forward(self, events: Jagged, pooled: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """See `Pool`."""
        # one row of zeros in front, which is what an empty row takes
        padded_TD = F.pad(events.values_TD, (0, 0, 1, 0))
        at_B = (events.lengths_B > 0) * events.offsets_B1[1:]
        return padded_TD[at_B]
