"""The slow twin of managed collision: who has which row, in dicts and sorted lists, one bucket after the other."""

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from sharded_emb.ids.managed_collision import ManagedCollision

FREE = 2**63 - 1


def bucket_of(value: int, buckets: int) -> int:
    """The finalizer of SplitMix64, its sign bit cleared, modulo the number of buckets."""
    value %= 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> shift)) * factor % 2**64
    return ((value ^ (value >> 31)) % 2**63) % buckets


@dataclass
class Entry:
    """An id with a row, or a free row."""

    id: int
    row: int
    count: int = 0
    last: int = 0


@dataclass
class PlainBucket:
    """Entries in the order of their ids, free ones last, the very last of them never given away."""

    config: ManagedCollision
    entries: list[Entry]
    counts: Counter[int] = field(default_factory=Counter)
    last: dict[int, int] = field(default_factory=dict)

    def meet(self, ids: Iterable[int], step: int) -> None:
        for each in ids:
            if each != FREE:
                self.counts[each] += 1
                self.last[each] = step

    def change_hands(self, step: int) -> list[int]:
        if not self.counts:
            return []
        by_id = {entry.id: entry for entry in self.entries if entry.id != FREE}
        waiting = sorted(self.counts, key=lambda each: (-self.counts[each], each))
        for each in waiting:
            if each in by_id:
                by_id[each].count += self.counts[each]
                by_id[each].last = self.last[each]
        new = [Entry(each, -1, self.counts[each], self.last[each]) for each in waiting if each not in by_id]
        nobody = self.entries[-1]
        nobody.count, nobody.last = FREE, step
        every = [*self.entries, *new]
        size = len(self.entries)
        order = sorted(range(len(every)), key=lambda at: -self._score(every[at], step))  # stable
        given = [every[at] for at in order[:size] if at >= size]
        taken = [every[at] for at in order[size:] if at < size]
        for old, entry in zip(taken, given, strict=True):
            old.id, old.count, old.last = entry.id, entry.count, entry.last
        changed = [entry.row for entry in taken]
        self.entries.sort(key=lambda entry: entry.id)  # stable
        self.counts, self.last = Counter(), {}
        return changed

    def _score(self, entry: Entry, step: int) -> float:
        distance = float(step - entry.last + 1) ** self.config.decay_exponent
        if self.config.eviction == "lfu":
            return entry.count
        return -distance if self.config.eviction == "lru" else entry.count / distance

    def row(self, each: int) -> int:
        found = [entry.row for entry in self.entries if entry.id == each != FREE]
        return found[0] if found else max(entry.row for entry in self.entries)


class PlainBuckets:
    """All buckets of a table of so many rows."""

    def __init__(self, config: ManagedCollision, rows: int) -> None:
        self.config = config
        bounds = [2 + (rows - 2) * bucket // config.buckets for bucket in range(config.buckets + 1)]
        self.buckets = [
            PlainBucket(config, [Entry(FREE, row) for row in range(start, end)])
            for start, end in itertools.pairwise(bounds)
        ]

    def of(self, each: int) -> PlainBucket:
        return self.buckets[bucket_of(each, len(self.buckets))]

    def step(self, ids: list[int], step: int) -> list[int]:
        """Meets the ids of a step; the rows that changed hands."""
        for number, bucket in enumerate(self.buckets):
            bucket.meet((each for each in ids if bucket_of(each, len(self.buckets)) == number), step)
        if (step - 1) % self.config.every_steps:
            return []
        return sorted(row for bucket in self.buckets for row in bucket.change_hands(step))

    def row(self, each: int) -> int:
        return self.of(each).row(each)
