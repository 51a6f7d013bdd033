"""How problems are shown: once, whatever the number of ranks."""

import errno
import io
import sys
import time
import traceback
from typing import Any, TextIO

from sharded_emb.errors import InputError, RunFailedError

# how long the other ranks leave it to rank 0 to show what all of them found; torchrun ends them before
WAIT_FOR_FIRST_RANK_SECONDS = 10


class Terminal:
    """A stream to a terminal, that of a TextIO otherwise. What is written after the terminal is gone is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """The length of the text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            _require_gone(error)
            return len(text)

    def flush(self) -> None:
        """What is there to be written."""
        try:
            self._stream.flush()
        except OSError as error:
            _require_gone(error)


def _require_gone(error: OSError) -> None:
    if error.errno != errno.EIO:
        raise error


def outlive_terminal() -> None:
    """A command whose terminal goes while it is told to stop has a checkpoint to write; and letters that it does not
    know, as raw ids may have, are no reason to fail.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream.isatty():
            setattr(sys, name, Terminal(stream))


def show_problems(command: str, error: InputError) -> int:
    """One problem a line on stderr, once for all ranks; the exit code for wrong input.

    The other ranks wait to be ended by the launcher once rank 0 has shown the list. One that is not has found what
    rank 0 has not, on a host of its own, say, and shows it.
    """
    rank, count = _launched_rank(), len(error.problems)
    if rank:
        _wait_to_be_ended()
    heading = f"{command}: {count} problem{'s' if count != 1 else ''}" + (f" (rank {rank})" if rank else "")
    print("\n  ".join([heading, *error.problems]), file=sys.stderr, flush=True)
    return 2


def show_failure(command: str, error: Exception) -> int:
    """What a command failed of, on stderr; the exit code. The traceback is shown where the text does not say it all.

    What all ranks found together is shown by the first one.
    """
    rank = _launched_rank()
    where = f"{command} (rank {rank})" if rank else command
    if not isinstance(error, RunFailedError):
        print(f"{where}: failed\n{''.join(traceback.format_exception(error))}", file=sys.stderr, flush=True)
        if (group := sys.modules.get("sharded_emb.distributed.process_group")) is not None:
            group.report_failure(error)
        return 1
    if rank and error.everywhere:
        _wait_to_be_ended()
    print(f"{where}: {error}", file=sys.stderr, flush=True)
    if not error.everywhere:  # for the launcher to see that another rank was the first to end
        _wait_to_be_ended()
    return 1


def _wait_to_be_ended() -> None:
    """By the launcher, which may have asked for it when this rank was about to say something."""
    if (signals := sys.modules.get("sharded_emb.training.signals")) is not None:
        signals.obey()
    time.sleep(WAIT_FOR_FIRST_RANK_SECONDS)


def _launched_rank() -> int:
    try:
        from sharded_emb.distributed.process_group import launched_rank
    except (ImportError, OSError):  # a torch that does not load has launched nobody
        return 0
    return launched_rank()
