"""Sums over ranks that are to be known soon, of few numbers on the host.

gloo's all-reduce passes numbers round a ring: 2 (W - 1) waits for W ranks, each of which wakes a thread. By pairs it is
as many rounds as W has bits: rank r adds what rank r ^ 1 has, then r ^ 2, r ^ 4 ... (recursive doubling; Thakur,
Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", 2005). Both of a pair add the
same two numbers, so that all ranks have the same bits. A rank sends all numbers in each round, where a ring moves fewer
bytes.
"""

import torch
import torch.distributed as dist
from torch import Tensor

_FEWEST_RANKS = 3
_MOST_NUMBERS = 1 << 18


def summed(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum over the ranks of a group, None for all ranks, on every one of them. Uses values up."""
    ranks = dist.get_world_size(group)
    if ranks < _FEWEST_RANKS or values.device.type != "cpu" or values.numel() > _MOST_NUMBERS:
        dist.all_reduce(values, group=group)
        return values
    return _by_pairs(values, dist.get_rank(group), ranks, group)


def _by_pairs(values: Tensor, rank: int, ranks: int, group: dist.ProcessGroup | None) -> Tensor:
    paired = 1 << (ranks.bit_length() - 1)  # the largest power of two that is not above
    if rank >= paired:  # the rest have a rank each that adds for them
        dist.send(values, group=group, group_dst=rank - paired)
        return _received(values, rank - paired, group)
    if rank + paired < ranks:
        values = values + _received(values, rank + paired, group)
    distance = 1
    while distance < paired:
        on_the_way = dist.isend(values, group=group, group_dst=rank ^ distance)
        other = _received(values, rank ^ distance, group)
        assert on_the_way is not None  # of a rank in the group
        on_the_way.wait()
        values = values + other
        distance *= 2
    if rank + paired < ranks:
        dist.send(values, group=group, group_dst=rank + paired)
    return values


def _received(like: Tensor, rank: int, group: dist.ProcessGroup | None) -> Tensor:
    found = torch.empty_like(like)
    dist.recv(found, group=group, group_src=rank)
    return found
