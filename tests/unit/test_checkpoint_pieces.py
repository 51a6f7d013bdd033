"""Large tensors of a checkpoint are written and read in pieces."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from sharded_emb.training.checkpoint_pieces import ByThreads, InPieces

HELD = {
    "rows": torch.arange(70.0).view(10, 7),
    "wide": torch.arange(60.0).view(2, 30),
    "state": torch.arange(33, dtype=torch.float16),
    "cube": torch.arange(48.0).view(12, 2, 2),
    "one": torch.tensor(5),
    "none": torch.zeros(0, 7),
}
PIECES = {"rows": [3, 3, 3, 1], "wide": [1, 1], "state": [33], "cube": [6, 6], "one": [], "none": [0]}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(HELD, storage_writer=FileSystemWriter(tmp_path / "c"), planner=InPieces(piece_bytes=100), no_dist=True)
    return tmp_path / "c"


def test_pieces_are_of_whole_rows_and_no_larger_than_asked_for_if_a_row_is_not(saved: Path) -> None:
    metadata = FileSystemReader(saved).read_metadata().state_dict_metadata
    for name, value in HELD.items():
        info = metadata[name]
        assert isinstance(info, TensorStorageMetadata)
        assert info.size == value.shape
        rows = [chunk.sizes[0] for chunk in info.chunks if chunk.sizes]
        assert rows == PIECES[name], name
        starts = [sum(rows[:number]) for number in range(len(rows))]
        assert [chunk.offsets[0] for chunk in info.chunks if chunk.sizes] == starts
        assert all(chunk.sizes[1:] == value.shape[1:] for chunk in info.chunks)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_read_is_what_was_saved_and_no_more_of_it_at_once_than_a_piece(
    saved: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Tensor] = []

    def watched(original: Any, *given: Any, **named: Any) -> Any:
        read.append(original(*given, **named))
        return read[-1]

    monkeypatch.setattr(torch, "load", partial(watched, torch.load))
    room = {name: torch.full_like(value, 99) for name, value in HELD.items()}
    load(room, storage_reader=ByThreads(saved, threads), no_dist=True)
    for name, value in HELD.items():
        assert torch.equal(room[name], value), name
    assert max(each.nbytes for each in read) == 30 * 4
    assert len(read) == sum(max(1, len(rows)) for name, rows in PIECES.items() if name != "none")


def test_an_error_of_a_thread_is_raised(saved: Path) -> None:
    (file,) = saved.glob("*.distcp")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(CheckpointException, match="failed reading zip archive"):
        load({"rows": torch.zeros(10, 7)}, storage_reader=ByThreads(saved, 2), no_dist=True)
