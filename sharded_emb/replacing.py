"""Files and folders that are there whole or not at all."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sharded_emb.errors import InputError

LOCK = "lock"
# errors that speak of where something is to be written
_OF_PLACES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV),
    *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTEMPTY),
}


@contextmanager
def replacing(target: Path, writer: str = "") -> Iterator[Path]:
    """Where to write what takes the place of `target`, in one step, once the block ends; nothing is left if it fails.

    writer: its name, where several may write the same at once.
    """
    aside = target.with_name(f".{target.name}{writer and '.'}{writer}.part")
    aside.unlink(missing_ok=True)  # of a process that was killed: a link cannot be made over it
    try:
        yield aside
        aside.replace(target)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


@contextmanager
def replacing_folder(target: Path, key: str) -> Iterator[Path]:
    """Where to write the files of a folder that takes the place of `target` once the block ends; if it fails, what was
    there stays. Between two renames there is a moment without either.

    What a killed process has left aside goes, and what it had moved aside has its name again first. Raises InputError
    on the key where another process writes the folder now, and where it cannot be written.
    """
    aside, old = (target.with_name(f".{target.name}.{name}") for name in ("part", "old"))
    try:
        aside.mkdir(parents=True, exist_ok=True)
        with (aside / LOCK).open("w") as lock:
            _take(lock, target, key)
            try:
                if old.exists() and not target.exists():
                    old.rename(target)
                for entry in [old, *aside.iterdir()]:
                    if entry.name != LOCK:
                        _remove(entry)
                if old.exists():  # on NFS, as long as somebody has a file of it open
                    raise InputError(f"{key}: want {old} gone, which an earlier one left, got it there; remove it")
                yield aside
                if target.exists():
                    target.rename(old)
                aside.rename(target)
            except BaseException:
                _remove(aside)
                if old.exists() and not target.exists():
                    old.rename(target)
                raise
            (target / LOCK).unlink(missing_ok=True)
            _remove(old)
    except OSError as error:
        if error.errno not in _OF_PLACES or not _is_of(error, target, aside, old):
            raise
        got = f"got {target} ({error.strerror})"
        raise InputError(f"{key}: want a folder that can be written, {got}; make room, or choose another") from error


def _take(lock: IO[str], target: Path, key: str) -> None:
    """Raises InputError where another process has the lock, or had it, and the folder has its name since."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.samestat(os.fstat(lock.fileno()), Path(lock.name).stat())
    except OSError:
        mine = False
    if not mine:
        got = "got another process that writes it"
        raise InputError(f"{key}: want {target} for itself, {got}; wait for it, or choose another")


def _is_of(error: OSError, *places: Path) -> bool:
    """Whether an error is about one of these places, as far as it says."""
    return error.filename is None or any(Path(error.filename).is_relative_to(place) for place in places)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
