"""A model that does not get along: tells of one rank what becomes of it, and when. For tests of what then happens."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharded_emb.batch import Jagged
from sharded_emb.models.base import NextItemConfig, NextItemModel
from sharded_emb.tables import Table
from sharded_emb.training import checkpoint_files as files
from sharded_emb.training.pulse import Pulse


class Breaking(NextItemConfig):
    """how: raise (saves in the background are slow meanwhile), kill (the other rank takes its time to end), not_finite,
    stall, slow_save, or none. rank, step: of the one that breaks. once: a file that is made then, and keeps it from
    breaking again.
    """

    how: str
    rank: int = 1
    step: int = 4
    seconds: float = 60.0
    once: str | None = None

    def build(self, tables: Sequence[Table]) -> NextItemModel:
        (dim,) = {table.dim for table in tables}
        return BreakingModel(self, dim)


class BreakingModel(NextItemModel):
    def __init__(self, config: Breaking, dim: int) -> None:
        super().__init__(config.history)
        self.turn, self.config, self.calls = nn.Linear(dim, dim), config, 0
        if config.how == "slow_save":
            self.register_state_dict_post_hook(lambda *_: self._slowly())
        if config.how == "raise" and self._mine():
            files.pieces_of_rank = _late(files.pieces_of_rank)
        if config.how == "kill" and not self._mine():
            Pulse.close = _late(Pulse.close)  # type: ignore[method-assign]

    def _mine(self) -> bool:
        return int(os.environ.get("RANK", "0")) == self.config.rank

    def _slowly(self) -> None:
        if self._mine() and self.calls >= self.config.step:
            time.sleep(self.config.seconds)

    def encode(self, events: Jagged) -> Tensor:
        if self.training:
            self.calls += 1
            if self._mine() and self.calls == self.config.step:
                self._break(self.config.how)
        found: Tensor = self.turn(events.values_TD)
        broken = self.training and self._mine() and self.calls == self.config.step and self.config.how == "not_finite"
        return found * torch.nan if broken else found

    def _break(self, how: str) -> None:
        if self.config.once is not None:
            if Path(self.config.once).exists():
                return
            Path(self.config.once).touch()
        if how == "raise":
            raise ValueError("the model has had enough")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "stall":
            time.sleep(self.config.seconds)


def _late(work: Callable[..., Any]) -> Callable[..., Any]:
    def waits(*given: Any) -> Any:
        time.sleep(2)
        return work(*given)

    return waits
