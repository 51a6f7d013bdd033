"""Items as a next-item model compares them with queries: what nearest neighbours are searched among.

N  items    D  dim    V  values that describe them
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from sharded_emb.batch import Extent, Jagged
from sharded_emb.data.columns import RaggedColumn
from sharded_emb.data.task import Reading
from sharded_emb.distributed.host_memory import let_go_of_pages
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.errors import InputError
from sharded_emb.metrics.baselines import count_neighbours
from sharded_emb.models.base import NextItemModel
from sharded_emb.pooling.base import Pool
from sharded_emb.serving.standalone.table import Table as Served
from sharded_emb.vocabulary_rows import FIRST_ROW

_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Items:
    """The items of a model. item: their table. tables: as they are served, by name. described: by feature that
    describes them the rows that each item reads.
    """

    model: NextItemModel
    poolings: Poolings
    reading: Reading
    tables: Mapping[str, Served]
    item: str
    described: Mapping[str, RaggedColumn]

    @torch.no_grad()
    def compared(self) -> Iterator[Tensor]:
        """All rows of the table in their order, some at a time: (N, D)."""
        table = self.tables[self.item]
        for first in range(0, table.size, _ROWS_AT_ONCE):
            rows_N = torch.arange(first, min(first + _ROWS_AT_ONCE, table.size))
            vectors_ND = table.vectors(rows_N)
            for name, pool in zip(self.poolings.features, self.poolings.pools, strict=True):
                if self.poolings.of[name] is not None:
                    vectors_ND = vectors_ND + cast(Pool, pool)(self._describing(name, rows_N.numpy()), {})
            for mapped in table.mapped():
                let_go_of_pages(mapped)
            yield self.model.items(vectors_ND)

    def _describing(self, name: str, rows_N: np.ndarray) -> Jagged:
        """The values of a feature that describes items: a row an item."""
        ids_V, lengths_N = self.described[name].take(rows_N)
        ids, lengths = torch.from_numpy(np.ascontiguousarray(ids_V)), torch.from_numpy(lengths_N)
        extent = Extent(int(lengths_N.max(initial=0)), int(np.count_nonzero(lengths_N)))
        table = next(feature.table for feature in self.reading.item_features if feature.name == name)
        return Jagged(self.tables[table].vectors(ids), ids, lengths, extent)


def described_by(reading: Reading, tables: Mapping[str, Served]) -> dict[str, RaggedColumn]:
    """By feature that describes items the rows of its table that each item reads: as far as they are read, and with
    rows in place of ids that have been given one.
    """
    found = {}
    for feature in reading.item_features:
        if feature.of == reading.sequence:
            column = reading.of_items[feature.name]
            every = np.arange(len(column.offsets) - 1)
            ids, lengths = column.take(every, feature.max_length, newest=feature.keep == "newest")
            if tables[feature.table].said["ids"] == "managed_collision":
                ids = tables[feature.table].rows_of(torch.from_numpy(ids), feature.raw).numpy()
            found[feature.name] = RaggedColumn(ids, np.concatenate([[0], np.cumsum(lengths)]))
    return found


def write_index(file: Path, pieces: Iterator[Tensor], description: str) -> None:
    """Writes an index of faiss over items (N, D), by dot product; number 0 there is the first row that stands for one.
    All items are in memory meanwhile.

    Raises InputError for a description that it does not take.
    """
    import faiss

    items_ND = torch.cat([*pieces])[FIRST_ROW:].numpy()
    with _described(description):
        index = faiss.index_factory(items_ND.shape[1], description, faiss.METRIC_INNER_PRODUCT)
        index.train(items_ND)
        index.add(items_ND)
    file.write_bytes(faiss.serialize_index(index).data)  # which, unlike faiss, says what a full disk is


def check_index(dim: int, description: str) -> None:
    """Raises InputError for a description that faiss does not take, before there is an item."""
    import faiss

    with _described(description):
        faiss.index_factory(dim, description, faiss.METRIC_INNER_PRODUCT)


@contextmanager
def _described(description: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        why = str(error).splitlines()[0].rpartition(": ")[2]
        wanted = "want a description that faiss takes for these items, such as HNSW32 or IVF256,Flat"
        raise InputError(f"index: {wanted}, got {description} ({why})") from error


def write_counts(file: Path, sequences: RaggedColumn, rows: int) -> int:
    """Writes what `evaluation.counts` adds to scores, of the train split: FILE.begins (int64), where the pairs of each
    item begin, FILE.items (int64), what followed it, and FILE.pairs (float64), how often. Returns how many pairs.
    """
    follows = count_neighbours(sequences, rows).follows
    numbers = (("begins", follows.indptr, "<i8"), ("items", follows.indices, "<i8"), ("pairs", follows.data, "<f8"))
    for ending, values, dtype in numbers:
        file.with_name(f"{file.name}.{ending}").write_bytes(values.astype(dtype).tobytes())
    return int(follows.nnz)
