"""Each thing with the one that comes after it."""

from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from sharded_emb.errors import InputError
from sharded_emb.training.checkpoint import NotSavedError

T = TypeVar("T")


def with_following(every: Iterator[T], wanted: Callable[[], bool]) -> Generator[tuple[T, T | None]]:
    """Each, and the next one, fetched before this one is used; None where there is none, or it is not wanted then.

    An error that all ranks have agreed on while the next one was fetched is raised when this one has been used. Any
    other is raised at once: the other ranks do not know of it, and wait.
    """
    coming = next(every, None)
    while coming is not None:
        now, coming = coming, None
        error: InputError | NotSavedError | None = None
        ahead = wanted()
        if ahead:
            try:
                coming = next(every, None)
            except (InputError, NotSavedError) as agreed:
                error = agreed
        yield now, coming
        if error is not None:
            raise error
        if not ahead:
            coming = next(every, None)
