"""Makes the slowest rank faster, one table at a time.

T  tables    W  ranks
"""

from collections.abc import Sequence

import numpy as np

from sharded_emb.planning.loads import Limits, Loads
from sharded_emb.planning.options import Ints, Option

Taken = list[tuple[Option, Ints]]

_JUST_BELOW = 1 - 1e-9
_MOST_TABLES = 40  # of the slowest rank that are tried, largest first
_MOST_RANKS = 8  # the fastest ones, whose tables are tried for an exchange


def improve(taken: Taken, options: Sequence[Sequence[Option]], loads: Loads, cap: float) -> None:
    """Moves or exchanges tables of the slowest rank in place, for as long as it becomes faster by that."""
    improving = _Improving(taken, options, loads)
    for _ in range(2 * len(taken) + 2 * len(loads.seconds)):
        slowest = int(loads.seconds.argmax())
        limit = float(loads.seconds[slowest])
        on_it = improving.tables_of(slowest)[:_MOST_TABLES]
        limits = Limits(cap, limit * _JUST_BELOW, max(limit, 1e-12))
        if not improving.move_one(on_it, limits) and not improving.exchange_one(on_it, limits):
            return


class _Improving:
    """seconds_TW: what each table takes of each rank."""

    def __init__(self, taken: Taken, options: Sequence[Sequence[Option]], loads: Loads) -> None:
        self.taken, self.options, self.loads = taken, options, loads
        self.seconds_TW = np.zeros((len(taken), len(loads.seconds)))
        for index, (option, ranks) in enumerate(taken):
            self.seconds_TW[index, ranks] = option.seconds

    def tables_of(self, rank: int) -> Ints:
        """Those with a shard on the rank, the slowest first."""
        seconds_T = self.seconds_TW[:, rank]
        return np.argsort(-seconds_T, kind="stable")[: np.count_nonzero(seconds_T)]

    def move_one(self, on_it: Ints, limits: Limits) -> bool:
        """Puts one of these tables elsewhere, or cuts it otherwise, if it then fits below the limit."""
        for index in map(int, on_it):
            before = self.taken[index]
            self.loads.add(*before, times=-1)
            for option in self.options[index]:  # the one that costs all ranks together the least
                ranks = self.loads.fit(option, limits)
                if ranks is not None:
                    self._put(index, option, ranks)
                    return True
            self.loads.add(*before)
        return False

    def exchange_one(self, on_it: Ints, limits: Limits) -> bool:
        """Exchanges a whole table of the slowest rank for one of a fast rank that takes less."""
        fast = [int(rank) for rank in np.argsort(self.loads.seconds, kind="stable")[:_MOST_RANKS]]
        for index in (int(each) for each in on_it if len(self.taken[each][1]) == 1):
            here = int(self.taken[index][1][0])
            for rank in fast:
                for other in map(int, self.tables_of(rank)):
                    if rank != here and len(self.taken[other][1]) == 1 and self._helps(index, other, limits):
                        self._exchange(index, other)
                        return True
        return False

    def _helps(self, index: int, other: int, limits: Limits) -> bool:
        (option, ranks), (instead, others) = self.taken[index], self.taken[other]
        here, there, loads = int(ranks[0]), int(others[0]), self.loads
        seconds = float(option.seconds[0] - instead.seconds[0])
        size = float(option.bytes[0] - instead.bytes[0])
        fits = loads.bytes[there] + size <= limits.bytes and loads.bytes[here] - size <= limits.bytes
        return seconds > 0 and fits and loads.seconds[there] + seconds < limits.seconds

    def _exchange(self, index: int, other: int) -> None:
        (option, ranks), (instead, others) = self.taken[index], self.taken[other]
        self.loads.add(option, ranks, times=-1)
        self.loads.add(instead, others, times=-1)
        self._put(index, option, others)
        self._put(other, instead, ranks)

    def _put(self, index: int, option: Option, ranks: Ints) -> None:
        self.taken[index] = (option, ranks)
        self.loads.add(option, ranks)
        self.seconds_TW[index] = 0
        self.seconds_TW[index, ranks] = option.seconds
