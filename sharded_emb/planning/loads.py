"""What ranks have so far, and the best place for one more table among them."""

from dataclasses import dataclass

import numpy as np

from sharded_emb.planning.options import Floats, Ints, Option
from sharded_emb.planning.shapes import Ranks


@dataclass(frozen=True)
class Limits:
    """What a rank may have. scale: of seconds, by which they are weighed against bytes."""

    bytes: float
    seconds: float
    scale: float


class Loads:
    """bytes, seconds: of each rank."""

    def __init__(self, ranks: Ranks, bytes_: Floats, seconds: Floats) -> None:
        self.ranks, self.bytes, self.seconds = ranks, bytes_.copy(), seconds.copy()
        self._all = np.arange(ranks.world_size)

    def copy(self) -> "Loads":
        """One of its own."""
        return Loads(self.ranks, self.bytes, self.seconds)

    def add(self, option: Option, ranks: Ints, times: int = 1) -> None:
        """Puts a table there, or takes it away with times=-1. No two of its shards are on one rank."""
        self.bytes[ranks] += times * option.bytes
        self.seconds[ranks] += times * option.seconds

    def fit(self, option: Option, limits: Limits) -> Ints | None:
        """The ranks on which the option's shards leave the least on the fullest one; None if they fit nowhere."""
        if option.group == self.ranks.world_size:
            full = self.bytes + option.bytes
            slow = self.seconds + option.seconds
            fits = full.max() <= limits.bytes and slow.max() <= limits.seconds
            return self._all if fits else None
        if option.group == 1 and not option.one_host:
            return self._fit_anywhere(option, limits)
        return self._fit_in_host(option, limits) if option.one_host else self._fit_hosts(option, limits)

    def _score(self, bytes_: Floats | float, seconds: Floats | float, limits: Limits) -> Floats:
        """How full each rank is with so much more; infinite where that is too much."""
        full, slow = self.bytes + bytes_, self.seconds + seconds
        score = np.maximum(full / limits.bytes, slow / limits.scale)
        score[(full > limits.bytes) | (slow > limits.seconds)] = np.inf
        return score

    def _fit_anywhere(self, option: Option, limits: Limits) -> Ints | None:
        score = self._score(option.bytes[0], option.seconds[0], limits)  # columns are cut into equal shards
        number = len(option.parts)
        if number == 1:
            best = int(score.argmin())
            return None if np.isinf(score[best]) else self._all[best : best + 1]
        chosen = np.sort(np.argpartition(score, number - 1)[:number])
        return None if np.isinf(score[chosen]).any() else chosen

    def _fit_in_host(self, option: Option, limits: Limits) -> Ints | None:
        number, per_host = len(option.parts), self.ranks.per_host
        score_HG = self._score(option.bytes[0], option.seconds[0], limits).reshape(-1, per_host)
        order_HG = np.argsort(score_HG, axis=1, kind="stable")
        worst_H = np.take_along_axis(score_HG, order_HG[:, number - 1 : number], 1)[:, 0]
        host = int(worst_H.argmin())
        return None if np.isinf(worst_H[host]) else np.sort(order_HG[host, :number]) + host * per_host

    def _fit_hosts(self, option: Option, limits: Limits) -> Ints | None:
        per_host = self.ranks.per_host
        bytes_, seconds = (np.tile(each[:per_host], self.ranks.hosts) for each in (option.bytes, option.seconds))
        worst_H = self._score(bytes_, seconds, limits).reshape(-1, per_host).max(1)
        number = len(option.parts) // per_host
        hosts = np.sort(np.argsort(worst_H, kind="stable")[:number])
        if np.isinf(worst_H[hosts]).any():
            return None
        return (hosts[:, None] * per_host + np.arange(per_host)).ravel()
