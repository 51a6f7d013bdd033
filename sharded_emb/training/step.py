"""One training step on a global batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from sharded_emb.batch import Batch
from sharded_emb.distributed.shard import Sharded, set_learning_rates
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


@dataclass(frozen=True)
class Learner:
    """What a step moves, and how."""

    sharded: Sharded
    dense: Optimizer
    schedule: Schedule
    stepping: Stepping = ONE_PIECE

    def step(self, pieces: Sequence[Batch], global_weight: float, number: int) -> Tensor:
        """Moves all weights by the mean over the global batch; returns this rank's sum of losses.

        pieces: of this rank's part. global_weight: what the mean divides by. number: of the step, from 1.
        """
        set_learning_rates(self.sharded, self.dense, self.schedule.factor(number))
        place = self.sharded.place
        total = torch.zeros((), device=place.device)
        for batch in self.sharded.assign_rows(pieces, number):
            loss_sum = self.sharded.parallel(batch)
            # gradients of tables and dense weights are divided by the world size; the mean is over all ranks' rows
            (loss_sum * (place.world_size / global_weight)).backward()
            total += loss_sum.detach()
        weights = [weight for group in self.dense.param_groups for weight in group["params"]]
        self.sharded.updates.step([w.grad for w in weights if w.grad is not None], self.stepping.clip_norm)
        self.dense.step()
        self.dense.zero_grad()
        return total
