"""Jobs end with their sweep: each is in a session of its own, in which it outlives a SIGKILL of the sweep.

Started as a script, by the Python of the sweep: it reads `+PID` of a job that began and `-PID` of one that ended, until
the sweep closes the other end or is gone, and sends SIGTERM to those that are left.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType


class Keeper:
    """The process that knows of the jobs, and that no signal to the sweep or its terminal reaches."""

    def __enter__(self) -> "Keeper":
        line = [sys.executable, "-I", "-S", __file__]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, bufsize=0, start_new_session=True
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def began(self, pid: int) -> None:
        """Of a job."""
        self._tell(f"+{pid}\n")

    def ended(self, pid: int) -> None:
        """Of a job."""
        self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # jobs go on without it
            self._process.stdin.write(line.encode())


def left(lines: Iterable[str]) -> list[int]:
    """The processes that began and did not end."""
    running: dict[int, None] = {}
    for line in lines:
        pid = int(line[1:])
        if line.startswith("+"):
            running[pid] = None
        else:
            running.pop(pid, None)
    return list(running)


if __name__ == "__main__":
    for pid in left(sys.stdin):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
