"""Signals are remembered until the step ends."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from sharded_emb.training.signals import STOPPING, Signals, obey


def test_the_first_signal_counts_and_a_second_sigterm_says_nothing_new() -> None:
    signals = Signals()
    with signals.listening():
        assert signals.heard == 0
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.heard == signal.SIGTERM


def test_who_asks_twice_by_hand_is_obeyed_at_once_and_handlers_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    signals = Signals()
    with signals.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.heard == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_of_the_main_thread_signals_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def listen() -> None:
        signals = Signals()
        signals.no_longer_than(1.0, lambda _: None)
        with signals.listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


def test_who_fails_says_of_what_before_a_signal_is_obeyed() -> None:
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in STOPPING}
    try:
        with pytest.raises(ValueError, match="enough"), Signals().listening(until_said=True):
            raise ValueError("enough")
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == []
        obey()
        assert came == [signal.SIGTERM], "one came meanwhile"
        obey()
        os.kill(os.getpid(), signal.SIGINT)
        assert came == [signal.SIGTERM, signal.SIGINT]
        with Signals().listening(until_said=True):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM], "nothing failed"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


FAILS = """
import os, signal, sys, time
from sharded_emb.training import signals
signals.HELD_SECONDS = 0.5
try:
    with signals.Signals().listening(until_said=True):
        raise ValueError
except ValueError:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)  # as what it waits for to close
"""


def test_who_cannot_say_of_what_it_failed_ends_all_the_same() -> None:
    assert subprocess.run([sys.executable, "-c", FAILS], timeout=30, check=False).returncode == 128 + signal.SIGTERM


def test_a_signal_from_before_the_failure_is_not_obeyed_once_more() -> None:
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in STOPPING}
    try:
        with pytest.raises(ValueError, match="15"), Signals().listening(until_said=True):
            raise ValueError(os.kill(os.getpid(), signal.SIGTERM) or "15")
        obey()
        assert came == []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
