"""What becomes of a command whose terminal is gone."""

import errno
import io
import os
import pty
from contextlib import suppress

import pytest

from sharded_emb.cli.show import Terminal


def test_what_is_written_to_a_terminal_that_is_gone_is_lost_and_no_error() -> None:
    ours, theirs = pty.openpty()
    bare = os.fdopen(theirs, "w", buffering=1, encoding="utf-8")
    terminal = Terminal(bare)
    print("there", file=terminal, flush=True)
    assert os.read(ours, 100).split() == [b"there"]
    assert terminal.isatty()
    os.close(ours)
    with pytest.raises(OSError, match="Input/output error"):
        os.write(theirs, b"gone")
    print("gone", file=terminal, flush=True)
    assert terminal.write("gone\n") == 5
    with suppress(OSError):  # of what was not written
        bare.close()


def test_other_errors_are_errors() -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Terminal(Full()).flush()
