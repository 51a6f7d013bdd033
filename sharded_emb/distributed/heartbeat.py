"""Ranks of several hosts end when a host is gone that nobody has said goodbye for.

A cable that is cut, or a host without power, closes no connection: exchanges wait for it until their time-out, which is
minutes, and torchrun watches over its own processes alone.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

from torch.distributed.distributed_c10d import _get_default_store

from sharded_emb.distributed.agree import all_sums, all_values
from sharded_emb.distributed.process_group import Place

log = logging.getLogger("sharded_emb")

_BEATS = 5  # in the time after which a rank is given up
_GONE = "gone in peace"


def _end(said: str) -> None:
    log.error("%s; ending, so that the launcher can start those that are left", said)
    logging.shutdown()
    os._exit(1)


class Heartbeat:
    """Of this host, by its first rank, heard by every rank of the others, over a connection of its own and in threads.
    Each for itself: a launcher that was cut off as well ends nobody for a while. Made by all ranks together.

    lost_seconds: after which a host that was not heard of counts as lost. Then, or when the place where ranks meet does
    not answer for as long, `lost` is called with what there is to say; unless told otherwise it ends this process.
    """

    def __init__(self, place: Place, lost_seconds: float, lost: Callable[[str], None] = _end) -> None:
        self._lost_seconds, self._lost = lost_seconds, lost
        speaking = all_values(place.local_rank == 0, place)
        own = place.rank - place.local_rank  # the rank that speaks for this host
        self._key = _key(place.rank) if place.rank == own else None
        self._others = [_key(rank) for rank, speaks in enumerate(speaking) if speaks and rank != own]
        self._answered = time.monotonic()
        self._heard: dict[str, tuple[bytes, float]] = {}  # what was said last, and since when
        self._over = threading.Event()
        # two, since an answer that never comes holds the one that waits for it
        kinds = (self._talk, self._judge) if self._others else ()
        self._threads = [threading.Thread(target=each, name="heartbeat", daemon=True) for each in kinds]
        if self._threads and self._key:
            _get_default_store().set(self._key, "0")
        all_sums([0.0], place)  # whoever is silent from now on has been here
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Says goodbye to the others."""
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=self._lost_seconds)

    def _talk(self) -> None:
        store: Any = None
        beat = 0
        while True:
            over, beat = self._over.wait(self._lost_seconds / _BEATS), beat + 1
            try:
                if store is None:  # of this thread's own: the main thread's may be waiting for something
                    store = cast(Any, _get_default_store()).clone()
                    store.set_timeout(timedelta(seconds=self._lost_seconds))
                if self._key:
                    store.set(self._key, _GONE if over else str(beat))
                for key, said in zip(self._others, _values(store, self._others), strict=True):
                    if said != self._heard.get(key, (None, 0.0))[0]:
                        self._heard[key] = said, time.monotonic()
                self._answered = time.monotonic()
            except (RuntimeError, OSError):  # what torch raises of a store depends on what went wrong
                store = None
            if over:
                return

    def _judge(self) -> None:
        while not self._over.wait(self._lost_seconds / _BEATS):
            now = time.monotonic()
            if now - self._answered > self._lost_seconds:
                self._lost(f"the place where ranks meet has not answered for {now - self._answered:.0f} s")
                return
            silent = {key: now - since for key, (said, since) in [*self._heard.items()] if said != _GONE.encode()}
            if silent and max(silent.values()) > self._lost_seconds:
                key = max(silent, key=lambda each: silent[each])
                self._lost(f"{key} and its host were not heard of for {silent[key]:.0f} s")
                return


def _key(rank: int) -> str:
    return f"rank {rank}"


def _values(store: Any, keys: Sequence[str]) -> list[bytes]:
    """One question for all of them, where the store takes one; that of a file does not."""
    return store.multi_get(list(keys)) if store.has_extended_api() else [store.get(key) for key in keys]
