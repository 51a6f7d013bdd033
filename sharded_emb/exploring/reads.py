"""How often an epoch reads each row of a table."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from sharded_emb.batch import CANDIDATES, Batch
from sharded_emb.data.collate import Collate
from sharded_emb.data.columns import Int64s
from sharded_emb.data.task import Reading
from sharded_emb.data.window import Split
from sharded_emb.exploring.figures import tally
from sharded_emb.exploring.names import Owners
from sharded_emb.tables import Table

_MEGABYTES, _ROWS = 32, 1 << 16  # at once


def without_candidates(table: Table) -> Table:
    """As the data read it: without what the loss compares with."""
    features = tuple(each for each in table.features if CANDIDATES not in (each.name, each.of))
    return replace(table, features=features)


def count_reads(
    train: Split, reading: Reading, owners: Mapping[str, Owners], wanted: Collection[str]
) -> dict[str, Int64s]:
    """By table that is wanted how often each row is there (rows) in the train split, as batches have it: truncated,
    hashed, without what is dropped; of a composed table, each id. Candidates of a loss are no reads. owners: of managed
    tables.

    Raises InputError for an id that is no row, and for a split that cannot be read.
    """
    tables = [without_candidates(table) for table in reading.tables]
    of_items = {feature.name: reading.of_items[feature.name] for t in tables for feature in t.features if feature.of}
    alone = replace(reading, tables=tables, of_items=of_items, candidates=None, candidates_of=None)
    alone = replace(alone, predicted=None, own_candidates=None)
    collate = Collate(train, alone, rank=0, name="train")
    counts = {table.name: np.zeros(table.rows, np.int64) for table in tables if table.name in wanted}
    for extents in train.spans(_MEGABYTES):
        window, rows = train.window(collate.columns, extents), extents.rows()
        for first in range(0, len(rows), _ROWS):
            some = rows[first : first + _ROWS]
            batch = collate(some, len(some), step=0, window=window)
            for table in tables:
                if table.name in counts:
                    ids_N = _ids(batch, table)
                    rows_U, times_U = tally(owners[table.name].rows(ids_N) if table.name in owners else ids_N)
                    counts[table.name][rows_U] += times_U  # of what is there alone: a table may be larger than a batch
    return counts


def _ids(batch: Batch, table: Table) -> Int64s:
    """All that a batch reads of a table: rows of it, or ids of one that is composed or managed."""
    found = {key: batch.ids[key].values() for key in batch.ids.keys()}  # noqa: SIM118, which is no mapping
    read = [np.zeros(0, np.int64)]
    for feature in table.features:
        if table.parts:
            parts = {part: found[f"{feature.name}:{part}"] for part in table.parts}
            read.append(table.ids.join(parts, table.rows).numpy())
        else:
            read.append(found[feature.name].numpy())
    return np.concatenate(read)
