"""Large tensors in a checkpoint as pieces of some rows each, so that reading one takes no second copy of it in memory,
and threads share the work.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, WriteItem, WriteItemType
from torch.futures import Future

PIECE_BYTES = 1 << 27


class InPieces(DefaultSavePlanner):
    """The library's planner, which writes a shard as one piece, for pieces of at most so many bytes, or one row."""

    def __init__(self, piece_bytes: int = PIECE_BYTES) -> None:
        super().__init__()
        self.piece_bytes = piece_bytes
        self._cuts: dict[MetadataIndex, tuple[MetadataIndex, int, int]] = {}

    def create_local_plan(self) -> SavePlan:
        """See the base class."""
        whole = super().create_local_plan()
        self.plan = replace(whole, items=[piece for item in whole.items for piece in self._pieces(item)])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        """See the base class; of a piece its rows, which share memory with the shard."""
        if index not in self._cuts:
            return super().lookup_object(index)
        whole, first, rows = self._cuts[index]
        return super().lookup_object(whole).narrow(0, first, rows)

    def _pieces(self, item: WriteItem) -> Iterator[WriteItem]:
        data = item.tensor_data
        if data is None or not data.chunk.sizes:
            yield item
            return
        offsets, (rows, *others) = data.chunk.offsets, data.chunk.sizes
        row_bytes = max(1, torch.Size(others).numel() * data.properties.dtype.itemsize)
        at_once = max(1, self.piece_bytes // row_bytes)
        if rows <= at_once:
            yield item
            return
        for first in range(0, rows, at_once):
            sizes = torch.Size((min(at_once, rows - first), *others))
            chunk = ChunkStorageMetadata(torch.Size((offsets[0] + first, *offsets[1:])), sizes)
            index = MetadataIndex(item.index.fqn, chunk.offsets)
            self._cuts[index] = item.index, first, sizes[0]
            yield WriteItem(index, WriteItemType.SHARD, tensor_data=replace(data, chunk=chunk))


class ByThreads(FileSystemReader):
    """The library's reader, which reads one piece after the other, with several threads."""

    def __init__(self, path: Any, threads: int) -> None:
        super().__init__(path)
        self.threads = threads

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """See the base class."""
        shares = [replace(plan, items=plan.items[number :: self.threads]) for number in range(self.threads)]
        with ThreadPoolExecutor(self.threads) as pool:
            for _ in pool.map(lambda share: super(ByThreads, self).read_data(share, planner), shares):
                pass  # but raise what a thread has raised
        done: Future[None] = Future()
        done.set_result(None)
        return done
