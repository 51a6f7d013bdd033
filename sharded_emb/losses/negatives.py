"""Negatives that the whole global batch shares: one lookup and one matrix product a step.

S  events with a successor    K  candidates    N  rows of the item table    E  events of the global batch
H  own negatives of an event    D  dim
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from sharded_emb.initializers import stream_key
from sharded_emb.losses.base import NOTHING_SEEN, NextItemLossConfig, Seen
from sharded_emb.losses.hard import HardConfig
from sharded_emb.models.base import NextItem
from sharded_emb.vocabulary_rows import FIRST_ROW


class SampledConfig(NextItemLossConfig):
    """negatives: how many are drawn a step, with replacement. drawn: all items alike ("uniform"), as often as they are
    events of the train split ("popularity"), or from the events that the global batch predicts ("in_batch"). hard: a
    file of more, for each event its own.
    """

    negatives: PositiveInt = 512
    drawn: Literal["uniform", "popularity", "in_batch"] = "uniform"
    hard: HardConfig | None = None

    @property
    def own_per_event(self) -> int:
        """Those from a file."""
        return 0 if self.hard is None else self.hard.per_event

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
        return torch.log(counts_N * (self.negatives / seen.counts_N[FIRST_ROW:].sum()))


@dataclass(frozen=True)
class Scores:
    """positive_S: of what followed. negative_SK: of negatives, first the shared ones, then those of the event alone.
    left_out_SK: which of them are none: what followed itself, and places that its own negatives leave empty.
    """

    positive_S: Tensor
    negative_SK: Tensor
    left_out_SK: Tensor


def scores(output: NextItem, own_per_event: int = 0) -> Scores:
    """Of what followed and of all negatives. own_per_event: of the event alone, the last of the candidates."""
    positive_S = (output.states_SD * output.positives_SD).sum(-1)
    at_S1 = output.positive_ids_S[:, None]
    shared = len(output.candidate_ids_K) - len(positive_S) * own_per_event
    negative_SK = output.states_SD @ output.candidates_KD[:shared].T
    left_out_SK = at_S1 == output.candidate_ids_K[None, :shared]
    if not own_per_event:
        return Scores(positive_S, negative_SK, left_out_SK)
    own_ids_SH = output.candidate_ids_K[shared:].reshape(-1, own_per_event)
    own_SHD = output.candidates_KD[shared:].reshape(*own_ids_SH.shape, output.states_SD.shape[1])
    own_SH = (own_SHD * output.states_SD[:, None]).sum(-1)
    missing_SH = (at_S1 == own_ids_SH) | (own_ids_SH < FIRST_ROW)
    return Scores(positive_S, torch.cat([negative_SK, own_SH], 1), torch.cat([left_out_SK, missing_SH], 1))


def known(output: NextItem) -> Tensor:
    """Whether what followed is an item, and neither padding nor out of vocabulary: bool (S)."""
    return output.positive_ids_S >= FIRST_ROW
