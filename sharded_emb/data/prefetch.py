"""Work done ahead of whoever needs its results, in threads: numpy, torch and reads give up the interpreter's lock."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Literal, NoReturn, TypeVar

from pydantic import NonNegativeInt, PositiveInt

from sharded_emb.component import Frozen

T = TypeVar("T")


class PrefetchConfig(Frozen):
    """The key `prefetch`. batches: that are made ahead of the step; 0 makes each when it is needed. workers: threads
    that make them. ids: of the next batch travel to the ranks that own their rows while this one is computed;
    auto: where rows are known by then. None of them changes what is in a batch, or their order.
    """

    batches: NonNegativeInt = 2
    workers: PositiveInt = 1
    ids: Literal["auto"] | bool = "auto"

    def sends_ids(self, known: bool) -> bool:
        """Whether ids of the next batch travel. known: that it is known already which rows they are."""
        return self.ids is not False and known


DEFAULT = PrefetchConfig()
NONE = PrefetchConfig(batches=0, ids=False)


def ahead(tasks: Iterable[Callable[[], T]], config: PrefetchConfig) -> Generator[T]:
    """The results of tasks in their order; what a task raises, or the iterator of them in place of one, is raised in
    its place. No thread is left at the end, also where the iterator is closed before.
    """
    if not config.batches:
        yield from (task() for task in tasks)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(config.workers, thread_name_prefix="prefetch") as threads:
        try:
            for task in _with_error(tasks):
                waiting.append(threads.submit(task))
                if len(waiting) > config.batches:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _with_error(tasks: Iterable[Callable[[], T]]) -> Iterator[Callable[[], T]]:
    """The tasks, and one that raises what their iterator does: results that still wait come before it."""
    try:
        yield from tasks
    except Exception as error:
        yield partial(_raise, error)


def _raise(error: Exception) -> NoReturn:
    raise error
