"""Groups of ranks that hold all sharded tables each: replicas of the tables, among whose ranks they are cut.

TorchRec's `DMPCollection` means this too, and asserts CUDA. Its replicas update themselves in the backward pass, each
by the gradients of its own samples, and are averaged afterwards: of SGD the numbers of one process, of no optimizer
with a state. Here gradients are exchanged by touched row before any row moves: replicas stay equal to the last bit.
"""

from dataclasses import dataclass

import torch.distributed as dist

from sharded_emb.distributed.process_group import Place


@dataclass(frozen=True)
class Group:
    """Some ranks that exchange: on their device, and small values on the host (control)."""

    ranks: int
    device: dist.ProcessGroup | None
    control: dist.ProcessGroup | None


@dataclass(frozen=True)
class Replicas:
    """Where this rank stands among them.

    count: replicas. first_rank: of the replica of this rank. inside: the ranks of the replica. across: those that hold
    the same shards as this one, one of each replica.
    """

    count: int
    first_rank: int
    inside: Group
    across: Group

    @property
    def speaks(self) -> bool:
        """Whether this rank is of the replica that is written down."""
        return self.first_rank == 0


def everyone(place: Place) -> Group:
    """All ranks."""
    return Group(place.world_size, None, place.control)


def make_replicas(place: Place, count: int) -> Replicas:
    """So many of consecutive ranks. Called by all ranks together."""
    assert place.world_size % count == 0
    size = place.world_size // count
    if count == 1:
        return Replicas(1, 0, everyone(place), Group(1, None, None))
    mine, place_inside = divmod(place.rank, size)
    insides = [[*range(first, first + size)] for first in range(0, place.world_size, size)]
    acrosses = [[*range(at, place.world_size, size)] for at in range(size)]
    return Replicas(
        count=count,
        first_rank=mine * size,
        inside=_groups(insides, place)[mine],
        across=_groups(acrosses, place)[place_inside],
    )


def _groups(sets: list[list[int]], place: Place) -> list[Group]:
    """A group of each of these sets of ranks; torch wants every rank to take part in making each."""
    found = []
    for ranks in sets:
        device = control = dist.new_group(ranks, place.timeout)
        if place.device.type != "cpu":
            control = dist.new_group(ranks, place.timeout, backend="gloo")
        found.append(Group(len(ranks), device, control))
    return found
