"""Where the log of a rank goes: its file in the run folder, and the console."""

import logging
import sys
from pathlib import Path

log = logging.getLogger("sharded_emb")


class _Console(logging.Handler):
    """Writes to what stderr is at the moment: a progress bar takes it over to print lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "file_only", False):
            print(self.format(record), file=sys.stderr)


class _File(logging.FileHandler):
    """A full disk costs lines of it, told of once, in place of the traceback that Python writes for each."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            print(f"{self.baseFilename} has not all lines: {error.strerror or error}", file=sys.stderr)


def log_file(run: Path, rank: int) -> Path:
    """Of a rank."""
    return run / "log" / f"rank-{rank}.log"


def log_to(path: Path, rank: int) -> None:
    """Sends this rank's log to its file; the console shows rank 0, and the other ranks' warnings with their rank."""
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
    file = _File(log_file(path, rank), encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console = _Console()
    console.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    console.setFormatter(logging.Formatter("%(message)s" if rank == 0 else f"[rank {rank}] %(message)s"))
    log.addHandler(file)
    log.addHandler(console)
