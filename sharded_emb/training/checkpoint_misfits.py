"""Where a model and a checkpoint do not fit together: one line for each table, state and dense weight."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.metadata import STORAGE_TYPES, TensorStorageMetadata

from sharded_emb.distributed.shard import Sharded
from sharded_emb.embeddings.local_rows import DTYPES
from sharded_emb.errors import nearest
from sharded_emb.tables import Table
from sharded_emb.training import checkpoint_entries as entries
from sharded_emb.training.checkpoint_allowed import Allowed, Fit
from sharded_emb.training.checkpoint_vocabularies import Vocabulary, other_vocabulary

_BEGINNING = "warm_start.run"  # the key under which a person names what only has to fit as far as is asked
Saved = Mapping[str, STORAGE_TYPES]
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Opened:
    """A checkpoint. saved: its entries. said: what it says of its run. key: under which a person named that run."""

    path: Path
    saved: Saved
    said: Mapping[str, Any]
    key: str = "run"


@dataclass(frozen=True)
class Model:
    """What is to be loaded. wanted: its entries. optimizer: the class of that of its dense weights, None without."""

    sharded: Sharded
    wanted: entries.Entries
    vocabularies: Mapping[str, Vocabulary]
    optimizer: str | None

    @property
    def tables(self) -> dict[str, Table]:
        """As a person names them: a table that is composed of others is one."""
        return {table.name: table for _, table in self.sharded.embeddings.features.values()}


def fit(model: Model, checkpoint: Opened, allowed: Allowed) -> Fit:
    """What is missing in the checkpoint, what it has too much, and what it has in another shape or of other ids."""
    found = Fit()
    _ids(model, checkpoint, allowed, found)
    if not found.problems:  # what else differs follows from it
        _tables(model, checkpoint, allowed, found)
        # so do dense weights from the dim of a table
        if not any(".dim: " in problem for problem in found.problems):
            _dense(model, checkpoint, allowed, found)
            found.problems += _optimizer(model, checkpoint)
    if found.problems or not allowed.inherited:
        found.problems += allowed.misspelt(_names(model.wanted), _names(checkpoint.saved))
    return found


def _names(of_entries: Mapping[str, Any]) -> list[str]:
    """Of tables and dense weights."""
    tables = map(entries.table_of, entries.of(entries.TABLES, of_entries))
    return [*dict.fromkeys(tables), *entries.of(entries.DENSE, of_entries)]


def _ids(model: Model, checkpoint: Opened, allowed: Allowed, found: Fit) -> None:
    """Tables of which ids read other rows than in the run that left the checkpoint."""
    trained = checkpoint.said["ids"]
    for name, table in model.tables.items():
        ids = repr(table.ids)
        if trained.get(name, ids) != ids and not allowed.may_begin_anew(name):
            found.problems.append(
                f"tables.{name}.ids: want {trained[name]}, with which {checkpoint.path} was trained, got {ids}; leave "
                "ids as it was"
            )


def _tables(model: Model, checkpoint: Opened, allowed: Allowed, found: Fit) -> None:
    there = {name.split(".")[1] for name in entries.of(entries.TABLES, checkpoint.saved)}
    known = {name.partition(":")[0] for name in there}
    for name in sorted(known - model.tables.keys()):
        if allowed.may_leave(name):
            found.unexpected.append(name)
            continue
        remedy = f"{nearest(name, model.tables)}; checkpoint.allow_unexpected=[{name}] leaves it out"
        found.problems.append(f"tables.{name}: want the table, which {checkpoint.path} has, got none{remedy}")
    for name, table in model.tables.items():
        wrong: list[str] = []
        grown = None
        if name not in known:
            remedy = f"{nearest(name, known)}; checkpoint.allow_missing=[{name}] keeps its initial rows"
            wrong = [f"tables.{name}: want it in {checkpoint.path}, got none{remedy}"]
        else:
            grown = _rows(table, checkpoint, allowed, wrong)
            wrong += [] if model.optimizer is None else _optimizer_of(table, checkpoint)
            for part in table.parts.values() or [table]:
                wrong += _part(part, model, checkpoint, grown)
            wrong = _one_a_key(wrong)
            wrong += _vocabulary(name, model, checkpoint, found)
        if wrong and (allowed.may_begin_anew(name) if name in known else allowed.may_lack(name)):
            found.missing.append(name)
            found.unexpected += [name] if name in known else []
            found.anew |= {entry for entry in model.wanted if _is_of(entry, name)}
        else:
            found.problems += wrong
            if grown is not None:
                found.grown[name] = grown


def _one_a_key(lines: list[str]) -> list[str]:
    """The first line of each key: parts of a table are wrong in the same way, and states for one reason."""
    first = {line.partition(": ")[0]: line for line in reversed(lines)}
    return [line for line in lines if first[line.partition(": ")[0]] is line]


def _is_of(entry: str, table: str) -> bool:
    return entry.split(".")[0] in (entries.TABLES, entries.COLLISIONS) and entries.table_of(entry) == table


def _rows(table: Table, checkpoint: Opened, allowed: Allowed, wrong: list[str]) -> tuple[int, int] | None:
    """The rows before and now of a table that may have grown; else what is wrong with their number, if anything is."""
    key, before = f"tables.{table.name}.rows", checkpoint.said["rows"][table.name]
    if before == table.rows:
        return None
    said = f"{key}: want {before}, as {checkpoint.path} has it, got {table.rows}"
    if before > table.rows:
        wrong.append(said)
    elif not table.ids.keeps_rows(before, table.rows):
        wrong.append(f"{said}; with ids: {table.ids} ids would read other rows among more, so leave rows as it was")
    elif not allowed.may_grow(table.name):
        wrong.append(
            f"{said}; checkpoint.grow_tables=[{table.name}] keeps the old ones, and fills new ones by the seed"
        )
    else:
        return before, table.rows
    return None


def _part(part: Table, model: Model, checkpoint: Opened, grown: tuple[int, int] | None) -> Iterator[str]:
    """What is wrong with a table that holds weights. grown: see `_rows`, which has spoken of rows."""
    key, prefix = f"tables.{part.name.partition(':')[0]}", f"{entries.TABLES}.{part.name}"
    weight = checkpoint.saved.get(f"{prefix}.weight")
    rows, dim = shape_of(weight) or (0, 0)
    if dim != part.dim:
        yield f"{key}.dim: want {dim}, as {checkpoint.path} has it, got {part.dim}{_anew(checkpoint)}"
        return
    if (dtype := _dtype(weight)) != DTYPES[part.dtype]:
        said = f"{checkpoint.path} has it, got {part.dtype}{_anew(checkpoint)}"
        yield f"{key}.dtype: want {_named(dtype)}, as {said}"
    for name in entries.of(prefix, model.wanted):
        if name == f"{prefix}.weight":
            continue
        kind, wanted = name.split(".")[-1], shape_of(model.wanted[name]) or ()
        got = shape_of(checkpoint.saved[name]) if name in checkpoint.saved else None
        if got is None or got[1:] != wanted[1:] or (got[0] != wanted[0] and grown is None and rows == part.rows):
            said = f"{'none' if got is None else f'one of shape {got}'}{_fresh(checkpoint)}"
            yield f"{key}.optimizer: want one whose state {kind} {wanted} is in {checkpoint.path}, got {said}"
        elif (dtype := _dtype(checkpoint.saved[name])) != DTYPES[part.state_dtype]:
            yield f"{key}.state_dtype: want {_named(dtype)}, as {checkpoint.path} has it, got {part.state_dtype}"


def _optimizer_of(table: Table, checkpoint: Opened) -> Iterator[str]:
    """States of one optimizer say something else to another, in whatever shape."""
    if table.freeze:
        return
    mine, trained = type(table.optimizer).__name__, checkpoint.said["optimizers"][table.name]
    if mine != trained:
        whose = f"whose states {checkpoint.path} has"
        yield f"tables.{table.name}.optimizer: want {trained}, {whose}, got {mine}{_fresh(checkpoint)}"
    moves_all = table.update == "dense"
    moved_all = checkpoint.said.get("all_rows", {}).get(table.name, moves_all)  # earlier versions do not say it
    if moves_all != moved_all and checkpoint.key != _BEGINNING:
        names = {True: "all rows", False: "the rows that it reads"}
        said = f"want a step to move {names[moved_all]}, as in {checkpoint.path}, got {names[moves_all]}"
        yield f"tables.{table.name}.update: {said}; leave update, and the kernel of sharding, as they were"


def _fresh(checkpoint: Opened) -> str:
    return "; warm_start.states=false begins with fresh ones" if checkpoint.key == _BEGINNING else ""


def _anew(checkpoint: Opened) -> str:
    """What to do about something of another kind, where that can be done."""
    both = "; named in checkpoint.allow_missing and in allow_unexpected it begins anew"
    return both if checkpoint.key == _BEGINNING else ""


def _vocabulary(name: str, model: Model, checkpoint: Opened, found: Fit) -> list[str]:
    mine = model.vocabularies.get(name)
    if mine is None:
        return []
    if (wrong := other_vocabulary(mine, checkpoint.said, checkpoint.path)) is not None:
        remedy = f"; or take its rows by raw id, with tables.{name}.weights.path={checkpoint.path.parent.parent}"
        return [wrong + (remedy if checkpoint.key == _BEGINNING else "")]
    before = checkpoint.said["vocabulary_rows"].get(name, mine.rows)
    if before != mine.rows:
        found.extended[name] = before, mine.rows
    return []


def _dense(model: Model, checkpoint: Opened, allowed: Allowed, found: Fit) -> None:
    """Weights that are no table."""
    for name in entries.of(entries.DENSE, model.wanted):
        there = name in checkpoint.saved
        same = there and shape_of(model.wanted[name]) == shape_of(checkpoint.saved[name])
        if same:
            continue
        if allowed.may_begin_anew(name) if there else allowed.may_lack(name):
            found.missing.append(name)
            found.unexpected += [name] if there else []
            found.anew.add(name)
        elif there:
            shapes = f"of shape {shape_of(model.wanted[name])}, got {shape_of(checkpoint.saved[name])}"
            found.problems.append(f"{checkpoint.key}: want {name} {shapes} in {checkpoint.path}{_anew(checkpoint)}")
        else:
            remedy = f"leave out overrides that change the model, or checkpoint.allow_missing=[{name}]"
            found.problems.append(f"{checkpoint.key}: want {name} in {checkpoint.path}, got none; {remedy}")
    for name in entries.of(entries.DENSE, checkpoint.saved):
        if name in model.wanted:
            continue
        if allowed.may_leave(name):
            found.unexpected.append(name)
            continue
        remedy = f"take the model of the run, or checkpoint.allow_unexpected=[{name}]"
        said = f"want no {name}, which the model has not, got it in {checkpoint.path}"
        found.problems.append(f"{checkpoint.key}: {said}; {remedy}")


def _optimizer(model: Model, checkpoint: Opened) -> Iterator[str]:
    """As of tables."""
    if model.optimizer not in (None, trained := checkpoint.said["dense_optimizer"]):
        yield (
            f"dense_optimizer: want {trained}, whose states {checkpoint.path} has, got {model.optimizer}"
            f"{_fresh(checkpoint)}"
        )


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Of a tensor, of a sharded one, or of what a checkpoint says of one; None of anything else."""
    if isinstance(value, ShardedTensor):
        return tuple(value.metadata().size)
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return tuple(value.size) if isinstance(value, TensorStorageMetadata) else None


def _dtype(value: Any) -> torch.dtype | None:
    return value.properties.dtype if isinstance(value, TensorStorageMetadata) else None


def _named(dtype: torch.dtype | None) -> str:
    return _DTYPE_NAMES.get(dtype, str(dtype)) if dtype is not None else "none"
