"""Negatives that the whole global batch shares: one lookup and one matrix product a step.

S  events with a successor    K  candidates    N  rows of the item table    E  events of the global batch
"""

import math
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from sharded_emb.initializers import stream_key
from sharded_emb.losses.base import NOTHING_SEEN, NextItemLossConfig, Seen
from sharded_emb.models.base import NextItem
from sharded_emb.vocabulary_rows import FIRST_ROW


class SampledConfig(NextItemLossConfig):
    """negatives: how many are drawn a step, with replacement. drawn: all items alike ("uniform"), as often as they are
    events of the train split ("popularity"), or from the events that the global batch predicts ("in_batch").
    """

    negatives: PositiveInt = 512
    drawn: Literal["uniform", "popularity", "in_batch"] = "uniform"

    @property
    def asks_for(self) -> frozenset[str]:
        """What draws by, and the frequencies for their correction."""
        return {
            "uniform": frozenset[str](),
            "popularity": frozenset({"counts_N"}),
            "in_batch": frozenset({"counts_N", "batch_E"}),
        }[self.drawn]

    def candidates(self, rows: int, seed: int, step: int, seen: Seen = NOTHING_SEEN) -> Tensor:
        """A function of (seed, step), and of the global batch where they come from it."""
        draw = torch.Generator().manual_seed(stream_key(seed, f"negatives.{step}") % 2**63)
        if self.drawn == "popularity":
            assert seen.counts_N is not None
            ends_N = seen.counts_N[FIRST_ROW:].cumsum(0)
            uniform_K = torch.rand(self.negatives, generator=draw, dtype=torch.float64) * ends_N[-1]
            return torch.searchsorted(ends_N, uniform_K, right=True).clamp(max=len(ends_N) - 1) + FIRST_ROW
        if self.drawn == "in_batch" and seen.batch_E is not None and seen.batch_E.numel():
            return seen.batch_E[torch.randint(0, seen.batch_E.numel(), (self.negatives,), generator=draw)]
        # also for a batch of rows too short to predict anything
        return torch.randint(FIRST_ROW, rows, (self.negatives,), generator=draw)

    def candidate_count(self, rows: int) -> int:  # noqa: ARG002
        """As many as are asked for."""
        return self.negatives

    def log_expected(self, rows: int, seen: Seen) -> Tensor:
        """The log of how often each row (N) is expected among the negatives of a step, or one number for all."""
        if self.drawn == "uniform":
            return torch.tensor(math.log(self.negatives / (rows - FIRST_ROW)), dtype=torch.float64)
        assert seen.counts_N is not None
        counts_N = seen.counts_N.clamp(min=1)  # what is in no train event is never drawn, but a logarithm is taken
        counts_N[:FIRST_ROW] = 1
        return torch.log(counts_N * (self.negatives / seen.counts_N[FIRST_ROW:].sum()))


def scores(output: NextItem) -> tuple[Tensor, Tensor, Tensor]:
    """Of what followed (S), of the negatives (S, K), and which negatives happen to be what followed (S, K)."""
    positive_S = (output.states_SD * output.positives_SD).sum(-1)
    negative_SK = output.states_SD @ output.candidates_KD.T
    return positive_S, negative_SK, output.positive_ids_S[:, None] == output.candidate_ids_K[None, :]


def known(output: NextItem) -> Tensor:
    """Whether what followed is an item, and neither padding nor out of vocabulary: bool (S)."""
    return output.positive_ids_S >= FIRST_ROW
