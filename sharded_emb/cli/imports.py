"""Imports of a command, which take most of its start."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """While modules are imported, nothing looks for garbage: there is hardly any, and that takes a fifth of the time.
    What was imported stays, so that later nothing looks there either.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
