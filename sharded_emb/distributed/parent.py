"""Ranks end with the torchrun that started them.

torchrun starts ranks in sessions of their own, in which they outlive a SIGKILL of it and train on, holding ports,
memory and the run folder.
"""

import logging
import os
import threading
import time

log = logging.getLogger("sharded_emb")

_SECONDS = 1.0


def end_with_parent() -> None:
    """From now on this process ends, with code 1, within some two seconds of the process that started it."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    # the kernel's own signal for it (PR_SET_PDEATHSIG) says nothing in the log, and exists on Linux alone
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    log.error("the launcher of this rank is gone; ending without a checkpoint")
    logging.shutdown()
    os._exit(1)
