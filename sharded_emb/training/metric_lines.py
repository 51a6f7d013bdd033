"""metrics.jsonl, and the same numbers for TensorBoard."""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("sharded_emb")


class MetricLines:
    """Of a run folder, open for more. A disk that is full for now costs lines, as the log says, and not the run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "metrics.jsonl"
        self._file = self._path.open("ab", buffering=0)  # what is written is there: nothing waits for room
        self._board: SummaryWriter | None = None
        self._without_board = False
        self._first_step: int | None = None  # of those that TensorBoard is to forget

    @property
    def bytes(self) -> int:
        """Written so far."""
        return os.fstat(self._file.fileno()).st_size

    def rewind(self, step: int, to_bytes: int) -> None:
        """Forgets what came after a step, when there were so many bytes."""
        if self.bytes < to_bytes:
            log.warning("metrics.jsonl: want %d bytes from before the checkpoint, got %d", to_bytes, self.bytes)
        self._file.truncate(min(self.bytes, to_bytes))
        self._first_step = step + 1

    def write(self, step: int, line: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """One line, whole or not at all, and values of the step for TensorBoard."""
        before, text = self.bytes, json.dumps(without_nan(line)) + "\n"
        with self._told(f"metrics.jsonl has no line of step {step}"):
            try:
                if self._file.write(text.encode()) != len(text.encode()):
                    raise OSError("the disk took a part of it")
            except OSError:
                with suppress(OSError):
                    self._file.truncate(before)
                raise
        if self._without_board:
            return
        with self._told(f"TensorBoard has nothing from step {step} on"):
            self._without_board = True  # unless all goes well: its own thread ends with the first error
            self._board = self._board or SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._first_step)
            for key, value in values.items():
                self._board.add_scalar(key, value, step)
            self._without_board = False

    def close(self) -> None:
        """Ends both."""
        self._file.close()
        board, self._board = self._board, None
        if board is not None:
            with self._told("TensorBoard has not all"):
                board.close()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log.error("%s: %s: %s", what, self._folder, error.strerror or error)


def without_nan(value: Any) -> Any:
    """The same with null for what JSON has no word for: not-a-number and infinities."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
