"""What the tests of optimizer state outside of kernels run on every rank."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharded_emb.config.build import Built
from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.process_group import Place
from sharded_emb.training.checkpoint import Checkpoints
from tests.distributed.driven import train_steps
from tests.distributed.next_item_config import DIM, config
from tests.distributed.next_item_data import ITEMS

Found = tuple[Tensor, dict[str, Tensor], int]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"_target_": "sharded_emb.optim.adam.Adam", "lr": 0.01},
    "partial_rowwise_adam": {
        "_target_": "sharded_emb.optim.partial_rowwise_adam.PartialRowWiseAdam",
        "lr": 0.01,
    },
}


def build(place: Place, folder: Path, sharding: str, optimizer: str) -> Built:
    return Built(config(folder, sharding, embedding_optimizer=OPTIMIZERS[optimizer]), place)


def state(built: Built) -> Found:
    """The whole table, its whole optimizer state, and the number of steps."""
    mine = [(part.row, part.column, part.state) for part in built.sharded.updates.parts()]
    whole: dict[str, Tensor] = {}
    for row, column, states in (part for of_rank in all_values(mine, built.place) for part in of_rank):
        for name, values in states.items():
            target = whole.setdefault(name, torch.zeros((ITEMS, DIM)[: values.dim()]))
            rows = slice(row, row + len(values))
            target[(rows, slice(column, column + values.shape[1])) if values.dim() > 1 else rows] = values
    return built.sharded.whole_table("item"), whole, built.sharded.updates.steps


def save(place: Place, folder: Path, runs: Path, sharding: str) -> dict[str, Found]:
    """After five steps."""
    found = {}
    for optimizer in OPTIMIZERS:
        built = build(place, folder, sharding, optimizer)
        train_steps(built, 5)
        Checkpoints(runs / optimizer, place, {}).save(built.sharded, built.dense, 5, best=False)
        found[optimizer] = state(built)
    return found


def load(place: Place, folder: Path, runs: Path, shardings: list[str]) -> dict[tuple[str, str], Found]:
    """What is there again under other plans."""
    found = {}
    for optimizer in OPTIMIZERS:
        for sharding in shardings:
            built = build(place, folder, sharding, optimizer)
            train_steps(built, 1)  # the dense optimizer has no state to load into before its first step
            checkpoints = Checkpoints(runs / optimizer, place, {})
            checkpoints.load(built.sharded, built.dense, checkpoints.newest())
            found[optimizer, sharding] = state(built)
    return found
