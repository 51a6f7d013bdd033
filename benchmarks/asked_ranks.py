"""Processes that take tasks one after the other, as ranks of one launch, without what torchrun costs each time."""

import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class Ending:
    """Of a task on all ranks. text: the problems of what was refused, or a traceback."""

    how: Literal["done", "refused", "failed"]
    text: str = ""


class Ranks:
    """So many, which begin when the first task comes, and anew when one has failed."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._processes: list[Any] = []
        self._ends: list[Connection] = []

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, task: Callable[..., None], *given: Any) -> Ending:
        """Lets all ranks do it; says what became of it on the one that has the most to say. A rank that hangs, or that
        ends, has failed.
        """
        if not self._processes:
            self._begin()
        port = _free_port()
        for end in self._ends:
            end.send((task, port, given))
        endings, until = [], time.monotonic() + LIMIT_SECONDS
        for rank, end in enumerate(self._ends):
            endings.append(_heard(end, rank, until))
            if endings[-1].how == "failed":  # the others wait for it
                until = min(until, time.monotonic() + 5)
        worst = max(endings, key=lambda ending: (ending.how == "failed", len(ending.text)))
        if worst.how == "failed" or (worst.how == "refused" and self.world_size > 1):  # they are still in their group
            self._end()
        return worst

    def _begin(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["sharded_emb.config.session", "sharded_emb.cli.composing"])
        for rank in range(self.world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, self.world_size), daemon=True)
            process.start()
            self._processes.append(process)
            self._ends.append(ours)

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._ends = [], []


def _heard(end: Connection, rank: int, until: float) -> Ending:
    try:
        if not end.poll(max(0.1, until - time.monotonic())):
            return Ending("failed", f"rank {rank} hangs")
        ending: Ending = end.recv()
    except (EOFError, ConnectionError):
        return Ending("failed", f"rank {rank} ended")
    return ending


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _serve(end: Connection, rank: int, world_size: int) -> None:
    import torch

    torch.set_num_threads(1)
    if world_size > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
        os.environ.update(WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for console in (1, 2):
        os.dup2(nowhere, console)
    while True:
        task, port, given = end.recv()
        os.environ["MASTER_PORT"] = str(port)
        end.send(_ending(task, given))


def _ending(task: Callable[..., None], given: tuple[Any, ...]) -> Ending:
    from sharded_emb.errors import InputError

    try:
        task(*given)
    except InputError as error:
        return Ending("refused", "; ".join(error.problems))
    except BaseException:
        return Ending("failed", traceback.format_exc(limit=-12))
    return Ending("done")


def prepare(words: Sequence[str]) -> None:
    """As the command does."""
    import sharded_emb

    sharded_emb.prepare(sharded_emb.compose(*words))


def train(words: Sequence[str], run: Path, stop_after: int | None = None) -> None:
    """As the command does. stop_after: the step after which the first rank is told to stop, while it makes the next."""
    import sharded_emb

    with _told_to_stop(stop_after):
        sharded_emb.train(sharded_emb.compose(*words, f"run={run}", "resume=true", "wait_seconds=30"))


def verify(words: Sequence[str]) -> None:
    """As `train verify=true` does. Raises AssertionError with tables and losses that are too far apart. Dense weights
    may be by rounding alone (`verify.DENSE_TOLERANCE`), and what is wrong with them shows in the losses.
    """
    import sharded_emb
    from sharded_emb.config import verifying

    found = verifying.verify(sharded_emb.compose(*words, "wait_seconds=30"))
    far = [each for each in found if not each.passes and each.what != "dense"]
    assert not far, far


def evaluate(run: Path) -> None:
    """As the command does."""
    import sharded_emb

    sharded_emb.evaluate(run)


def serve(run: Path, rows: int, tolerance: float) -> None:
    """As `export` does. Raises AssertionError unless what is exported says of the first rows of the test split what
    `evaluate` says.
    """
    import numpy as np

    import sharded_emb
    from tests.cli import served

    exported, said = served.load(sharded_emb.export(run)), run / "said.parquet"
    sharded_emb.evaluate(run, f"predictions={said}", "filter_seen=false")
    asked = served.columns(run, exported, rows)
    if exported.said["task"] == "binary":
        found = served.said_by(exported, asked, at_once=max(1, rows // 3))
        np.testing.assert_allclose(found, served.probabilities(said, rows), atol=tolerance)
    else:
        lists = exported.recommend(asked, top_k=served.TOP_K, leave_out_seen=False)
        served.require_same_lists(lists, served.listed(said, rows), tolerance)


def explore(run: Path) -> None:
    """As the command does. Raises AssertionError unless norms are those of the vectors that were exported from the run,
    but for the rounding of lookups, and all rows of ids are counted.
    """
    import numpy as np
    import pyarrow.parquet as pq

    import sharded_emb

    for name, said in sharded_emb.explore(run, "points=50", "top_k=3")["tables"].items():
        rows = pq.read_table(run / "explore" / "rows" / f"{name}.parquet")
        assert sum(line["rows"] for line in said["by_reads"]) == said["rows_of_ids"], said
        assert len(set(rows["row"].to_pylist())) == said["rows_of_ids"], said
        exported = pq.read_table(run / "export" / "embeddings" / f"{name}.parquet")
        vectors = dict(zip(exported["row"].to_pylist(), exported["vector"].to_pylist(), strict=True))
        norms = [np.linalg.norm(vectors[row]) for row in rows["row"].to_pylist()]
        np.testing.assert_allclose(rows["norm"].to_numpy(), norms, rtol=2e-2, atol=1e-6)


@contextmanager
def _told_to_stop(step: int | None) -> Iterator[None]:
    from sharded_emb.training.pulse import Pulse

    before = Pulse.tell

    def tell(self: Pulse, at: int, phase: str, detail: str = "") -> None:
        before(self, at, phase, detail)
        if at == step and phase == "forward" and self.place.rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    Pulse.tell = tell  # type: ignore[method-assign]
    try:
        yield
    finally:
        Pulse.tell = before  # type: ignore[method-assign]
