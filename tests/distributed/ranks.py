"""Runs a function on N ranks: one process each, a rendezvous through a file, short time-outs, one thread a rank.

The processes are forks of one that has imported most of what they need, which takes a rank four seconds otherwise; its
environment is that of the first start. Each has random numbers of its own, as ranks of torchrun have, but not its own
hashes of strings: what depends on the order of a set shows in the tests that start torchrun alone.
"""

import io
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sharded_emb.distributed.process_group import Place, place_in_group

WAIT_SECONDS = 30
# there is one such process of a test run, so this is for all who fork from it
_IMPORTED_ONCE = ["sharded_emb.config.session", "sharded_emb.cli.composing"]


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *arguments: Any,
    limit_seconds: float = 240,
    per_host: int | None = None,
) -> list[Any]:
    """What the function returns on each rank, called with its `Place` and the arguments.

    The function has to be importable. per_host: ranks on each of what the ranks take for hosts; all on one if it is
    None. Raises AssertionError with the traceback of the first rank that failed.
    """
    context = forking()
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = str(Path(folder) / "rendezvous")
        ranks = [
            context.Process(target=_enter, args=(function, place, rendezvous, answers, arguments))
            for place in ((rank, world_size, per_host or world_size) for rank in range(world_size))
        ]
        for process in ranks:
            process.start()
        try:
            found = dict(_unpack(answers.get(timeout=limit_seconds)) for _ in range(world_size))
        finally:
            for process in ranks:
                process.join(timeout=WAIT_SECONDS)
                if process.is_alive():
                    process.kill()
    for rank in range(world_size):
        assert not isinstance(found[rank], _Failed), f"rank {rank}:\n{found[rank].text}"
    return [found[rank] for rank in range(world_size)]


def forking() -> ForkServerContext:
    """What makes processes that have imported most of it already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED_ONCE)
    return context


def _pack(answer: tuple[int, Any]) -> bytes:
    """As bytes: a tensor in a queue is a handle that dies with the process that sent it."""
    buffer = io.BytesIO()
    torch.save(answer, buffer)
    return buffer.getvalue()


def _unpack(packed: bytes) -> tuple[int, Any]:
    answer: tuple[int, Any] = torch.load(io.BytesIO(packed), weights_only=False)
    return answer


class _Failed:
    def __init__(self, text: str) -> None:
        self.text = text


def _enter(
    function: Callable[..., Any],
    place: tuple[int, int, int],
    rendezvous: str,
    answers: Any,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    torch.seed()  # forks would draw the same
    rank, world_size, per_host = place
    os.environ.update(LOCAL_RANK=str(rank % per_host), LOCAL_WORLD_SIZE=str(per_host))
    timeout = timedelta(seconds=WAIT_SECONDS)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size, timeout=timeout
        )
        answers.put(_pack((rank, function(place_in_group(torch.device("cpu"), timeout), *arguments))))
        dist.destroy_process_group()
    except BaseException:
        answers.put(_pack((rank, _Failed(traceback.format_exc()))))
        raise


def on_one_rank(function: Callable[[Place], Any]) -> Any:
    """What the function returns in a world of one, in this process."""
    from sharded_emb.distributed.process_group import process_group

    with process_group("cpu", wait_seconds=WAIT_SECONDS) as place:
        return function(place)
