"""The rows of a table in a checkpoint, some at a time.

N  rows of a piece    D  dim
"""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load

from sharded_emb.ids.managed_collision import NO_ID, ManagedCollision
from sharded_emb.tables import Table
from sharded_emb.training import checkpoint_entries as entries


class SavedRows:
    """A table of a checkpoint that has it. entry: of its weight. pieces: of rows [first, end), each of which is read
    from the disk once.
    """

    def __init__(self, checkpoint: Path, table: str) -> None:
        self.checkpoint, self.entry = checkpoint, f"{entries.TABLES}.{table}.weight"
        info = FileSystemReader(checkpoint).read_metadata().state_dict_metadata[self.entry]
        assert isinstance(info, TensorStorageMetadata)
        self.rows, self.dim = info.size
        self.dtype = info.properties.dtype
        self.pieces = [*pairwise([*sorted({chunk.offsets[0] for chunk in info.chunks}), self.rows])]

    def read(self, first: int, end: int) -> Tensor:
        """Rows [first, end): (N, D), of the dtype that was saved."""
        room = torch.empty(end - first, self.dim, dtype=self.dtype)
        load({self.entry: room}, checkpoint_id=self.checkpoint, planner=_Rows(self.entry, first), no_dist=True)
        return room


def saved_tables(checkpoint: Path) -> set[str]:
    """The names of the tables that a checkpoint has."""
    saved = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return {name.split(".")[1] for name in entries.of(entries.TABLES, saved)}


def saved_tensors(checkpoint: Path, prefix: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint whose names begin so (`dense`, `collisions.item`), by the rest of the name."""
    reader = FileSystemReader(checkpoint)
    rooms = {
        n: room
        for n, room in entries.empty(prefix, reader.read_metadata().state_dict_metadata).items()
        if room is not None
    }
    load(rooms, storage_reader=reader, no_dist=True)
    return entries.without_prefix(prefix, rooms)


def saved_owners(checkpoint: Path, table: Table) -> tuple[Tensor, Tensor]:
    """The ids of a managed table that have a row, rising, and their rows: int64 (N) each."""
    assert isinstance(table.ids, ManagedCollision)
    saved = saved_tensors(checkpoint, f"{entries.COLLISIONS}.{table.name}")
    ids_N, rows_N = (torch.cat([saved[f"{b}.{name}"] for b in range(table.ids.buckets)]) for name in ("ids", "rows"))
    order_N = ids_N.argsort()
    order_N = order_N[ids_N[order_N] != NO_ID]
    return ids_N[order_N], rows_N[order_N]


class _Rows(DefaultLoadPlanner):
    """Reads some rows of one table into a tensor of their own."""

    def __init__(self, entry: str, first: int) -> None:
        super().__init__()
        self.entry, self.first = entry, first

    def create_local_plan(self) -> LoadPlan:
        """What of the saved shards these rows are in."""
        assert self.metadata is not None
        saved, room = self.metadata.state_dict_metadata[self.entry], self.state_dict[self.entry]
        assert isinstance(saved, TensorStorageMetadata)
        rows = ChunkStorageMetadata(torch.Size((self.first, 0)), room.shape)
        return LoadPlan(create_read_items_for_chunk_list(self.entry, saved, [rows]))

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:  # noqa: ARG002
        """There is one."""
        room: Tensor = self.state_dict[self.entry]
        return room
