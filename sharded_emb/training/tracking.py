"""Where the numbers of a run go besides its folder and TensorBoard, which have them always."""

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharded_emb.component import Component
from sharded_emb.errors import InputError

log = logging.getLogger("sharded_emb")


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
    """A tracker of which nothing can end a run: one that fails is told of once, and not asked again."""

    def __init__(self, config: TrackingConfig, run: Tracked) -> None:
        """Raises InputError where the service cannot be reached or refuses."""
        try:
            self._tracker: Tracker | None = config.build(run)
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"tracking: want {config.needs} to take this run, got: {said}") from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._try(lambda tracker: tracker.log(step, values))

    def close(self, status: str, metrics: Mapping[str, float]) -> None:
        """See `Tracker.close`."""
        self._try(lambda tracker: tracker.close(status, metrics))
        self._tracker = None

    def _try(self, call: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            call(self._tracker)
        except Exception as error:
            self._tracker = None
            log.warning("tracking ends here, the run goes on: %s: %s", type(error).__name__, error)
