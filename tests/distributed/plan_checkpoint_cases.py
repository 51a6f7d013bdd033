"""What the tests of checkpoints across plans run on every rank: saving under every sharding type, loading under all."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from sharded_emb.data.collate import Collate
from sharded_emb.data.task import Label, Reading
from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded, fill
from sharded_emb.optim.adam import Adam
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.training import checkpoint
from sharded_emb.training import checkpoint_entries as entries
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.checkpoint_pieces import InPieces
from tests.distributed import parity_cases
from tests.distributed.driven import drive

BY_ROWS = ("table_wise", "row_wise", "table_row_wise", "data_parallel")
ALL = (*BY_ROWS, "column_wise", "table_column_wise", "grid")
# fused, outside of kernels, and with a state that column shards cannot share
OPTIMIZERS: dict[str, tuple[EmbeddingOptimizer, tuple[str, ...]]] = {
    "adagrad": (parity_cases.OPTIMIZERS["adagrad"], ALL),
    "adam": (Adam(lr=0.01), ALL),
    "rowwise_adagrad": (parity_cases.OPTIMIZERS["rowwise_adagrad"], BY_ROWS),
}


def pairs(name: str) -> list[tuple[str, str]]:
    """Saved and loaded types: all, but of Adam, whose state is sharded as the weights are, only some."""
    shardings = OPTIMIZERS[name][1]
    return [
        (saved, loaded)
        for one, saved in enumerate(shardings)
        for other, loaded in enumerate(shardings)
        if name != "adam" or (other - one) % len(shardings) in (1, 3)
    ]


def build(
    place: Place, sharding: str, name: str, exchange: parity_cases.Exchange = parity_cases.PLAIN
) -> tuple[Sharded, torch.optim.Optimizer]:
    sharded, _ = parity_cases.build(place, sharding, OPTIMIZERS[name][0], exchange)
    return sharded, torch.optim.SGD(sharded.dense_parameters(), lr=0.1)  # has no state before its first step, or after


def train(place: Place, sharded: Sharded, dense: torch.optim.Optimizer) -> None:
    tables = list(sharded.embeddings.tables.values())
    collate = Collate(parity_cases.split(), Reading(task="binary", tables=tables, labels=[Label("label")]), place.rank)
    drive(SimpleNamespace(sharded=sharded, dense=dense), parity_cases.Decaying(), collate, parity_cases.source(), 3)


def numbers(sharded: Sharded) -> dict[str, Tensor]:
    """All whole tables, and their whole optimizer states, by the names of a checkpoint."""
    mine: list[tuple[str, list[int], Tensor]] = []
    for name, state in entries.table_states(sharded).items():
        if isinstance(state, ShardedTensor):
            # a rank without the table knows no dtype of its state, so all come by their shards
            mine += [(name, s.metadata.shard_offsets, s.tensor) for s in state.local_shards()]
        else:
            mine.append((name, [0] * state.dim(), state))
    whole = {name: sharded.whole_table(name) for name in sharded.embeddings.tables}
    found = [part for of_rank in all_values(mine, sharded.place) for part in of_rank]
    for key in {key for key, _, _ in found}:
        parts = [(offsets, values) for other, offsets, values in found if other == key]
        size = [max(at[d] + values.shape[d] for at, values in parts) for d in range(parts[0][1].dim())]
        whole[key] = torch.full(size, torch.nan)
        for at, values in parts:
            whole[key][tuple(slice(a, a + n) for a, n in zip(at, values.shape, strict=False))] = values
    return whole


def save_all(place: Place, folder: Path) -> None:
    """A checkpoint for each optimizer and type, and beside it what it holds."""
    for name, (_, shardings) in OPTIMIZERS.items():
        for sharding in shardings:
            sharded, dense = build(place, sharding, name)
            train(place, sharded, dense)
            run = folder / name / sharding
            Checkpoints(run, place, {}).save(sharded, dense, 3, best=False)
            whole = numbers(sharded)
            if place.rank == 0:
                torch.save(whole, run / "whole.pt")


def load_all(place: Place, folder: Path) -> dict[tuple[str, str, str], list[str]]:
    """By optimizer, saved and loaded type what is not bitwise the same."""
    found: dict[tuple[str, str, str], Any] = {}
    for name, (_, shardings) in OPTIMIZERS.items():
        for loaded in shardings:
            sharded, dense = build(place, loaded, name)
            for saved in (saved for saved, other in pairs(name) if other == loaded):
                fill(sharded, seed=99)
                checkpoints = Checkpoints(folder / name / saved, place, {})
                checkpoints.load(sharded, dense, checkpoints.newest())
                want, got = torch.load(folder / name / saved / "whole.pt"), numbers(sharded)
                odd = sorted(want.keys() ^ got.keys())
                found[name, saved, loaded] = [*odd, *(k for k in want.keys() & got if not torch.equal(want[k], got[k]))]
                assert all(want[key].abs().sum() > 0 for key in want)
                assert len(want) > len(sharded.embeddings.tables), "no state was compared"
    return found


def save_and_load(place: Place, saved: Path, others: Path) -> dict[tuple[str, str, str], list[str]]:
    """Both, in one process group: saves into one folder, in pieces of few rows, loads what is in the other."""
    with patch.object(checkpoint, "InPieces", partial(InPieces, piece_bytes=300)):
        save_all(place, saved)
    return load_all(place, others)
