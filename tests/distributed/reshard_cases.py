"""All reshards: every kind of table saved under every sharding type on every world, and loaded under every other."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded, fill
from sharded_emb.training.checkpoint import Checkpoints
from tests.distributed import collision_cases, parity_cases
from tests.distributed import plan_checkpoint_cases as plain
from tests.distributed.driven import drive

# ranks, and ranks of each host
WORLDS: dict[str, tuple[int, int]] = {"1": (1, 1), "2": (2, 2), "4": (4, 4), "2 x 2": (4, 2)}
BY_ROWS = ("table_wise", "row_wise", "data_parallel")
# sharding types by kind; a managed table is read as a sequence, so it is unpooled, as one of three plain ones is
KINDS: dict[str, tuple[str, ...]] = {
    **{name: shardings for name, (_, shardings) in plain.OPTIMIZERS.items()},
    "halves, adagrad": plain.ALL,
    "managed, adam": (*BY_ROWS, "column_wise"),
    "managed, rowwise_adagrad": BY_ROWS,
}


@dataclass(frozen=True)
class Reshard:
    """From the checkpoint of one model to another."""

    kind: str
    saved_world: str
    saved: str
    loaded_world: str
    loaded: str


def all_reshards() -> list[Reshard]:
    return [
        Reshard(kind, saved_world, saved, loaded_world, loaded)
        for kind, shardings in KINDS.items()
        for saved_world in WORLDS
        for saved in shardings
        for loaded_world in WORLDS
        for loaded in shardings
    ]


def _managed(kind: str, sharding: str) -> collision_cases.Case | None:
    name = kind.removeprefix("managed, ")
    return None if name == kind else collision_cases.Case(name, sharding, "lfu")


def _build(place: Place, kind: str, sharding: str) -> tuple[Sharded, torch.optim.Optimizer]:
    case, name = _managed(kind, sharding), kind.removeprefix("halves, ")
    if case is None:
        return plain.build(place, sharding, name, parity_cases.Exchange(halves=name != kind))
    sharded = collision_cases.build(place, case)
    return sharded, torch.optim.SGD(sharded.dense_parameters(), lr=0.1)


def _train(place: Place, kind: str, sharding: str, sharded: Sharded, dense: torch.optim.Optimizer) -> None:
    case = _managed(kind, sharding)
    if case is None:
        plain.train(place, sharded, dense)
        return
    built = SimpleNamespace(sharded=sharded, dense=dense)
    drive(built, collision_cases.Decaying(), collision_cases.collate(place, case), collision_cases.source(), 8)


def _numbers(place: Place, kind: str, sharding: str, sharded: Sharded) -> dict[str, Tensor]:
    """Tables and states, and of a managed table which row each id has."""
    found = plain.numbers(sharded)
    if (case := _managed(kind, sharding)) is not None:
        samples = collision_cases.SAMPLES
        batch = collision_cases.collate(place, case)(np.arange(samples), samples, 0)
        (assigned,), _ = sharded.collisions.rows([batch], step=None)
        found["rows of ids"] = assigned.ids.values()
    return found


def save_all(place: Place, folder: Path, wanted: list[tuple[str, str]]) -> None:
    """A checkpoint of each kind and type, and beside it what it holds."""
    for kind, sharding in wanted:
        sharded, dense = _build(place, kind, sharding)
        _train(place, kind, sharding, sharded, dense)
        run = folder / kind / sharding
        Checkpoints(run, place, {}).save(sharded, dense, 3, best=False)
        whole = _numbers(place, kind, sharding, sharded)
        if place.rank == 0:
            torch.save(whole, run / "whole.pt")


def load_all(place: Place, folder: Path, wanted: list[Reshard]) -> dict[Reshard, list[str]]:
    """What is not bitwise the same after each, all of which load here. folder: with one of each world that saved."""
    found: dict[Reshard, list[str]] = {}
    for kind, loaded in dict.fromkeys((each.kind, each.loaded) for each in wanted):
        sharded, dense = _build(place, kind, loaded)
        for reshard in wanted:
            if (reshard.kind, reshard.loaded) == (kind, loaded):
                run = folder / reshard.saved_world / kind / reshard.saved
                fill(sharded, seed=99)
                checkpoints = Checkpoints(run, place, {})
                checkpoints.load(sharded, dense, checkpoints.newest())
                want, got = torch.load(run / "whole.pt"), _numbers(place, kind, loaded, sharded)
                odd: list[Any] = sorted(want.keys() ^ got.keys())
                found[reshard] = odd + [key for key in want.keys() & got if not torch.equal(want[key], got[key])]
                assert all(want[key].abs().sum() > 0 for key in want)
    return found
