"""SIGTERM and SIGINT: remembered until the step ends, and no longer than torchrun allows."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)
HELD_SECONDS = 10.0  # that a process has to say what it failed of, once it is to end

# of a command that failed and has not said why
_held_back: list[Callable[[], None]] = []


def obey() -> None:
    """Signals that were held back do again what they did before; one that came meanwhile ends this process now."""
    while _held_back:
        _held_back.pop()()


class Signals:
    """What this rank was asked. heard: the first signal, 0 for none.

    Alone it decides nothing: the others would wait for this rank.
    """

    def __init__(self) -> None:
        self.heard = 0
        self._failed = False
        self._last_seconds: threading.Timer | None = None
        self._limit: tuple[float, Callable[[int], None]] | None = None

    def no_longer_than(self, seconds: float, give_up: Callable[[int], None]) -> None:
        """So long after a signal `give_up` is called with it, in another thread, whatever the main thread waits for."""
        self._limit = seconds, give_up

    @contextmanager
    def listening(self, *, until_said: bool = False) -> Iterator[None]:
        """Signals are remembered, and afterwards do what they did before: the process may be somebody's notebook.
        Outside of the main thread, which alone may handle them, they are left alone.

        until_said: after an error they are held back until `obey` is called, or end this process after HELD_SECONDS.
        torchrun ends all ranks as soon as it sees that one is gone, and those that fail of that would not say so.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in STOPPING}
        for number in STOPPING:
            signal.signal(number, self._on_signal)
        with ExitStack() as stack:
            stack.callback(self._give_back, before)
            try:
                with self._counting_down():
                    yield
            except Exception:
                if until_said:
                    stack.pop_all()
                    self._failed = True
                    _held_back.append(lambda: self._give_back(before))
                raise

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

    def _give_back(self, handlers: Mapping[signal.Signals, Any]) -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if self._last_seconds is not None:
            self._last_seconds.cancel()
            os.kill(os.getpid(), signal.SIGTERM)

    def _on_signal(self, number: int, frame: object) -> None:  # noqa: ARG002
        if self._failed:
            if self._last_seconds is None:  # whatever is waited for when they are over
                self._last_seconds = threading.Timer(HELD_SECONDS, os._exit, [128 + number])
                self._last_seconds.daemon = True
                self._last_seconds.start()
            return
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
