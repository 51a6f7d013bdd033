"""What the tests of pretrained weights run on every rank."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sharded_emb.config.build import Built
from sharded_emb.distributed.process_group import Place
from tests.distributed.driven import train_steps
from tests.distributed.next_item_config import DIM, SHARDINGS, config
from tests.distributed.next_item_data import ITEMS

DTYPES = ("fp32", "fp16", "bf16")


def vectors() -> np.ndarray:
    return np.random.default_rng(4).normal(size=(ITEMS, DIM)).astype(np.float32)


def filled_tables(place: Place, folder: Path, file: Path) -> dict[tuple[str, str], tuple[Tensor, Tensor, Tensor]]:
    """By sharding and dtype: the table as it was filled, after training while frozen, and after training."""
    found = {}
    for sharding in SHARDINGS:
        for dtype in DTYPES:
            tables = []
            for freeze in (True, False):
                keys = {"dim": DIM, "weights": {"path": str(file)}, "freeze": freeze, "dtype": dtype}
                built = Built(config(folder, sharding, tables={"item": keys}), place)
                tables.append(built.sharded.whole_table("item"))
                train_steps(built, 3)
                tables.append(built.sharded.whole_table("item"))
            assert torch.equal(tables[0], tables[2])
            found[sharding, dtype] = (tables[0], tables[1], tables[3])
    return found
