"""A run as its newest checkpoint has it, for commands that read tables where they lie."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharded_emb.config.build import resolve_tables
from sharded_emb.config.run import OfRunConfig
from sharded_emb.data.dataset import Dataset
from sharded_emb.errors import InputError
from sharded_emb.tables import Table, held
from sharded_emb.training import checkpoint_files as files
from sharded_emb.training.checkpoint_entries import TABLES
from sharded_emb.training.checkpoint_rows import SavedRows, saved_tables
from sharded_emb.training.checkpoint_vocabularies import other_vocabulary, vocabularies_of


@dataclass(frozen=True)
class SavedRun:
    """The best checkpoint of a run, else its last, with whole tables. state: what it says of the run. dataset: whose
    vocabularies are those of the run. tables: of the shapes that were trained.
    """

    checkpoint: Path
    state: Mapping[str, Any]
    dataset: Dataset
    tables: list[Table]

    def require_whole(self, names: Iterable[str]) -> None:
        """Raises InputError for an entry of the checkpoint that is damaged."""
        _require_whole(self.checkpoint, names)


def saved_run(config: OfRunConfig) -> SavedRun:
    """Raises InputError for a run without a checkpoint, one that is damaged, and tables or vocabularies of others."""
    assert config.run is not None
    assert config.data is not None
    checkpoint = files.newest(config.run / "checkpoints")
    if checkpoint is None:
        raise InputError(f"run: want a run with a checkpoint, got {config.run} without one; train it first")
    _require_whole(checkpoint, [".metadata", files.STATE])
    state, dataset = files.state_of(checkpoint, "run"), Dataset.open(config.data)
    tables = resolve_tables(config, dataset, None, device="cpu")
    misfits = [other_vocabulary(each, state, checkpoint) for each in vocabularies_of(dataset, tables).values()]
    if problems := [*filter(None, misfits), *_table_problems(tables, checkpoint)]:
        raise InputError(*problems)
    _require_whole(checkpoint, [f"{TABLES}.{table.name}.weight" for table in held(tables)])
    return SavedRun(checkpoint, state, dataset, tables)


def _require_whole(checkpoint: Path, names: Iterable[str]) -> None:
    if wrong := [line for name in names for line in files.damage(checkpoint, entry=name)]:
        got = f"got {checkpoint} with a damaged {', '.join(dict.fromkeys(wrong))}"
        raise InputError(f"run: want a whole checkpoint, {got}; remove it to take the one before")


def _table_problems(tables: list[Table], checkpoint: Path) -> list[str]:
    """Tables have the rows and the dim that were trained."""
    found, known = [], saved_tables(checkpoint)
    for table in held(tables):
        if table.name not in known:
            found.append(f"tables.{table.name}: want a table of {checkpoint}, got one that it has not")
            continue
        saved = SavedRows(checkpoint, table.name)
        if (saved.rows, saved.dim) != (table.rows, table.dim):
            shapes = f"want {saved.rows} x {saved.dim}, as {checkpoint} has it, got {table.rows} x {table.dim}"
            found.append(f"tables.{table.name}: {shapes}; give the dataset and the keys of the run")
    return found
