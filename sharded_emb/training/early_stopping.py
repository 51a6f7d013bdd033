"""Stops a run when a validation metric no longer improves."""

from typing import Literal

from pydantic import PositiveInt

from sharded_emb.component import Frozen
from sharded_emb.errors import InputError

_LOWER_IS_BETTER = ("log_loss", "normalized_entropy", "mean_squared_error")


class EarlyStoppingConfig(Frozen):
    """The key `early_stopping`; null never stops early, and keeps the last weights.

    metric: of the validation split. best: which value is; null is the metric's own direction. patience: evaluations
    without a new best one before the run ends.
    """

    metric: str = "ndcg@10"
    best: Literal["highest", "lowest"] | None = None
    patience: PositiveInt = 5

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is."""
        best = self.best or ("lowest" if self.metric in _LOWER_IS_BETTER else "highest")
        return 1 if best == "highest" else -1


_ROUNDING = 1e-9  # of sums over rows, which other numbers of ranks add up otherwise


class EarlyStopping:
    """Remembers the best value and how long ago it was."""

    def __init__(self, config: EarlyStoppingConfig | None) -> None:
        self.config = config
        self.best: float | None = None
        self.since_best = 0

    def improved(self, metrics: dict[str, float]) -> bool:
        """Whether these validation metrics are the best so far, as the first number is; not-a-number never is.

        Raises InputError where there are none, on all ranks alike.
        """
        if self.config is None:
            return False
        if not metrics:
            raise InputError(
                "early_stopping: want rows of two events or more in the valid split, to predict the last, got "
                "none; set early_stopping=null"
            )
        value = metrics[self.config.metric] * self.config.sign
        if value > (float("-inf") if self.best is None else self.best + _ROUNDING * max(1.0, abs(self.best))):
            self.best, self.since_best = value, 0
            return True
        self.since_best += 1
        return False

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self.config is not None and self.since_best >= self.config.patience
