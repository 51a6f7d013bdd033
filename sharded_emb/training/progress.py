"""What a person sees of a run: a bar with rates and time left on a terminal, plain lines elsewhere."""

import logging
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sharded_emb.training.state import Progress as State

log = logging.getLogger("sharded_emb")


class Display:
    """Follows the steps of rank 0; the other ranks show nothing.

    total_steps may be None: then there is no time left to tell.
    """

    def __init__(self, total_steps: int | None, rank: int) -> None:
        self._bar = None
        self._mark = (time.monotonic(), 0)
        if rank == 0 and sys.stderr.isatty():
            columns = [TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")]
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total_steps)
            self._bar.start()

    def begin(self, samples: int) -> None:
        """So many samples were consumed in another process."""
        self._mark = (time.monotonic(), samples)

    def step(self, step: int) -> None:
        """A step has ended."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def report(self, progress: State, where: str, loss: float, lr: float) -> float:
        """Shows a logged step; returns the samples per second, over all ranks, since the last one. where: the step is
        in the data.
        """
        now, (then, before) = time.monotonic(), self._mark
        rate = (progress.samples - before) / max(now - then, 1e-9)
        self._mark = (now, progress.samples)
        text = f"{where}  loss {loss:.4f}  factor {lr:.3g}  {rate:,.0f} samples/s"
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        else:
            log.info("step %d  %s", progress.step, text)
        return rate

    def exclude(self, seconds: float) -> None:
        """What was no training (an evaluation, a checkpoint) counts for no rate."""
        self._mark = (self._mark[0] + seconds, self._mark[1])

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.stop()
