"""The slow twin of the matrix is itself what torch has: its optimizers, nn.Embedding's options, and clipping."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.distributed.plain_tables import PlainTable

ROWS, DIM, STEPS = 9, 4, 6
BATCHES = [[1, 2, 2, 0], [2, 3], [1], [8, 8, 8, 5], [2, 1, 0, 0], [7, 3, 1]]
L2 = {"weight_decay": 0.1, "weight_decay_mode": "touched_l2"}
DECOUPLED = {"weight_decay": 0.1, "weight_decay_mode": "all_decoupled"}
ADAGRAD = {"lr": 0.3, "eps": 1e-3, "initial_accumulator": 0.1}
TORCHS_ADAGRAD = {"lr": 0.3, "eps": 1e-3, "initial_accumulator_value": 0.1}


def start() -> Tensor:
    weight = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    weight[0] = 0
    return weight


def loss(vectors: Tensor, step: int) -> Tensor:
    """Any that gives each event a gradient of its own."""
    wanted = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(step))
    return (vectors - wanted).square().sum()


def train_twin(optimizer: str, values: dict[str, Any], options: dict[str, Any]) -> Tensor:
    table = PlainTable(start(), optimizer, values, options)
    for step, ids in enumerate(BATCHES, start=1):
        table.renormalize(set(ids))
        loss(F.embedding(torch.tensor(ids), table.weight, padding_idx=0), step).backward()
        table.step(table.gradient(Counter(ids)), set(ids), values["lr"])
    return table.weight.detach()


def train_torch(make: Callable[[Any], torch.optim.Optimizer], **options: Any) -> Tensor:
    embedding = nn.Embedding(ROWS, DIM, padding_idx=0, _weight=start(), **options)
    optimizer = make(embedding.parameters())
    for step, ids in enumerate(BATCHES, start=1):
        loss(embedding(torch.tensor(ids)), step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return embedding.weight.detach()


@pytest.mark.parametrize(
    ("optimizer", "values", "make"),
    [
        ("sgd", {"lr": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1)),
        ("sgd", {"lr": 0.1, "momentum": 0.8}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8)),
        (
            "sgd",
            {"lr": 0.1, "momentum": 0.8, **L2},
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.1),
        ),
        ("adagrad", ADAGRAD, lambda p: torch.optim.Adagrad(p, **TORCHS_ADAGRAD)),
        ("adagrad", {**ADAGRAD, **L2}, lambda p: torch.optim.Adagrad(p, **TORCHS_ADAGRAD, weight_decay=0.1)),
        ("adam", {"lr": 0.1, "eps": 1e-3}, lambda p: torch.optim.Adam(p, lr=0.1, eps=1e-3)),
        ("adam", {"lr": 0.1, "eps": 1e-3, **L2}, lambda p: torch.optim.Adam(p, lr=0.1, eps=1e-3, weight_decay=0.1)),
        (
            "adam",
            {"lr": 0.1, "eps": 1e-3, **DECOUPLED},
            lambda p: torch.optim.AdamW(p, lr=0.1, eps=1e-3, weight_decay=0.1),
        ),
    ],
)
def test_a_dense_update_is_torchs(optimizer: str, values: dict[str, Any], make: Any) -> None:
    torch.testing.assert_close(train_twin(optimizer, values, {"update": "dense"}), train_torch(make))


@pytest.mark.parametrize(
    ("optimizer", "values", "make"),
    [
        ("sgd", {"lr": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1)),
        ("adagrad", ADAGRAD, lambda p: torch.optim.Adagrad(p, **TORCHS_ADAGRAD)),
    ],
)
def test_an_update_of_touched_rows_is_torchs_of_a_sparse_gradient(
    optimizer: str, values: dict[str, Any], make: Any
) -> None:
    torch.testing.assert_close(train_twin(optimizer, values, {}), train_torch(make, sparse=True))


def test_adam_of_touched_rows_is_torchs_sparse_adam() -> None:
    """Which adds eps before the second moment is corrected: for an eps that is next to nothing it is the same."""
    found = train_twin("adam", {"lr": 0.1, "eps": 1e-12}, {})
    torch.testing.assert_close(
        found, train_torch(lambda p: torch.optim.SparseAdam(list(p), lr=0.1, eps=1e-12), sparse=True)
    )


@pytest.mark.parametrize(("max_norm", "norm_type"), [(1.0, 2.0), (2.0, 1.0)])
def test_max_norm_is_that_of_an_embedding(max_norm: float, norm_type: float) -> None:
    found = train_twin("sgd", {"lr": 0.1}, {"max_norm": max_norm, "norm_type": norm_type})
    want = train_torch(lambda p: torch.optim.SGD(p, lr=0.1), max_norm=max_norm, norm_type=norm_type)
    torch.testing.assert_close(found, want)
    assert not torch.equal(found, train_twin("sgd", {"lr": 0.1}, {}))


def test_scaling_by_frequency_is_that_of_an_embedding() -> None:
    found = train_twin("sgd", {"lr": 0.1}, {"scale_grad_by_freq": True})
    torch.testing.assert_close(found, train_torch(lambda p: torch.optim.SGD(p, lr=0.1), scale_grad_by_freq=True))
    assert not torch.equal(found, train_twin("sgd", {"lr": 0.1}, {}))


def test_weight_decay_of_touched_rows_leaves_the_others_alone() -> None:
    touched = {row for ids in BATCHES for row in ids}
    rest = sorted(set(range(ROWS)) - touched)
    assert rest
    for mode in ("touched_l2", "touched_decoupled", "all_decoupled"):
        found = train_twin("sgd", {"lr": 0.1, "weight_decay": 0.5, "weight_decay_mode": mode}, {})
        shrunk = (1 - 0.1 * 0.5) ** len(BATCHES) if mode == "all_decoupled" else 1.0
        torch.testing.assert_close(found[rest], start()[rest] * shrunk)
        assert not torch.equal(found, train_twin("sgd", {"lr": 0.1}, {}))
