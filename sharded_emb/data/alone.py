"""One process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path


@contextmanager
def alone(target: Path, waiting: AbstractContextManager[object] | None = None) -> Iterator[None]:
    """What makes a file or folder, by one process of this machine; another one waits. Its folder is made where needed.

    waiting: is entered meanwhile.
    """
    file = target.with_name(f".{target.name}.lock")
    target.parent.mkdir(parents=True, exist_ok=True)
    with waiting or nullcontext():
        lock = file.open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        while not _names(file, lock.fileno()):  # who had it has removed it, and a third one may have made another
            lock.close()
            lock = file.open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _names(file: Path, opened: int) -> bool:
    """Whether a path still stands for the file that was opened there."""
    try:
        return os.path.samestat(file.stat(), os.fstat(opened))
    except FileNotFoundError:
        return False
