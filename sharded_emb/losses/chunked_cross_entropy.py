"""Exact cross-entropy over many classes in chunks of events: the matrix of events x classes is never there.

The gradients are made in the forward pass, while a chunk's scores are at hand, and scaled in the backward pass: one
exponential and three products of matrices an entry, as without chunks. All chunks share the memory of the first one's
scores, which in float32 become probabilities and slopes in place.

S  events    K  classes    D  dim    C  events of a chunk
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_SCORES_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 27}  # on a CPU: what is read again and again stays in the cache


@dataclass(frozen=True)
class Target:
    """at_S: the class of each event. weight_S: of each event in the sum. label_smoothing: as torch has it."""

    at_S: Tensor
    weight_S: Tensor
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Chunks:
    """dtype: of scores and of the products of matrices. events: of a chunk; None for what the device does best."""

    dtype: torch.dtype = torch.float32
    events: int | None = None

    def events_at_once(self, classes_KD: Tensor) -> int:
        """Of a chunk."""
        scores = _SCORES_AT_ONCE.get(classes_KD.device.type, _SCORES_AT_ONCE["cuda"])
        return self.events or max(16, scores // max(1, len(classes_KD)))


def chunked_cross_entropy(states_SD: Tensor, classes_KD: Tensor, target: Target, chunks: Chunks) -> Tensor:
    """The weighted sum of `F.cross_entropy(states_SD @ classes_KD.T, at_S)`."""
    found: Tensor = _ChunkedCrossEntropy.apply(states_SD, classes_KD, target, chunks)
    return found


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states_SD: Tensor, classes_KD: Tensor, target: Target, chunks: Chunks) -> Tensor:
        dtype, at_once = chunks.dtype, chunks.events_at_once(classes_KD)
        wanted = any(ctx.needs_input_grad[:2])
        states, classes = states_SD.to(dtype), classes_KD.to(dtype)
        weighted = (states_SD * target.weight_S[:, None]).to(dtype)
        gradients = (torch.zeros_like(states_SD), torch.zeros_like(classes_KD)) if wanted else None
        total = states_SD.new_zeros(())
        shared_CK = states.new_empty(min(at_once, len(states)), len(classes))
        for start in range(0, len(states), at_once):
            part = slice(start, start + at_once)
            chunk = Target(target.at_S[part], target.weight_S[part], target.label_smoothing)
            scores_CK = torch.mm(states[part], classes.T, out=shared_CK[: len(chunk.at_S)])
            loss, slope_CK = _loss_and_slope(scores_CK.float(), chunk)
            total += loss
            if gradients is not None:
                slope_CK = slope_CK.to(dtype)
                _add_product(gradients[0][part], slope_CK, classes)
                _add_product(gradients[1], slope_CK.T, weighted[part])
        if gradients is not None:
            gradients[0].mul_(target.weight_S[:, None])
            ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        states_SD, classes_KD = ctx.saved_tensors
        return states_SD * upstream, classes_KD * upstream, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """In place, and in the dtype of the total."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _loss_and_slope(scores_CK: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """The weighted sum of a chunk, and the derivative of each event's own loss by its scores, in their place."""
    smoothing, at_C1 = target.label_smoothing, target.at_S[:, None]
    own_C = scores_CK.gather(1, at_C1)[:, 0]
    mean_C = scores_CK.mean(1) if smoothing else own_C
    highest_C = scores_CK.amax(1)
    slope_CK = torch.softmax(scores_CK, 1, out=scores_CK)
    # the highest score has the probability 1 / sum of exponentials
    loss_C = highest_C - slope_CK.amax(1).log() - (1 - smoothing) * own_C - smoothing * mean_C
    if smoothing:
        slope_CK.sub_(smoothing / scores_CK.shape[1])
    slope_CK.scatter_add_(1, at_C1, torch.full_like(own_C, smoothing - 1)[:, None])
    return loss_C @ target.weight_S, slope_CK
