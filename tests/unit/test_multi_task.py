"""Several tasks: what models share, the sum of their losses, and metrics of each.

B  rows    D  dim    L  tasks
"""

import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.batch import Batch, Embedded
from sharded_emb.data.collate import Collate
from sharded_emb.data.task import Label, Reading
from sharded_emb.errors import InputError
from sharded_emb.losses.binary_cross_entropy import MultiTask
from sharded_emb.models.multi_task import PLE, MMoE, MultiTaskConfig, SharedBottom
from tests.tables import make_feature, make_table

ROWS, D = 6, 4
COMMON: dict[str, Any] = {"tasks": ("like", "love", "buy"), "hidden": (8, 5), "tower_hidden": (3,)}
MODELS: dict[str, MultiTaskConfig] = {
    "shared bottom": SharedBottom(**COMMON),
    "mmoe": MMoE(**COMMON, experts=3),
    "ple": PLE(**COMMON, experts=2, own_experts=1, levels=3),
}
every_model = pytest.mark.parametrize("name", MODELS)


def build(name: str) -> Any:
    torch.manual_seed(1)
    tables = [make_table(each, 9, D, make_feature(each, each, pooling="sum")) for each in ("user", "item")]
    return MODELS[name].build(tables)


def slow_mixture(gate: nn.Module, experts: list[Any], gate_x: Tensor, inputs: list[Tensor]) -> Tensor:
    shares = gate(gate_x).softmax(0)
    said = [share * expert(x) for share, expert, x in zip(shares, experts, inputs, strict=True)]
    return sum(said, torch.zeros(()))


def slow_levels(levels: list[Any], x_A: Tensor, tasks: int) -> list[Tensor]:
    """Of one row, one expert after the other."""
    of_tasks, of_all = [x_A] * tasks, x_A
    for level in levels:
        shared = [*level.experts]
        found = [
            slow_mixture(
                level.gates[task],
                [*level.own[task], *shared],
                of_tasks[task],
                [of_tasks[task]] * len(level.own[task]) + [of_all] * len(shared),
            )
            for task in range(tasks)
        ]
        if level is not levels[-1]:
            experts = [expert for own in level.own for expert in own] + shared
            inputs = [of_tasks[task] for task in range(tasks) for _ in level.own[task]] + [of_all] * len(shared)
            of_all = slow_mixture(level.shared_gate, experts, of_all, inputs)
        of_tasks = found
    return of_tasks


@every_model
def test_a_model_equals_its_definition_row_by_row(name: str) -> None:
    model, pooled = build(name), {each: torch.randn(ROWS, D) for each in ("item", "user")}
    logit_BL = model(Embedded(pooled, {}))
    assert logit_BL.shape == (ROWS, 3)
    for row in range(ROWS):
        x_A = torch.cat([pooled["item"][row], pooled["user"][row]])
        if name == "shared bottom":
            given = [model.shared.net(x_A)] * 3
        else:
            given = slow_levels([model.shared] if name == "mmoe" else [*model.shared], x_A, 3)
        want_L = torch.cat([tower(each) for tower, each in zip(model.towers, given, strict=True)])
        torch.testing.assert_close(logit_BL[row], want_L, atol=1e-6, rtol=1e-5)


@every_model
def test_every_weight_is_trained(name: str) -> None:
    model = build(name)
    model(Embedded({each: torch.randn(ROWS, D) for each in ("item", "user")}, {})).square().sum().backward()
    assert [weight for weight, each in model.named_parameters() if each.grad is None or not each.grad.any()] == []


def test_the_loss_is_the_weighted_sum_of_those_of_the_tasks() -> None:
    config = MultiTask.model_validate({"tasks": {"like": {"column": "a"}, "love": {"column": "b", "weight": 0.25}}})
    logit_BL, label_BL = torch.randn(3, 2), torch.tensor([[1.0, 0], [0, 0], [1, 1]])
    weight_B = torch.tensor([1.0, 2, 0])
    ids = KeyedJaggedTensor(keys=[], values=torch.zeros(0, dtype=torch.int64), lengths=torch.zeros(0))
    batch = Batch(ids=ids, weight_B=weight_B, label_B=label_BL, extents={}, loss_weight=3.0, samples=3)
    each = [
        F.binary_cross_entropy_with_logits(logit_BL[:, task], label_BL[:, task], weight_B, reduction="sum")
        for task in (0, 1)
    ]
    torch.testing.assert_close(config.build(None)(logit_BL, batch), each[0] + 0.25 * each[1])


def test_labels_are_columns_or_what_reaches_a_number() -> None:
    split = pa.table({"user": [2, 3, 4], "like": [0.0, 1.0, 1.0], "rating": pa.array([3.0, 4.0, 5.0], pa.float32())})
    table = make_table("user", 9, D, make_feature("user", "user", pooling="sum"))
    labels = [Label("like", name="like"), Label("rating", at_least=5, name="love")]
    batch = Collate(split, Reading(task="binary", tables=[table], labels=labels), 0)(np.array([2, 0]), 3, 1)
    assert batch.label_B is not None
    assert (batch.label_B.dtype, batch.label_B.tolist()) == (torch.float32, [[1, 1], [0, 0], [0, 0]])


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        (
            Label("r"),
            3.0,
            "loss.label: want 0 and 1 in column r, got 3.0 in row 1 of the split; prepare the data again",
        ),
        (Label("r", name="buy"), 3.0, "loss.tasks.buy: want 0 and 1 in column r, got 3.0 in row 1 of the split; give "),
        (Label("r", 2, "buy"), math.nan, "loss.tasks.buy: want numbers in column r, got nan in row 1 of the split; "),
    ],
)
def test_what_is_no_label_is_an_error(label: Label, value: float, said: str) -> None:
    split = pa.table({"user": [2, 3], "r": pa.array([1.0, value], pa.float32())})
    table = make_table("user", 9, D, make_feature("user", "user", pooling="sum"))
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        Collate(split, Reading(task="binary", tables=[table], labels=[label]), 0)(np.array([0, 1]), 2, 1)
