"""Files and folders that are there whole or not at all."""

import errno
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sharded_emb.errors import InputError

_LOCK = "lock"
# errors that speak of where something is to be written
_OF_PLACES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV),
    *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOENT),
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
    """The same of a folder: where to write its files, an empty folder beside it. What a killed process has left there
    goes, and what it had moved aside has its name again first.

    Raises InputError on the key where another process writes it now, and where it cannot be written.
    """
    aside, old = (target.with_name(f".{target.name}.{name}") for name in ("part", "old"))
    try:
        aside.mkdir(parents=True, exist_ok=True)
        with (aside / _LOCK).open("w") as lock:
            _take(lock, target, key)
            try:
                if old.exists() and not target.exists():
                    old.rename(target)
                for entry in [old, *aside.iterdir()]:
                    if entry.name != _LOCK:
                        _remove(entry)
                yield aside
                if target.exists():
                    target.rename(old)
                aside.rename(target)
            except BaseException:
                _remove(aside)
                if old.exists() and not target.exists():
                    old.rename(target)
                raise
    except OSError as error:
        if error.errno not in _OF_PLACES:
            raise
        got = f"got {target} ({error.strerror})"
        raise InputError(f"{key}: want a folder that can be written, {got}; make room, or choose another") from error
    (target / _LOCK).unlink()
    _remove(old)


def _take(lock: IO[str], target: Path, key: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        got = "got another process that writes it"
        raise InputError(f"{key}: want {target} for itself, {got}; wait for it, or choose another") from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
