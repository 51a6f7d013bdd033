"""The slot `features.NAME.pooling`.

B  rows    T  events over all rows    D  dim
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from sharded_emb.batch import Jagged
from sharded_emb.component import Component


class Pooling(Component):
    """What becomes of the vectors of a bag.

    keeps_sequence: nothing, they stay a sequence. from_sum: the pooled vector is a function of their sum and number
    alone, so that the rank that owns the table can sum them before anything travels; all others are pooled after the
    lookup. types: by key of this config that names a column of the dataset, the types that it may have; list columns
    are aligned with the ids of the feature, others have one value a row.
    """

    named: ClassVar[dict[str, str]] = {
        "none": "sharded_emb.pooling.none.NoPooling",
        "sum": "sharded_emb.pooling.sum.Sum",
        "mean": "sharded_emb.pooling.mean.Mean",
        "sqrtn": "sharded_emb.pooling.sqrtn.SqrtN",
        "max": "sharded_emb.pooling.max.Max",
        "last": "sharded_emb.pooling.last.Last",
        "weighted": "sharded_emb.pooling.weighted.Weighted",
        "position_weighted": "sharded_emb.pooling.position_weighted.PositionWeighted",
        "time_decay": "sharded_emb.pooling.time_decay.TimeDecay",
        "attention": "sharded_emb.pooling.attention.Attention",
    }
    keeps_sequence: ClassVar[bool] = False
    from_sum: ClassVar[bool] = False
    types: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __str__(self) -> str:
        """As a user types it."""
        target = f"{type(self).__module__}.{type(self).__qualname__}"
        return next((name for name, each in self.named.items() if each == target), target)

    def problems(self, name: str, features: Mapping[str, Any], tables: Mapping[str, Any]) -> list[str]:  # noqa: ARG002
        """What does not fit the features and tables of the config, each line beginning with the key.

        name: of the feature that is pooled. features, tables: `FeatureConfig` and `TableConfig` by name.
        """
        return []

    def columns(self) -> dict[str, str]:
        """Columns of the dataset, by the key of this config that names them."""
        return {key: getattr(self, key) for key in self.types if getattr(self, key) is not None}

    def aligned(self, key: str) -> bool:
        """Whether the column that this key names has one value an id, and not one a row."""
        return any(each.startswith("list") for each in self.types[key])

    def numbers(self, read: Mapping[str, npt.NDArray[Any]], lengths_B: npt.NDArray[np.int64]) -> Any:  # noqa: ARG002
        """One float32 an event (T) from the columns, by key, on the host; None where the pooling needs none."""
        return None

    def finish(self, summed_BD: Tensor, lengths_B: Tensor) -> Tensor:
        """The pooled vectors from their sums, where `from_sum`."""
        raise NotImplementedError

    def needs(self) -> tuple[str, ...]:
        """Other features whose pooled vectors the module asks for."""
        return ()

    def build(self, dim: int, max_length: int | None) -> "Pool":
        """The module for features that are pooled after the lookup."""
        raise NotImplementedError


class Pool(nn.Module):
    """Pools sequences. Its parameters are dense weights: trained, saved and equal on every rank as those of a model."""

    def forward(self, events: Jagged, pooled: Mapping[str, Tensor]) -> Tensor:
        """The vectors (B, D) of the rows; zeros for an empty one. pooled: vectors (B, D) of the features it needs."""
        raise NotImplementedError
