"""Whether a sharded run trains to the numbers of an unsharded one: both, from the same weights, on the same batches.

The unsharded side is one process with whole tables, torch's own lookups and updates by touched row, and nothing of
TorchRec or FBGEMM.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sharded_emb.batch import Batch
from sharded_emb.data.collate import Collate
from sharded_emb.data.prefetch import NONE
from sharded_emb.data.source import Share, Source
from sharded_emb.distributed.agree import all_sums, from_first_rank, raise_together
from sharded_emb.distributed.process_group import Place
from sharded_emb.tables import Table
from sharded_emb.training.feed import Feed
from sharded_emb.training.following import with_following
from sharded_emb.training.step import Learner

# what rounding in each of some 20 steps came to, of rows that a step moves by half a unit, and as much again
TOLERANCES = {"fp32": 1e-5, "tf32": 1e-2, "fp16": 1e-2, "bf16": 8e-2, "fp8": 8e-2, "int8": 8e-2}
# what 20 steps of Adam made of gradients of mere rounding, and three times as much again
OF_RATE = 0.01
# Adam moves a weight by its rate however small the gradient is, and a gradient of zero that was rounded has a sign:
# biases of the keys of attention have no other. So it is a part of what dense weights have moved, too
DENSE_TOLERANCE, OF_DENSE = 1e-3, 0.5


@dataclass(frozen=True)
class Difference:
    """Between both sides: of a table, of the dense weights, or of the losses of all steps, relative to numbers that are
    above 1. tolerance: what is taken.
    """

    what: str
    largest: float
    tolerance: float

    @property
    def passes(self) -> bool:
        """Not so for what is no number."""
        return self.largest <= self.tolerance


def alone(place: Place) -> Place:
    """The same process in a world of its own."""
    return replace(place, rank=0, world_size=1, local_rank=0, local_world_size=1, control=None)


def replicated(tables: Sequence[Table]) -> list[Table]:
    """The same tables, whole in one process."""
    return [
        replace(t, sharding="data_parallel", update="dense" if t.update == "dense" else "sparse", output_dtype="fp32")
        for t in tables
    ]


def without_dropout(model: nn.Module) -> bool:
    """Its draws belong to ranks and not to samples, so both sides go without. Returns whether there was any."""
    found = False
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            found |= module.p > 0
            module.p = 0.0
    return found


def train(learner: Learner, source: Source, collate: Collate, steps: int) -> list[float]:
    """The losses of the global batches of so many steps. Raises InputError on every rank for ids of any."""
    losses = []
    every = with_following(_batches(learner, source, collate, steps), lambda: learner.ids_ahead)
    for number, (pieces, after) in enumerate(every, start=1):
        place = learner.sharded.place
        (weight,) = all_sums([sum(batch.loss_weight for batch in pieces)], place)
        losses.append(learner.step(pieces, weight or 1.0, number, after[0] if after else None))
    return losses


def _batches(learner: Learner, source: Source, collate: Collate, steps: int) -> Generator[list[Batch]]:
    place, number, epoch = learner.sharded.place, 0, 0
    share = Share(place.rank, place.world_size, learner.stepping.accumulation)
    while number < steps:
        with closing(Feed(source, collate, share, place.device, NONE).epoch(epoch, 0, number + 1)) as every:
            for fed in every:
                number += 1
                raise_together(fed.error, place)
                yield fed.pieces
                if number == steps:
                    return
        epoch += 1


def tolerance_of(table: Table) -> float:
    """What is taken of a table, by its own dtypes and its optimizer."""
    rounding = max(TOLERANCES[dtype] for dtype in (table.dtype, table.state_dtype, table.output_dtype))
    return max(rounding, OF_RATE * table.optimizer.lr) if table.optimizer.scale_free else rounding


@dataclass(frozen=True)
class Tolerances:
    """own: of each table. of_all: the dtypes of what all tables go through. chosen: in place of all."""

    own: Mapping[str, float]
    of_all: Sequence[str] = ("fp32",)
    chosen: float | None = None

    @property
    def between(self) -> float:
        """Of what all tables go through."""
        return max(TOLERANCES[dtype] for dtype in self.of_all)

    @property
    def widest(self) -> float:
        """Of anything, which is that of losses."""
        return max(self.between, *self.own.values()) if self.chosen is None else self.chosen

    def of(self, what: str, moved: float) -> float:
        """Of a table or the "dense" weights. moved: the most that a number of it has; what rounds in other tables comes
        to a part of that.
        """
        own = self.own[what] if what in self.own else max(DENSE_TOLERANCE, OF_DENSE * moved)
        return max(own, self.between, self.widest * moved) if self.chosen is None else self.chosen


class Start:
    """What the unsharded side begins with."""

    def __init__(self, reference: Learner) -> None:
        self._values = {what: [part.clone() for part in _values(reference, what)] for what in _whats(reference)}

    def moved(self, what: str, reference: Learner) -> float:
        """The most that a number of it has moved since."""
        return _largest(self._values[what], _values(reference, what))


def differences(
    sharded: Learner, reference: Learner | None, start: Start | None, taken: Tolerances
) -> list[Difference]:
    """Of each table and of the dense weights, on every rank. reference, start: on the first rank."""
    found = []
    for what in _whats(sharded):
        ours = _values(sharded, what)  # of all ranks, one table at a time
        found.append((what, 0.0 if reference is None else _largest(ours, _values(reference, what))))

    def judged() -> list[Difference]:
        assert reference is not None
        assert start is not None
        return [Difference(what, far, taken.of(what, start.moved(what, reference))) for what, far in found]

    return from_first_rank(judged, sharded.sharded.place)


def _whats(learner: Learner) -> list[str]:
    return [*learner.sharded.embeddings.tables, "dense"]


def _values(learner: Learner, what: str) -> list[Tensor]:
    if what == "dense":
        return [weight.detach().cpu() for weight in learner.sharded.dense_parameters()]
    return [learner.sharded.whole_table(what)]


def loss_difference(losses: Sequence[float], others: Sequence[float]) -> float:
    """The largest of a step; of losses above 1, relative to them. Infinite where one is no number."""
    far = [abs(one - other) / max(1.0, abs(other)) for one, other in zip(losses, others, strict=True)]
    return max(math.inf if math.isnan(each) else each for each in far)


def _largest(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    far = [((a - b).abs() / b.abs().clamp_(min=1)).max() for a, b in zip(some, others, strict=False) if a.numel()]
    return float(torch.stack([*far, torch.zeros(())]).nan_to_num(nan=torch.inf).max())
