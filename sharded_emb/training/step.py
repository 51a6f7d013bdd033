"""One training step on a global batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim import Optimizer

from sharded_emb.batch import Batch
from sharded_emb.distributed.agree import all_sums
from sharded_emb.distributed.shard import Sharded, set_learning_rates
from sharded_emb.errors import RunFailedError
from sharded_emb.optim.schedule import Schedule


@dataclass(frozen=True)
class Stepping:
    """How a step is made of a global batch.

    accumulation: pieces that the batch is computed in, one after the other, which bounds memory and changes no number.
    clip_norm: the gradients of tables and dense weights are scaled down, together, to this 2-norm; None for no limit.
    """

    accumulation: int = 1
    clip_norm: float | None = None


ONE_PIECE = Stepping()


class NotFiniteLossError(RunFailedError):
    """The loss of a global batch is no number. Raised on every rank, before the step has moved a weight.

    pieces: this rank's part of the batch.
    """

    def __init__(self, loss: float, number: int, pieces: Sequence[Batch]) -> None:
        self.said = f"loss is {loss} at step {number}"
        super().__init__(f"{self.said}; lower the learning rates")
        self.pieces = pieces

    def with_batch(self, path: Path) -> "NotFiniteLossError":
        """The same, which says where the batch has been written."""
        what = "look at it, or lower the learning rates"
        self.args = (f"{self.said}; no weight has been updated; the batch is in {path}; {what}",)
        return self


def _nobody(phase: str) -> None:
    """Is told what a step is at."""


@dataclass(frozen=True)
class Learner:
    """What a step moves, and how. tell: is told what it is at. ids_ahead: while one batch is computed, the ids of the
    next one travel to the ranks that own their rows.
    """

    sharded: Sharded
    dense: Optimizer
    schedule: Schedule
    stepping: Stepping = ONE_PIECE
    tell: Callable[[str], None] = _nobody
    ids_ahead: bool = False

    def step(self, pieces: Sequence[Batch], global_weight: float, number: int, following: Batch | None = None) -> float:
        """Moves all weights by the mean over the global batch; returns that mean.

        pieces: of this rank's part. global_weight: what the mean divides by. number: of the step, from 1. following:
        the first piece of the next step, on all ranks or on none. Raises NotFiniteLossError on every rank. To know, all
        ranks read one number back before the last backward pass, and sum it on the host: kernels of that pass are not
        launched ahead of the forward pass. Ids that go ahead use the same wait: their numbers are exchanged before it,
        and they themselves beside the backward pass.
        """
        self.tell("forward")
        set_learning_rates(self.sharded, self.dense, self.schedule.factor(number))
        place = self.sharded.place
        total, mean = torch.zeros((), device=place.device), 0.0
        # rows of managed tables go on from the steps of the run that this one may have begun with
        batches = self.sharded.assign_rows(pieces, self.sharded.updates.steps + 1)
        for left, batch, after in zip(reversed(range(len(batches))), batches, [*batches[1:], following], strict=True):
            loss_sum = self.sharded.parallel(batch)
            if self.ids_ahead and after is not None:
                self.sharded.embeddings.begin(after)
            total += loss_sum.detach()
            if not left:  # pieces before the last one have moved nothing: no kernel updates tables of several
                mean = all_sums([total.item()], place)[0] / global_weight
                if not math.isfinite(mean):
                    raise NotFiniteLossError(mean, number, pieces)
                self.tell("backward")
            if self.ids_ahead:
                self.sharded.embeddings.send()
            # gradients of tables and dense weights are divided by the world size; the mean is over all ranks' rows
            (loss_sum * (place.world_size / global_weight)).backward()
        self.sharded.average()
        self.tell("update")
        weights = [weight for group in self.dense.param_groups for weight in group["params"]]
        self.sharded.updates.step([w.grad for w in weights if w.grad is not None], self.stepping.clip_norm)
        self.dense.step()
        self.dense.zero_grad()
        return mean
