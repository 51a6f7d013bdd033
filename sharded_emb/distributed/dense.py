"""Gradients of dense weights, averaged over ranks by one exchange a step.

In place of DDP where numbers are to be the same always: DDP lays its buckets out anew after a first step, where sums of
several ranks are added up depends on that, and a run that is resumed has a first step more.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sharded_emb.distributed.pairs import summed
from sharded_emb.distributed.process_group import Place


class DenseAverage:
    """Of these float32 weights, which begin as they are on rank 0."""

    def __init__(self, weights: Sequence[nn.Parameter], place: Place) -> None:
        self._weights, self._place = [weight for weight in weights if weight.requires_grad], place
        if place.world_size > 1 and self._weights:
            first = parameters_to_vector(self._weights).detach()
            dist.broadcast(first, src=0)
            vector_to_parameters(first, self._weights)

    def average(self) -> None:
        """Puts the mean over ranks in place of each gradient; one that no rank has stays None."""
        if self._place.world_size == 1 or not self._weights:
            return
        own = [weight.grad for weight in self._weights]
        present = torch.tensor([float(gradient is not None) for gradient in own])
        sums = torch.cat(
            [
                *((torch.zeros_like(w) if g is None else g).flatten() for w, g in zip(self._weights, own, strict=True)),
                present.to(self._weights[0].device),
            ]
        )
        *means, found = (summed(sums) / self._place.world_size).split([*(w.numel() for w in self._weights), len(own)])
        for weight, mean, anywhere in zip(self._weights, means, found.tolist(), strict=True):
            weight.grad = mean.view_as(weight) if anywhere else None
