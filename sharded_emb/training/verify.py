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
# Adam moves a weight by its rate however small the gradient is, and a gradient of zero that was rounded has a sign
DENSE_TOLERANCE = 1e-3


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


def without_dropout(model: nn.Module) -> None:
    """Its draws belong to ranks and not to samples, so both sides go without."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


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


def tolerances(of_tables: Mapping[str, float], of_all: Sequence[str], chosen: float | None) -> dict[str, float]:
    """What is taken of each table, "dense" weights and "losses": what rounds in one table reaches the others, too.

    of_all: the dtypes of what all tables go through. chosen: in place of all.
    """
    widest = max(*of_tables.values(), *(TOLERANCES[dtype] for dtype in of_all))
    found = {**dict.fromkeys(of_tables, widest), "dense": max(DENSE_TOLERANCE, widest), "losses": widest}
    return found if chosen is None else dict.fromkeys(found, chosen)


def differences(sharded: Learner, reference: Learner | None, tolerance: dict[str, float]) -> list[Difference]:
    """Of each table and of the dense weights, on every rank. reference: on the first rank.

    tolerance: by table, and "dense" for the dense weights.
    """
    found = []
    place = sharded.sharded.place
    for name in sharded.sharded.embeddings.tables:
        whole = sharded.sharded.whole_table(name)  # of all ranks, one table at a time
        found.append((name, _largest([whole], [] if reference is None else [reference.sharded.whole_table(name)])))
    weights = [weight.detach().cpu() for weight in sharded.sharded.dense_parameters()]
    others = [] if reference is None else [weight.detach().cpu() for weight in reference.sharded.dense_parameters()]
    found.append(("dense", _largest(weights, others)))
    return from_first_rank(lambda: [Difference(what, far, tolerance[what]) for what, far in found], place)


def loss_difference(losses: Sequence[float], others: Sequence[float]) -> float:
    """The largest of a step; of losses above 1, relative to them. Infinite where one is no number."""
    far = [abs(one - other) / max(1.0, abs(other)) for one, other in zip(losses, others, strict=True)]
    return max(math.inf if math.isnan(each) else each for each in far)


def _largest(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    far = [((a - b).abs() / b.abs().clamp_(min=1)).max() for a, b in zip(some, others, strict=False) if a.numel()]
    return float(torch.stack([*far, torch.zeros(())]).nan_to_num(nan=torch.inf).max())
