"""Where the numbers of a run go besides its folder and TensorBoard, which have them always."""

import importlib.util
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from typing import Any

from sharded_emb.component import Component
from sharded_emb.errors import InputError

log = logging.getLogger("sharded_emb")

MOST_BEHIND = 1000  # calls that wait for a service
SECONDS_TO_END, SECONDS_TO_STOP = 120, 5  # that a run waits for its service, finished or stopped


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
    """A tracker of which nothing can end a run or hold it up: a thread tells it what there is, one that fails is named
    once and not asked again, and so is one that is too far behind.
    """

    def __init__(self, config: TrackingConfig, run: Tracked) -> None:
        """Raises InputError where the service cannot be reached or refuses."""
        try:
            self._tracker: Tracker | None = config.build(run)
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"tracking: want {config.needs} to take this run, got: {said}") from error
        self._calls: Queue[Callable[[Tracker], None] | None] = Queue(MOST_BEHIND)
        self._thread = threading.Thread(target=self._tell, name="tracking", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._later(lambda tracker: tracker.log(step, values))

    def close(self, status: str, metrics: Mapping[str, float]) -> None:
        """See `Tracker.close`. Waits until all is told, or as long as there is: whoever stopped a run ends it soon."""
        self._later(lambda tracker: tracker.close(status, metrics))
        self._later(None)
        if self._tracker is not None:
            seconds = SECONDS_TO_STOP if status == "stopped" else SECONDS_TO_END
            self._thread.join(seconds)
            if self._thread.is_alive():
                self._give_up(f"it has not taken the last of it in {seconds} s")

    def _later(self, call: Callable[[Tracker], None] | None) -> None:
        if self._tracker is not None:
            try:
                self._calls.put_nowait(call)
            except Full:
                self._give_up(f"it is {MOST_BEHIND} calls behind")

    def _tell(self) -> None:
        while (call := self._calls.get()) is not None and (tracker := self._tracker) is not None:
            try:
                call(tracker)
            except Exception as error:
                self._give_up(f"{type(error).__name__}: {error}")
                return

    def _give_up(self, why: str) -> None:
        if self._tracker is not None:
            self._tracker = None
            log.warning("tracking ends here, the run goes on: %s", why)
