"""What the tests of replicas run on each of four ranks: two groups of two, each with all sharded tables."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sharded_emb.distributed.communication import Communication
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.replicas import make_replicas
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.checkpoint_background import Background
from tests.distributed import parity_cases
from tests.distributed.parity_cases import Exchange
from tests.distributed.plan_checkpoint_cases import numbers, train

SHARDINGS = ("table_wise", "row_wise", "column_wise", "mixed", "auto")
CASES = [(kind, name) for kind, name in parity_cases.CASES if kind in SHARDINGS]
TWO = Exchange(replicas=2)
HALF = Exchange(Communication(forward="fp16", backward="fp16"), replicas=2)


def all_cases(place: Place, folder: Path) -> dict[str, Any]:
    """trained: losses and tables by case. rounded: tables where gradients travel in fp16. shards: values of this rank's
    parts after some steps, of which a checkpoint is left in the folder, and beside it what it holds.
    """
    sharded, dense = parity_cases.build(place, "row_wise", parity_cases.OPTIMIZERS["adagrad"], TWO)
    train(place, sharded, dense)
    Checkpoints(folder, place, {}).save(sharded, dense, 3, best=False)
    whole = numbers(sharded)
    if place.rank == 0:
        torch.save(whole, folder / "whole.pt")
    return {
        "trained": {case: parity_cases.train_sharded(place, *case, TWO) for case in CASES},
        "rounded": parity_cases.train_sharded(place, "row_wise", "adagrad", HALF)[1],
        "shards": [(part.table.name, part.row, part.values_RC.clone()) for part in sharded.shards()],
        "loaded": loaded(place, folder, TWO),
    }


def loaded(place: Place, folder: Path, exchange: Exchange) -> list[str]:
    """What of the checkpoint is not bitwise the same in a new model."""
    sharded, dense = parity_cases.build(place, "table_wise", parity_cases.OPTIMIZERS["adagrad"], exchange)
    checkpoints = Checkpoints(folder, place, {})
    checkpoints.load(sharded, dense, checkpoints.newest())
    want: dict[str, Tensor] = torch.load(folder / "whole.pt")
    found = numbers(sharded)
    assert want.keys() == found.keys()
    assert len(want) > len(sharded.embeddings.tables), "no state was compared"
    return [name for name in want if not torch.equal(want[name], found[name])]


def timeouts(place: Place) -> dict[str, float]:
    """Seconds by group that this rank is in, of two replicas, of tables along hosts and of saves in the background."""
    parity_cases.build(place, "hosts", parity_cases.OPTIMIZERS["adagrad"])
    made = [make_replicas(place, 2), Background(place)]
    groups = dist.distributed_c10d._world.pg_map
    found = {group.group_name: group._get_backend(torch.device("cpu")).options._timeout for group in groups}
    del made
    return {name: timeout.total_seconds() for name, timeout in found.items()}
