"""What all ranks must know of each other: sums, errors, decisions of one rank.

A rank that raises alone leaves the others waiting in the next exchange until a time-out. So whatever a single rank
can find wrong is put on the table first, and then raised by all, with the same text.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from sharded_emb.distributed.pairs import summed
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError

T = TypeVar("T")

_BEATS = 4  # of a rank at work, in the time after which it is given up


def all_sums(values: list[float], place: Place) -> list[float]:
    """The sum over all ranks of each of these host values, in double precision."""
    if place.world_size == 1:
        return [float(value) for value in values]
    return summed(torch.tensor(values, dtype=torch.float64), place.control).tolist()


def all_values(value: T, place: Place) -> list[T]:
    """The value of every rank, by rank. Anything that pickles."""
    if place.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * place.world_size
    dist.all_gather_object(gathered, value, group=place.control)
    return gathered


def from_first_rank(make: Callable[[], T], place: Place, slowly: bool = False) -> T:
    """What rank 0 makes, on every rank; what it raises there is raised on all. slowly: it may take its time."""
    box: list[Any] = [None]
    with patience(place) if slowly else nullcontext():
        if place.rank == 0:
            try:
                box = [(make(), None)]
            except Exception as error:  # whatever it is: the others wait for an answer
                box = [(None, error)]
    dist.broadcast_object_list(box, src=0, group=place.control)
    value, raised = box[0]
    if raised is not None:
        raise raised
    return value


def raise_together(error: InputError | None, place: Place) -> None:
    """Raises, on every rank, the error of the lowest rank that has one."""
    if all_sums([float(error is not None)], place)[0]:
        raise next(e for e in all_values(error, place) if e is not None)


@contextmanager
def together(place: Place) -> Iterator[None]:
    """An InputError of any rank inside the block is raised on all at its end. No collective may stand inside."""
    mine: InputError | None = None
    try:
        yield
    except InputError as wrong:
        mine = wrong
    raise_together(mine, place)


@contextmanager
def patience(place: Place) -> Iterator[None]:
    """Ranks leave the block together, however long one of them works in it: no exchange times out for that, while a
    rank that ends is noticed by all. No collective may stand inside.
    """
    if place.world_size == 1:
        yield
        return
    done = threading.Event()
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            while all_sums([float(not done.wait(place.timeout.total_seconds() / _BEATS))], place)[0]:
                pass
        except BaseException as error:  # raised where the others are missed
            failed.append(error)

    thread = threading.Thread(target=wait, name="patience", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]
