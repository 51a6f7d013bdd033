"""Hosts that are heard of, that say goodbye, and that are silent."""

import threading
import time

from sharded_emb.distributed.agree import all_sums
from sharded_emb.distributed.heartbeat import Heartbeat
from sharded_emb.distributed.process_group import Place
from tests.distributed.ranks import run_ranks

LOST_SECONDS = 2.0


def hear(place: Place) -> tuple[int, list[str], list[str]]:
    """Four ranks on two hosts: threads of this rank, and what was lost while the second host beat and said goodbye, and
    then while it was silent.
    """
    gone: list[str] = []
    heartbeat = Heartbeat(place, LOST_SECONDS, gone.append)
    threads = sum(thread.name == "heartbeat" for thread in threading.enumerate())
    time.sleep(1.5 * LOST_SECONDS)
    if place.rank >= 2:
        heartbeat.close()
    time.sleep(1.5 * LOST_SECONDS)
    if place.rank < 2:
        heartbeat.close()
    all_sums([0.0], place)
    silent: list[str] = []
    # a host that beats once in an hour is one that was cut off
    heartbeat = Heartbeat(place, LOST_SECONDS if place.rank < 2 else 3600.0, silent.append)
    time.sleep(2.5 * LOST_SECONDS)
    heartbeat.close()
    return threads, gone, silent


def test_a_silent_host_is_lost_and_one_that_said_goodbye_is_not() -> None:
    found = run_ranks(hear, 4, per_host=2)
    assert [threads for threads, _, _ in found] == [2, 2, 2, 2]
    assert [gone for _, gone, _ in found] == [[]] * 4
    for _, _, (said,) in found[:2]:  # the first rank of a host speaks for it, and each of the others listens
        assert said.startswith("rank 2 and its host were not heard of for ")
    assert [silent for _, _, silent in found[2:]] == [[], []]


def test_ranks_of_one_host_need_no_heartbeat() -> None:
    assert [threads for threads, _, _ in run_ranks(hear_alone, 2)] == [0, 0]


def hear_alone(place: Place) -> tuple[int, list[str], list[str]]:
    Heartbeat(place, LOST_SECONDS).close()
    return sum(thread.name == "heartbeat" for thread in threading.enumerate()), [], []
