"""What is said and kept of a run that fails: by the rank that failed, by those that failed of that, by all together."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sharded_emb.batch import Batch
from sharded_emb.distributed.agree import all_values, from_first_rank
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError, RunFailedError
from sharded_emb.training.pulse import FAILED, Pulse, told

log = logging.getLogger("sharded_emb")

# what communication libraries say where there is nobody at the other end
_LOST = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|timed out", re.IGNORECASE)


class OtherRankFailedError(RunFailedError):
    """Another rank failed, and this one could not go on without it."""

    everywhere = False


def explained(error: BaseException, pulse: Pulse, log_file: Path) -> BaseException:
    """What this rank should end with; the others read from now on that it failed.

    What all ranks raise together stays as it is. An error that follows from another rank's names that and its log. Any
    other is this rank's own, and gets a note with its log.
    """
    together = isinstance(error, InputError) or (isinstance(error, RunFailedError) and error.everywhere)
    if together or not isinstance(error, Exception):
        return error
    first, now = pulse.first_failed(), pulse.mine
    if first is None and not _LOST.search(str(error)):
        pulse.tell(now.step, FAILED, f"{type(error).__name__}: {error}")
        error.add_note(f"rank {pulse.place.rank}, after step {now.step}, {now.phase}; its log is {log_file}")
        return error
    if first is not None:
        their_log = log_file.with_name(f"rank-{first.rank}.log")
        return OtherRankFailedError(
            f"rank {first.rank} failed after step {first.step}: {first.detail}; its log is {their_log}"
        )
    said = str(error).splitlines()[0]
    return OtherRankFailedError(f"another rank is gone or hangs, and gave no reason ({said})\n{told(pulse.everyone())}")


def write_batch(run: Path, pieces: Sequence[Batch], step: int, place: Place) -> Path | None:
    """Writes the global batch of a step, a list of pieces by rank, for `torch.load`; called by all ranks together.

    The file; None where it cannot be written, which is less than what it is written for.
    """
    path = run / f"not-finite-step-{step}.pt"
    by_rank = all_values([_plain(piece) for piece in pieces], place)

    def write() -> Path | None:
        try:
            torch.save({"step": step, "ranks": by_rank}, path)
        except (OSError, RuntimeError):  # of torch, for a folder that is gone
            return None
        return path

    return from_first_rank(write, place)


def _plain(batch: Batch) -> dict[str, Any]:
    """Tensors by name: ids and lengths of each feature, how many are of each item, numbers of events; labels, numbers
    and weights of rows.
    """
    ids = {
        name: {"ids": each.values().cpu(), "lengths": each.lengths().cpu()}
        for name, each in batch.ids.to_dict().items()
    }
    of_rows = {"label": batch.label_B, "numbers_of_rows": batch.numbers_BA, "weight": batch.weight_B}
    return {
        "ids": ids,
        "per_item": {name: each.cpu() for name, each in batch.per_item.items()},
        "numbers": {name: each.cpu() for name, each in batch.numbers.items()},
        **{name: None if each is None else each.cpu() for name, each in of_rows.items()},
        "samples": batch.samples,
    }


def say_not_saved(step: int, error: Exception) -> None:
    """In the log."""
    log.error("not saved after step %d: %s", step, error)
