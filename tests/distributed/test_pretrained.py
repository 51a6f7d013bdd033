"""Weights from a file are the same numbers under every plan, in every dtype, and stay them where they are frozen."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharded_emb.config.build import Built
from sharded_emb.errors import InputError
from tests.distributed import pretrained_cases
from tests.distributed.next_item_config import DIM, SHARDINGS, config
from tests.distributed.next_item_data import write_dataset
from tests.distributed.ranks import on_one_rank, run_ranks

TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    folder: Path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(folder)
    file = folder.with_name("w.npy")
    np.save(file, pretrained_cases.vectors())
    return {
        1: on_one_rank(lambda place: pretrained_cases.filled_tables(place, folder, file)),
        2: run_ranks(pretrained_cases.filled_tables, 2, folder, file)[1],
    }


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_number_too_large_for_the_table_is_refused(tmp_path: Path, sharding: str) -> None:
    write_dataset(tmp_path / "tiny")
    values = pretrained_cases.vectors()
    values[9, 5] = 7e4
    np.save(tmp_path / "w.npy", values)
    keys = {"dim": DIM, "weights": {"path": str(tmp_path / "w.npy")}, "dtype": "fp16"}
    want = "tables.item.weights.path: want numbers that fp16 can hold, got 70000 in row 9; set tables.item.dtype=fp32"
    with pytest.raises(InputError, match=f"^{re.escape(want)}$"):
        on_one_rank(lambda place: Built(config(tmp_path / "tiny", sharding, tables={"item": keys}), place))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("dtype", pretrained_cases.DTYPES)
def test_a_table_is_the_file(answers: dict[int, Any], world_size: int, sharding: str, dtype: str) -> None:
    expected = torch.from_numpy(pretrained_cases.vectors()).to(TORCH[dtype]).float()
    expected[0] = 0  # padding
    filled, frozen, trained = answers[world_size][sharding, dtype]
    assert torch.equal(filled, expected)
    assert torch.equal(frozen, expected)
    assert not torch.equal(trained, expected)
    assert torch.equal(trained[0], expected[0])
