"""How problems are shown: once, whatever the number of ranks."""

import sys
import time

from sharded_emb.errors import InputError

# how long the other ranks leave it to rank 0 to show what all of them found; torchrun ends them before
WAIT_FOR_FIRST_RANK_SECONDS = 10


def show_problems(command: str, error: InputError) -> int:
    """One problem a line on stderr, once for all ranks; the exit code for wrong input.

    The other ranks wait to be ended by the launcher once rank 0 has shown the list. One that is not has found what
    rank 0 has not, on a host of its own, say, and shows it.
    """
    rank, count = _launched_rank(), len(error.problems)
    if rank:
        time.sleep(WAIT_FOR_FIRST_RANK_SECONDS)
    heading = f"{command}: {count} problem{'s' if count != 1 else ''}" + (f" (rank {rank})" if rank else "")
    print("\n  ".join([heading, *error.problems]), file=sys.stderr, flush=True)
    return 2


def _launched_rank() -> int:
    try:
        from sharded_emb.distributed.process_group import launched_rank
    except (ImportError, OSError):  # a torch that does not load has launched nobody
        return 0
    return launched_rank()
