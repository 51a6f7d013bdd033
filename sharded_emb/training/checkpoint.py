"""Checkpoints: tables, dense weights and all optimizer states, complete or absent.

checkpoints/step-N/    one checkpoint, in the format of torch.distributed.checkpoint, and vocabularies.json
checkpoints/last       a link to the newest one
checkpoints/best       a link to the one with the best validation metric, if there is one
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint._nested_dict import flatten_state_dict, unflatten_state_dict
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded
from sharded_emb.errors import InputError

_VOCABULARIES = "vocabularies.json"
_IDS = "ids.json"


class Checkpoints:
    """The checkpoints of one run folder. Every method but `newest` is called by all ranks together.

    vocabularies: the hash of the vocabulary of each table that has one; a checkpoint is of no use with another.
    """

    def __init__(self, run: Path, place: Place, vocabularies: dict[str, str]) -> None:
        self.folder = run / "checkpoints"
        self.place = place
        self.vocabularies = vocabularies

    def save(self, sharded: Sharded, dense: Optimizer, step: int, best: bool) -> None:
        """Writes aside, renames, then moves `last` (and `best`), and drops what neither names."""
        target = self.folder / f"step-{step}"
        if not target.exists():
            aside = self.folder / f".step-{step}.part"
            if self.place.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
            self._barrier()
            save(_entries(_state(sharded, dense))[0], checkpoint_id=aside)
            self._barrier()
            if self.place.rank == 0:
                (aside / _IDS).write_text(json.dumps(_ids(sharded)), encoding="utf-8")
                (aside / _VOCABULARIES).write_text(json.dumps(self.vocabularies), encoding="utf-8")
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
        """Reads weights, and states where there is an optimizer to take them, into a model of any plan.

        Raises InputError if the checkpoint has other vocabularies, or lacks something or has it in another shape.
        """
        state = _state(sharded, dense)
        if wrong := _other_ids(sharded, checkpoint):  # what else differs follows from it
            raise InputError(*wrong)
        if wrong := [*self._other_vocabularies(checkpoint), *_misfits(state, checkpoint)]:
            raise InputError(*wrong)
        entries, places = _entries(state)
        load(entries, checkpoint_id=checkpoint)
        flat, _ = flatten_state_dict(state)
        state = unflatten_state_dict({**flat, **entries}, places)
        sharded.embeddings.load_state_dict(state["tables"])
        nn.ModuleDict(sharded.dense()).load_state_dict(state["dense"])
        sharded.collisions.load_state_dict(state.get("collisions", {}))
        if dense is not None:
            # a rank without fused tables has nothing of them to read, and SGD has no state at all
            sharded.fused.load_state_dict({**sharded.fused.state_dict(), **state.get("fused", {})})
            dense.load_state_dict({**dense.state_dict(), **state["dense_optimizer"]})
            sharded.updates.load_state_dict(state["updates"])

    def _other_vocabularies(self, checkpoint: Path) -> list[str]:
        trained = json.loads((checkpoint / _VOCABULARIES).read_text(encoding="utf-8"))
        return [
            f"data: want the vocabulary of {table} that {checkpoint} was trained on, got another; its rows would be "
            "somebody else's; give the dataset folder of the run, or train again"
            for table, sha256 in self.vocabularies.items()
            if trained.get(table, sha256) != sha256
        ]

    def _drop_unnamed(self) -> None:
        kept = {(self.folder / name).resolve().name for name in ("last", "best") if (self.folder / name).exists()}
        for old in self.folder.glob("step-*"):
            if old.name not in kept:
                shutil.rmtree(old)

    def _barrier(self) -> None:
        dist.all_reduce(torch.zeros(1), group=self.place.control)


def _ids(sharded: Sharded) -> dict[str, str]:
    """By table what ids say about its rows."""
    return {table.name: repr(table.ids) for _, table in sharded.embeddings.features.values()}


def _other_ids(sharded: Sharded, checkpoint: Path) -> list[str]:
    """Tables of which ids read other rows than in the run that left the checkpoint."""
    trained = json.loads((checkpoint / _IDS).read_text(encoding="utf-8"))
    return [
        f"tables.{name}.ids: want {trained[name]}, with which {checkpoint} was trained, got {ids}; leave ids as it was"
        for name, ids in _ids(sharded).items()
        if trained.get(name, ids) != ids
    ]


def _state(sharded: Sharded, dense: Optimizer | None) -> dict[str, Any]:
    state: dict[str, Any] = {
        "tables": sharded.embeddings.state_dict(),
        # flat: an empty mapping is no entry, and one that only some ranks find again
        "dense": nn.ModuleDict(sharded.dense()).state_dict(),
        "collisions": sharded.collisions.state_dict(),
    }
    if dense is not None:
        state |= {
            "fused": sharded.fused.state_dict(),
            "updates": sharded.updates.state_dict(sharded.weights()),
            "dense_optimizer": dense.state_dict(),
        }
    return state


def _entries(state: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The values of a nested state by dotted name, without empty mappings, and their places in it.

    Flat already where it meets the library, which reads nested states in two ways and takes the older one when a rank
    lacks entries that others have.
    """
    flat, places = flatten_state_dict(state)
    return {name: value for name, value in flat.items() if not (isinstance(value, dict | list) and not value)}, places


def _misfits(state: dict[str, Any], checkpoint: Path) -> list[str]:
    """What this model has and the checkpoint has not, or not in this shape."""
    saved = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    wanted, _ = _entries(state)
    found = []
    for name, value in wanted.items():
        shape = value.metadata().size if isinstance(value, ShardedTensor) else getattr(value, "shape", None)
        kept = getattr(saved.get(name), "size", None)
        if name not in saved:
            found.append(f"run: want {name} in {checkpoint}, got none; leave out overrides that change model or plan")
        elif shape is not None and kept is not None and tuple(shape) != tuple(kept):
            found.append(f"run: want {name} of shape {tuple(shape)}, got {tuple(kept)} in {checkpoint}")
    return found


def _point(link: Path, name: str) -> None:
    """Makes a link name another checkpoint, in one step."""
    aside = link.with_name(f".{link.name}.part")
    aside.unlink(missing_ok=True)
    aside.symlink_to(name)
    aside.replace(link)
