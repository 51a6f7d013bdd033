"""SIGTERM and SIGINT: remembered until the step ends, and no longer than torchrun allows."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """What this rank was asked. heard: the first signal, 0 for none.

    Alone it decides nothing: the others would wait for this rank.
    """

    def __init__(self) -> None:
        self.heard = 0
        self._limit: tuple[float, Callable[[int], None]] | None = None

    def no_longer_than(self, seconds: float, give_up: Callable[[int], None]) -> None:
        """So long after a signal `give_up` is called with it, in another thread, whatever the main thread waits for."""
        self._limit = seconds, give_up

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are remembered, and afterwards do what they did before: the process may be somebody's notebook.
        Outside of the main thread, which alone may handle them, they are left alone.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in STOPPING}
        for number in STOPPING:
            signal.signal(number, self._on_signal)
        try:
            with self._counting_down():
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _counting_down(self) -> Iterator[None]:
        """Python's own handlers wait for the main thread, and that may be waiting for another rank."""
        if self._limit is None:
            yield
            return
        theirs, ours = socket.socketpair()
        theirs.setblocking(False)
        over = threading.Event()
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_count_down, args=(ours, over, *self._limit), name="signals", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            over.set()
            theirs.close()

    def _on_signal(self, number: int, frame: object) -> None:  # noqa: ARG002
        # a person who asks twice wants it now, without a checkpoint; a scheduler sends SIGTERM to every process of a
        # job, and torchrun, which is one of them, sends it again
        if self.heard and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.heard = self.heard or number


def _count_down(numbers: socket.socket, over: threading.Event, seconds: float, give_up: Callable[[int], None]) -> None:
    while came := numbers.recv(1):  # nothing comes once the other end is closed
        if came[0] in STOPPING:
            if not over.wait(seconds):
                give_up(came[0])
            return
