"""Where a model and a checkpoint do not fit together: one line for each table, state and dense weight."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.metadata import STORAGE_TYPES, TensorStorageMetadata

from sharded_emb.distributed.shard import Sharded
from sharded_emb.errors import nearest
from sharded_emb.training import checkpoint_entries as entries

Saved = Mapping[str, STORAGE_TYPES]


def misfits(wanted: entries.Entries, saved: Saved, sharded: Sharded, checkpoint: Path) -> list[str]:
    """What is missing in the checkpoint, what it has too much, and what it has in another shape."""
    # dense weights that do not fit follow from tables that do not
    return [*_tables(wanted, saved, sharded, checkpoint)] or [*_dense(wanted, saved, checkpoint)]


def _tables(wanted: entries.Entries, saved: Saved, sharded: Sharded, checkpoint: Path) -> Iterator[str]:
    there = {name.split(".")[1] for name in entries.of(entries.TABLES, saved)}
    for name in sorted(there - sharded.embeddings.tables.keys()):
        hint = nearest(name, sharded.embeddings.tables)
        yield f"tables.{name}: want the table, which {checkpoint} has, got none{hint}"
    for name, table in sharded.embeddings.tables.items():
        if name not in there:
            yield f"tables.{name}: want it in {checkpoint}, got none{nearest(name, there)}"
            continue
        rows, dim = _shape(saved[f"{entries.TABLES}.{name}.weight"]) or (0, 0)
        for key, mine, theirs in (("rows", table.rows, rows), ("dim", table.dim, dim)):
            if mine != theirs:
                yield f"tables.{name}.{key}: want {theirs}, as {checkpoint} has it, got {mine}"
        if (rows, dim) == (table.rows, table.dim):
            yield from _states(name, wanted, saved, checkpoint)


def _states(table: str, wanted: entries.Entries, saved: Saved, checkpoint: Path) -> Iterator[str]:
    """A state is missing, or is one a row where it should be one an element."""
    for name in entries.of(f"{entries.TABLES}.{table}", wanted):
        got = _shape(saved[name]) if name in saved else None
        if got != (shape := _shape(wanted[name])):
            said = "none" if got is None else f"one of shape {got}"
            kind = name.split(".")[-1]
            yield f"tables.{table}.optimizer: want one whose state {kind} {shape} is in {checkpoint}, got {said}"


def _dense(wanted: entries.Entries, saved: Saved, checkpoint: Path) -> Iterator[str]:
    for name in (*entries.of(entries.DENSE, wanted), *entries.of(entries.COLLISIONS, wanted)):
        shape, kept = _shape(wanted[name]), _shape(saved[name]) if name in saved else None
        if name not in saved:
            yield f"run: want {name} in {checkpoint}, got none; leave out overrides that change the model"
        elif shape is not None and kept is not None and shape != kept:
            yield f"run: want {name} of shape {shape}, got {kept} in {checkpoint}"
    for name in entries.of(entries.DENSE, saved):
        if name not in wanted:
            yield f"run: want no {name}, which the model has not, got it in {checkpoint}; take the model of the run"


def _shape(value: Any) -> tuple[int, ...] | None:
    """Of a tensor, of a sharded one, or of what a checkpoint says of one; None of anything else."""
    if isinstance(value, ShardedTensor):
        return tuple(value.metadata().size)
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return tuple(value.size) if isinstance(value, TensorStorageMetadata) else None
