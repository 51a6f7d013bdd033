"""Where the numbers of a run go besides its folder and TensorBoard, which have them always."""

import importlib.util
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Full, Queue
from typing import Any

from sharded_emb.component import Component
from sharded_emb.errors import InputError

log = logging.getLogger("sharded_emb")

MOST_BEHIND = 10_000  # calls that wait for a service
SECONDS_TO_ANSWER, SECONDS_TO_STOP = 120.0, 5.0  # that a run waits in the end: finished, for each call; else for all


@dataclass(frozen=True)
class Tracked:
    """A run that is followed. path: its folder, in which a service may remember what it calls the run."""

    path: Path
    config: Mapping[str, Any]


class Tracker:
    """A service that follows one run. Its methods may raise anything."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values by SPLIT/METRIC."""

    def close(self, status: str, metrics: Mapping[str, float]) -> None:
        """The run is finished, stopped or failed, with these metrics by SPLIT/METRIC."""


class TrackingConfig(Component):
    """The slot `tracking`: nothing besides TensorBoard, or a subclass that adds a service."""

    @property
    def needs(self) -> str | None:
        """The module of the service, which is also the name of the extra."""
        return None

    def check(self) -> None:
        """Raises InputError where the service is not installed."""
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            how = f"pip install 'sharded-emb[{self.needs}]'"
            raise InputError(f"tracking: want {self.needs} installed, got none; {how}, or leave tracking out")

    def build(self, run: Tracked) -> Tracker:  # noqa: ARG002
        """Begins to follow a run, or goes on with one that was resumed."""
        return Tracker()


class Following:
    """A tracker that can neither end a run nor hold it up: a thread tells it what there is, and one that fails is named
    once and not asked again. Of one that is far behind, lines are left out and counted.
    """

    def __init__(self, config: TrackingConfig, run: Tracked) -> None:
        """Raises InputError where the service cannot be reached or refuses."""
        try:
            self._tracker = config.build(run)
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"tracking: want {config.needs} to take this run, got: {said}") from error
        self._calls: Queue[Callable[[], None] | None] = Queue(MOST_BEHIND)
        self._left_out, self._over, self._answered = 0, False, time.monotonic()
        self._thread: threading.Thread | None = None
        if type(self._tracker) is not Tracker:
            self._thread = threading.Thread(target=self._tell, name="tracking", daemon=True)
            self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        if self._thread is not None and not self._over:
            try:
                self._calls.put_nowait(partial(self._tracker.log, step, values))
            except Full:
                self._left_out += 1

    def close(self, status: str, metrics: Mapping[str, float]) -> None:
        """See `Tracker.close`. Waits until all is told: of a run that is finished as long as the service answers, else
        for seconds.
        """
        if self._thread is None:
            return
        self._answered = time.monotonic()
        end = self._answered + SECONDS_TO_STOP
        waiting: deque[Callable[[], None] | None] = deque([partial(self._tracker.close, status, metrics), None])
        while self._thread.is_alive():
            try:
                if waiting:
                    self._calls.put(waiting[0], timeout=0.1)
                    waiting.popleft()
                else:
                    self._thread.join(0.1)
            except Full:
                pass
            if time.monotonic() > (self._answered + SECONDS_TO_ANSWER if status == "finished" else end):
                self._over = True
                log.warning("tracking: the service has not taken all of this run in time: %s", self._behind())
                return
        if self._left_out:
            log.warning("tracking: the service was too slow for %d lines, which it lacks", self._left_out)

    def _behind(self) -> str:
        return f"{self._calls.qsize()} calls wait, and {self._left_out} lines were left out"

    def _tell(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:
                log.warning("tracking ends here, the run goes on: %s: %s", type(error).__name__, error)
                self._over = True
            self._answered = time.monotonic()
            if self._over:
                return
