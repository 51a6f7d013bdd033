"""The learning rates of tables and dense weights as a function of the step alone."""

import math
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from sharded_emb.component import Component


class Schedule(Component):
    """The slot `schedule`: a factor on every learning rate."""

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by in this step; the first step is 1."""
        raise NotImplementedError


class Warmup(Schedule):
    """Linear warm-up, then a decay.

    decay: "linear" and "cosine" (Loshchilov and Hutter, "SGDR", ICLR 2017) reach final_factor at decay_steps and stay
    there; "inverse_sqrt" falls with the square root of the step (Vaswani et al., NeurIPS 2017); "step" multiplies by
    gamma after every decay_steps, of which the first is the one that ends the warm-up, or the run's first.
    """

    warmup_steps: NonNegativeInt = 0
    decay: Literal["none", "linear", "cosine", "inverse_sqrt", "step"] = "none"
    decay_steps: PositiveInt | None = None
    final_factor: float = Field(default=0.0, ge=0, le=1)
    gamma: float = Field(default=0.1, gt=0, le=1)

    def factor(self, step: int) -> float:
        """1 at the end of the warm-up."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.decay == "inverse_sqrt":
            return math.sqrt(max(1, self.warmup_steps) / step)
        if self.decay == "none" or self.decay_steps is None:
            return 1.0
        if self.decay == "step":
            return self.gamma ** (max(0, step - max(1, self.warmup_steps)) // self.decay_steps)
        done = min(1.0, (step - self.warmup_steps) / max(1, self.decay_steps - self.warmup_steps))
        left = (1 + math.cos(math.pi * done)) / 2 if self.decay == "cosine" else 1 - done
        return self.final_factor + (1 - self.final_factor) * left
