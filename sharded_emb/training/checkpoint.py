"""Checkpoints: tables, dense weights and all optimizer states, complete or absent.

checkpoints/step-N/    one checkpoint, in the format of torch.distributed.checkpoint
checkpoints/last       a link to the newest one
checkpoints/best       a link to the one with the best validation metric, if there is one
"""

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded
from sharded_emb.errors import InputError


class Checkpoints:
    """The checkpoints of one run folder. Every method but `newest` is called by all ranks together."""

    def __init__(self, run: Path, place: Place) -> None:
        self.folder = run / "checkpoints"
        self.place = place

    def save(self, sharded: Sharded, dense: Optimizer, step: int, best: bool) -> None:
        """Writes aside, renames, then moves `last` (and `best`), and drops what neither names."""
        target = self.folder / f"step-{step}"
        if not target.exists():
            aside = self.folder / f".step-{step}.part"
            if self.place.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
            self._barrier()
            save(_state(sharded, dense), checkpoint_id=aside)
            self._barrier()
            if self.place.rank == 0:
                aside.rename(target)
        if self.place.rank == 0:
            for name in ("last", "best") if best else ("last",):
                _point(self.folder / name, target.name)
            self._drop_unnamed()
        self._barrier()

    def newest(self) -> Path:
        """The best checkpoint, else the last. Raises InputError if there is none."""
        for name in ("best", "last"):
            if (self.folder / name).exists():
                return (self.folder / name).resolve()
        raise InputError(f"run: want a run with a checkpoint, got {self.folder.parent} without one; train it first")

    def load(self, sharded: Sharded, dense: Optimizer | None, checkpoint: Path) -> None:
        """Reads weights, and states where there is an optimizer to take them, into a model of any plan."""
        state = _state(sharded, dense)
        load(state, checkpoint_id=checkpoint)
        sharded.embeddings.load_state_dict(state["tables"])
        sharded.plain.get_submodule("model").load_state_dict(state["dense"])
        if dense is not None:
            sharded.fused.load_state_dict(state["fused"])
            dense.load_state_dict(state["dense_optimizer"])
            if sharded.replicated_optimizer is not None:
                sharded.replicated_optimizer.load_state_dict(state["replicated_optimizer"])

    def _drop_unnamed(self) -> None:
        kept = {(self.folder / name).resolve().name for name in ("last", "best") if (self.folder / name).exists()}
        for old in self.folder.glob("step-*"):
            if old.name not in kept:
                shutil.rmtree(old)

    def _barrier(self) -> None:
        dist.all_reduce(torch.zeros(1), group=self.place.control)


def _state(sharded: Sharded, dense: Optimizer | None) -> dict[str, Any]:
    state: dict[str, Any] = {
        "tables": sharded.embeddings.state_dict(),
        "dense": sharded.plain.get_submodule("model").state_dict(),
    }
    if dense is not None:
        state |= {"fused": sharded.fused.state_dict(), "dense_optimizer": dense.state_dict()}
        if sharded.replicated_optimizer is not None:
            state["replicated_optimizer"] = sharded.replicated_optimizer.state_dict()
    return state


def _point(link: Path, name: str) -> None:
    """Makes a link name another checkpoint, in one step."""
    aside = link.with_name(f".{link.name}.part")
    aside.unlink(missing_ok=True)
    aside.symlink_to(name)
    aside.replace(link)
