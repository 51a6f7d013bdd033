"""What each rank is doing, in a small file of its own that others can read while it hangs or once it is gone.

A rank that waits for others says so in no exchange: that is what it waits for.
"""

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.distributed.process_group import Place

log = logging.getLogger("sharded_emb")

FAILED = "failed"
_BYTES = 4096  # written in one piece, so that nobody reads half of it
_DETAIL = _BYTES // 8  # characters, of at most 6 bytes each
_LOOKS = 10  # a stall is seen within a tenth of the time that makes it one


@dataclass(frozen=True)
class Moment:
    """What a rank does after `step`, since when (seconds since 1970), and what more there is to say."""

    rank: int
    step: int
    phase: str
    since: float
    detail: str = ""

    def told(self, now: float) -> str:
        """For people."""
        return f"rank {self.rank}: {self.phase}, after step {self.step}, for {max(now - self.since, 0):.0f} s"


class Pulse:
    """Of this rank; reads those of the others. Made by all ranks together, in `log/` of a run folder."""

    def __init__(self, run: Path, place: Place) -> None:
        self.place, self._folder = place, run / "log"
        # what ranks of an earlier start of the run left is no news
        self._start = from_first_rank(time.time_ns, place)
        self._file = os.open(self._path(place.rank), os.O_RDWR | os.O_CREAT, 0o644)
        self.mine = Moment(place.rank, 0, "starting", time.time())
        self.tell(0, "starting")

    def tell(self, step: int, phase: str, detail: str = "") -> None:
        """From now on this rank does this."""
        self.mine = Moment(self.place.rank, step, phase, time.time(), detail)
        values = [self._start, step, phase, self.mine.since, detail[:_DETAIL]]
        # characters as they are, since an escape can take 12 bytes; half of a surrogate pair only has its escape
        line = json.dumps(values, ensure_ascii=False).encode(errors="backslashreplace")
        os.pwrite(self._file, line.ljust(_BYTES), 0)

    def everyone(self) -> list[Moment]:
        """By rank, as far as there is something to read."""
        found = []
        for rank in range(self.place.world_size):
            try:
                start, *values = json.loads(self._path(rank).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if start == self._start:
                found.append(Moment(rank, *values))
        return found

    def first_failed(self) -> Moment | None:
        """The rank that failed before all others, if one said so."""
        failed = [moment for moment in self.everyone() if moment.phase == FAILED]
        return min(failed, key=lambda moment: moment.since, default=None)

    def beat(self) -> None:
        """Says that this process is alive, whatever its main thread does."""
        os.utime(self._file)

    def first_alive(self, seconds: float) -> int:
        """The lowest rank that has said in this time that it is alive; by the clock of the file system."""
        now = os.fstat(self._file).st_mtime
        for rank in range(self.place.rank):
            try:
                if now - self._path(rank).stat().st_mtime < seconds:
                    return rank
            except OSError:
                continue
        return self.place.rank

    def close(self) -> None:
        """Nothing more is told."""
        os.close(self._file)

    def _path(self, rank: int) -> Path:
        return self._folder / f".rank-{rank}.pulse"


class Watch:
    """Reports a stall, from a thread of its own: no rank has gone on to anything else for so many seconds.

    The lowest rank whose process lives says what each rank is doing; each rank writes to its own log where its main
    thread is. A stall that goes on is reported again after twice the time.
    """

    def __init__(self, pulse: Pulse, stall_seconds: float) -> None:
        self._pulse, self._stall_seconds = pulse, stall_seconds
        self._next = stall_seconds
        self._over = threading.Event()
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more reports."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        every = self._stall_seconds / _LOOKS
        while not self._over.wait(every):
            try:
                self._pulse.beat()
                if time.time() - self._pulse.mine.since >= self._stall_seconds:  # nobody else's file is read before
                    self._look(3 * every)
                else:
                    self._next = self._stall_seconds
            except OSError as error:
                log.warning("stalls are not watched for: %s", error)
                return

    def _look(self, alive_seconds: float) -> None:
        moments, now = self._pulse.everyone(), time.time()
        still = now - max((moment.since for moment in moments), default=now)
        if still < self._next:
            return
        self._next = 2 * still
        log.info("stalled here:\n%s", self._stack(), extra={"file_only": True})
        if self._pulse.first_alive(alive_seconds) == self._pulse.place.rank:
            log.warning("no rank has gone on for %.0f s; log/rank-N.log say where each is:\n%s", still, told(moments))

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else "no main thread"


def told(moments: Sequence[Moment]) -> str:
    """A line a rank, those first that are behind: the others wait for them."""
    behind = sorted(moments, key=lambda moment: (moment.step, moment.since))
    return "\n".join(f"  {moment.told(time.time())}" for moment in behind)
