"""Files that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
