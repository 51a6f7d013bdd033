"""What tables begin with in place of what `init` gives: a file of weights, or a table of another run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sharded_emb.data.dataset import Dataset
from sharded_emb.errors import InputError
from sharded_emb.pretrained import Vectors, Wanted, WeightsFile
from sharded_emb.tables import Table
from sharded_emb.training.checkpoint_table import Mine, TableOfRun, newest_of
from sharded_emb.training.checkpoint_vocabularies import vocabularies_of


def checkpoints_of_runs(tables: Sequence[Table]) -> dict[str, Path | None]:
    """Of each table with weights the checkpoint that they are in now, None where they are in a file."""
    return {table.name: newest_of(table.weights) for table in tables if table.weights is not None}


def open_weights(table: Table, dataset: Dataset, checkpoint: Path | None = None) -> Vectors:
    """What the key `tables.NAME.weights` names, of a run a checkpoint. Raises InputError where it does not fit."""
    assert table.weights is not None
    vocabulary = vocabularies_of(dataset, [table]).get(table.name)
    raw_ids = None if table.ids.takes_any or vocabulary is None else dataset.raw_ids(vocabulary.name)
    wanted = Wanted(table.name, table.rows, table.dim, raw_ids)
    if not table.weights.path.expanduser().is_dir():
        return WeightsFile(table.weights, wanted)
    return TableOfRun(table.weights, Mine(wanted, vocabulary, repr(table.ids)), checkpoint)


def weight_problems(tables: Sequence[Table], dataset: Dataset) -> Iterator[str]:
    """Pretrained weights have to be there, and fit their tables."""
    for table in tables:
        if table.weights is not None:
            try:
                open_weights(table, dataset)
            except InputError as error:
                yield from error.problems
