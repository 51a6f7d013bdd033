"""Weights from a file are the same numbers under every plan, in every dtype, and stay them where they are frozen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed import pretrained_cases
from tests.distributed.next_item_config import SHARDINGS
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
