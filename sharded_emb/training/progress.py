"""What a person sees of a run: a bar with rates and time left on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sharded_emb.distributed.process_group import Place
from sharded_emb.planning.units import shown_bytes
from sharded_emb.training.run_folder import peak_memory_bytes
from sharded_emb.training.state import Progress as State

log = logging.getLogger("sharded_emb")

_SHOWN = ("loss", "auc", "normalized_entropy")
MEASURED = ("samples_per_second", "ids_per_second", "peak_memory_bytes")  # of metrics.jsonl, others in each run
_LONGEST = 1e9  # seconds that are worth telling


@dataclass(frozen=True)
class _Seen:
    """What had been done, and when."""

    step: int = 0
    samples: int = 0
    ids: int = 0
    time: float = field(default_factory=time.monotonic)


class Display:
    """Follows the steps of rank 0; the other ranks show nothing.

    total_steps may be None: then there is no time left to tell.
    """

    def __init__(self, total_steps: int | None, place: Place) -> None:
        self._bar = None
        self._total = total_steps
        self._device = place.device
        self._seen = _Seen()
        self._ids = 0
        if place.rank == 0 and sys.stderr.isatty():
            columns = [TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")]
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total_steps)
            self._bar.start()

    def begin(self, progress: State) -> None:
        """So much was done in another process."""
        self._seen = _Seen(progress.step, progress.samples)

    def step(self, step: int, ids: int) -> None:
        """A step has ended, in which all ranks together looked so many ids up, candidates included."""
        self._ids += ids
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def report(self, progress: State, where: str, values: Mapping[str, float]) -> dict[str, float]:
        """Shows a logged step; returns what was measured since the last one: samples and ids per second over all ranks,
        and the most memory that this rank had so far. where: the step is in the data. values: what is known of it.
        """
        now, before = _Seen(progress.step, progress.samples, self._ids), self._seen
        self._seen = now
        seconds = max(now.time - before.time, 1e-9)
        samples, ids = (now.samples - before.samples) / seconds, (now.ids - before.ids) / seconds
        memory = peak_memory_bytes(self._device)
        known = "".join(f"  {name} {values[name]:.4f}" for name in _SHOWN if name in values)
        text = (
            f"{where}{known}  factor {values['lr_factor']:.3g}  {samples:,.0f} samples/s  {ids:,.0f} ids/s"
            f"  {shown_bytes(memory)}"
        )
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        else:
            log.info(
                "step %d  %s%s", progress.step, text, self._left(seconds / max(now.step - before.step, 1), now.step)
            )
        return dict(zip(MEASURED, (samples, ids, memory), strict=True))

    def _left(self, seconds_a_step: float, step: int) -> str:
        """Of training, without evaluations, if nothing ends it early."""
        seconds = None if self._total is None else seconds_a_step * max(0, self._total - step)
        return "" if seconds is None or seconds > _LONGEST else f"  {timedelta(seconds=round(seconds))} left"

    def exclude(self, seconds: float) -> None:
        """What was no training (an evaluation, a checkpoint) counts for no rate."""
        self._seen = replace(self._seen, time=self._seen.time + seconds)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.stop()
