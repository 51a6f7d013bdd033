"""Where the time of a run's steps goes: some of them are watched by torch's profiler."""

from pathlib import Path

from pydantic import NonNegativeInt
from torch.profiler import profile

from sharded_emb.component import Frozen
from sharded_emb.distributed.phases import Phases, phases, watching
from sharded_emb.distributed.process_group import Place


class ProfileConfig(Frozen):
    """The key `profile`. steps: that are watched, 0 for none; after_steps: of this process before them.

    trace: write what was seen as RUN/profile/rank-N.json, for chrome://tracing or Perfetto.
    """

    after_steps: NonNegativeInt = 10
    steps: NonNegativeInt = 5
    trace: bool = False


class Profile:
    """Watches the steps that a config names. Told of each step that has ended; a run that ends sooner has no phases.

    trace: the file to write, if that is asked for.
    """

    def __init__(self, config: ProfileConfig, place: Place, trace: Path | None = None) -> None:
        self.config, self.place, self.trace = config, place, trace if config.trace else None
        self.phases: Phases | None = None
        self._ended = 0
        self._profiler: profile | None = None
        if config.after_steps == 0:
            self._begin()

    def step_ended(self) -> None:
        """Counts the step; begins and ends the watching where it is time."""
        self._ended += 1
        if self._ended == self.config.after_steps:
            self._begin()
        elif self._ended == self.config.after_steps + self.config.steps:
            self.close()

    def interrupt(self) -> None:
        """Ends the watching before something that is no step, and takes long to watch. What was seen of steps counts;
        if there was none, those that come next are watched.
        """
        if self._profiler is not None:
            self.close()
            if self.phases is None:
                self._ended = self.config.after_steps - 1

    def close(self) -> None:
        """Ends the watching, if there is any, and says what was seen."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        found = phases(profiler.events() or [], self.place.device.type)
        self.phases = found if found.steps else None
        if self.trace is not None:
            self.trace.parent.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(self.trace))

    def _begin(self) -> None:
        if self.config.steps:
            self._profiler = watching(self.place.device.type)
            self._profiler.start()
