"""Optimizers against their formulas written by hand, and the schedule by its values."""

import math
from inspect import signature
from typing import Any

import pytest
import torch
import torchrec
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from pydantic import ValidationError
from torch import Tensor, nn
from torchrec.distributed.utils import merge_fused_params, optimizer_type_to_emb_opt_type

from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.optim.adam import Adam
from sharded_emb.optim.adamw import AdamW
from sharded_emb.optim.base import DenseOptimizer, EmbeddingOptimizer, TouchedRows
from sharded_emb.optim.dense_adam import DenseAdam
from sharded_emb.optim.dense_sgd import DenseSGD
from sharded_emb.optim.lamb import LAMB
from sharded_emb.optim.lars import LARS
from sharded_emb.optim.partial_rowwise_adam import PartialRowWiseAdam
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.optim.schedule import Warmup
from sharded_emb.optim.sgd import SGD

STEPS = 5
START = 0.25  # of the accumulators
L2, DECOUPLED = {"weight_decay": 0.1, "weight_decay_mode": "touched_l2"}, {"weight_decay": 0.1}
DECOUPLED |= {"weight_decay_mode": "touched_decoupled"}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Row:
    """The slow twin: one row of a table, updated element by element as the papers have it."""

    def __init__(self, config: EmbeddingOptimizer, weights: list[float]) -> None:
        self.config, self.weights = config, weights
        start = getattr(config, "initial_accumulator", 0.0)
        self.first, self.second = [0.0] * len(weights), [start] * len(weights)

    def step(self, gradient: list[float], t: int) -> None:
        config, w = self.config, self.weights
        name, lr, decay = type(config).__name__, config.lr, config.weight_decay
        norm = math.sqrt(sum(x * x for x in w))
        if name == "LARS":
            l2 = decay if config.weight_decay_mode == "touched_l2" else 0.0
            if config.weight_decay_mode == "touched_decoupled":
                w[:] = [x * (1 - lr * decay) for x in w]
                norm *= 1 - lr * decay
            below = math.sqrt(sum(g * g for g in gradient)) + l2 * norm
            rate = lr * config.trust * (norm / below if norm and below else 1.0)  # type: ignore[attr-defined]
            for i, g in enumerate(gradient):
                self.first[i] = config.momentum * self.first[i] + rate * (g + l2 * w[i])  # type: ignore[attr-defined]
                w[i] -= self.first[i]
            return
        if config.weight_decay_mode == "touched_l2":
            gradient = [g + decay * x for g, x in zip(gradient, w, strict=True)]
        squares = [g * g for g in gradient]
        if name in ("RowWiseAdagrad", "PartialRowWiseAdam"):
            squares = [sum(squares) / len(squares)] * len(squares)
        shrink = 1 - lr * decay if config.weight_decay_mode == "touched_decoupled" and name != "LAMB" else 1.0
        if name == "SGD":
            self.first = [config.momentum * m + g for m, g in zip(self.first, gradient, strict=True)]  # type: ignore[attr-defined]
            moves = [lr * m for m in self.first]
        elif "Adagrad" in name:
            self.second = [s + q for s, q in zip(self.second, squares, strict=True)]
            moves = [lr * g / (math.sqrt(s) + config.eps) for g, s in zip(gradient, self.second, strict=True)]  # type: ignore[attr-defined]
        else:
            moves = [lr * r for r in self._adam(gradient, squares, t)]
            if name == "LAMB":
                if config.weight_decay_mode == "touched_decoupled":
                    moves = [move + lr * decay * x for move, x in zip(moves, w, strict=True)]
                length = math.sqrt(sum(move * move for move in moves)) / lr
                moves = [move * (norm / length if norm and length else 1.0) for move in moves]
        w[:] = [x * shrink - move for x, move in zip(w, moves, strict=True)]

    def _adam(self, gradient: list[float], squares: list[float], t: int) -> list[float]:
        beta1, beta2, eps = self.config.beta1, self.config.beta2, self.config.eps  # type: ignore[attr-defined]
        self.first = [beta1 * m + (1 - beta1) * g for m, g in zip(self.first, gradient, strict=True)]
        self.second = [beta2 * v + (1 - beta2) * q for v, q in zip(self.second, squares, strict=True)]
        return [
            m / (1 - beta1**t) / (math.sqrt(v / (1 - beta2**t)) + eps)
            for m, v in zip(self.first, self.second, strict=True)
        ]


CONFIGS: list[EmbeddingOptimizer] = [
    SGD(lr=0.3),
    SGD(lr=0.3, momentum=0.8),
    SGD(lr=0.3, momentum=0.8, **L2),
    SGD(lr=0.3, **DECOUPLED),
    Adagrad(lr=0.3, initial_accumulator=START, eps=1e-3),
    Adagrad(lr=0.3, initial_accumulator=0, **L2),
    RowWiseAdagrad(lr=0.3),
    RowWiseAdagrad(lr=0.3, initial_accumulator=START, eps=1e-3, **DECOUPLED),
    *(kind(lr=0.3, eps=1e-3, **decay) for kind in (Adam, PartialRowWiseAdam, LAMB) for decay in ({}, L2, DECOUPLED)),
    *(LARS(lr=0.3, trust=0.5, **decay) for decay in ({}, L2, DECOUPLED)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.told())
def test_touched_rows_are_updated_by_the_formula(config: EmbeddingOptimizer) -> None:
    """Row 0 starts from zeros; row 1 is touched in every other step, and once by a gradient of zeros."""
    weights_RD = random(3, 8, seed=0)
    weights_RD[0] = 0
    twins = [Row(config, row.tolist()) for row in weights_RD]
    shapes = {"element": weights_RD.shape, "row": weights_RD.shape[:1]}
    state = {
        name: torch.full(shapes[per], config.initial_state(name), dtype=torch.float64)
        for name, per in config.states().items()
    }
    for step in range(1, STEPS + 1):
        gradient_RD = random(3, 8, seed=10 + step)
        gradient_RD[1] *= step != 3
        touched = torch.tensor([0, 1, 2] if step % 2 else [0, 2])
        part = {name: values[touched] for name, values in state.items()}
        moved_RD = weights_RD[touched]
        config.update(TouchedRows(moved_RD, gradient_RD[touched], part), config.lr, step)
        weights_RD[touched] = moved_RD
        for name, values in part.items():
            state[name][touched] = values
        for row in touched.tolist():
            twins[row].step(gradient_RD[row].tolist(), step)
        expected = torch.tensor([twin.weights for twin in twins], dtype=torch.float64)
        torch.testing.assert_close(weights_RD, expected, msg=lambda m, s=step: f"after step {s}: {m}")


@pytest.mark.parametrize("config", [SGD(lr=0.5), Adagrad(lr=0.5, eps=0.25), RowWiseAdagrad(lr=0.5, eps=0.25)])
def test_the_kernel_is_told_every_hyper_parameter(config: EmbeddingOptimizer) -> None:
    _, arguments = config.kernel()
    own = {"initial_accumulator", "momentum", "weight_decay", "weight_decay_mode"}
    told = {name: value for name, value in dict(config).items() if name not in own}
    assert arguments == told
    arguments["lr"] = 0
    assert config.kernel()[1] == told


def test_a_kernel_is_only_asked_for_what_it_does() -> None:
    assert SGD(lr=1).why_no_kernel("cpu") is None
    assert SGD(lr=1, momentum=0.5).why_no_kernel("cuda") == "FBGEMM's SGD has no momentum"
    assert Adam(lr=1).why_no_kernel("cpu") == "FBGEMM has no kernel of Adam on cpu"
    assert Adam(lr=1).why_no_kernel("cuda") is None
    assert Adagrad(lr=1, **L2).why_no_kernel("cpu") == "the kernels take no weight decay"
    assert LAMB(lr=1).why_no_kernel("cuda") == "FBGEMM has no kernel of LAMB on cuda"


def test_weight_decay_wants_a_mode() -> None:
    with pytest.raises(ValidationError, match="want touched_l2, touched_decoupled or all_decoupled where weight_decay"):
        SGD(lr=1, weight_decay=0.1)


def test_accumulators_start_where_they_are_told() -> None:
    starts = [config.initial_state("momentum1") for config in (SGD(lr=1), Adagrad(lr=1), RowWiseAdagrad(lr=1))]
    assert starts == [0, 0.1, 0]


def test_the_kernel_of_adam_is_given_both_betas() -> None:
    of_kernel, values = Adam(lr=0.1, beta1=0.8, beta2=0.95, eps=1e-3).kernel()
    assert of_kernel is torchrec.optim.Adam
    assert values == {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.0}


@pytest.mark.parametrize("config", [SGD, Adagrad, RowWiseAdagrad, Adam, PartialRowWiseAdam])
def test_kernels_are_given_what_fbgemm_takes(config: Any) -> None:
    """By the names that TorchRec makes of an optimizer's arguments. Here no kernel of a GPU is ever made."""
    of_kernel, values = config(lr=1).kernel()
    assert optimizer_type_to_emb_opt_type(of_kernel) is not None
    taken = signature(SplitTableBatchedEmbeddingBagsCodegen.__init__).parameters
    assert {*merge_fused_params({}, values)} <= {*taken}


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5)
    return net


def test_adamw_decays_matrices_and_not_vectors() -> None:
    """Without a gradient only the decay is left of a step: w *= 1 - lr * weight_decay."""
    net = small_net()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimizer = AdamW(lr=0.1, weight_decay=0.5).build(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        kept = 1 - 0.1 * 0.5 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * kept, msg=name)
    assert {parameter.ndim for parameter in net.parameters()} == {1, 2}


def test_adamw_steps_by_the_formula() -> None:
    config = AdamW(lr=0.1, weight_decay=0.5, beta1=0.8, beta2=0.95, eps=1e-3)
    layer = nn.Linear(3, 2, bias=False).double()
    weight = layer.weight.detach().clone()
    optimizer = config.build(layer.parameters())
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, STEPS + 1):
        gradient = random(2, 3, seed=step)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        first = config.beta1 * first + (1 - config.beta1) * gradient
        second = config.beta2 * second + (1 - config.beta2) * gradient**2
        direction = (first / (1 - config.beta1**step)) / ((second / (1 - config.beta2**step)).sqrt() + config.eps)
        weight = weight * (1 - config.lr * config.weight_decay) - config.lr * direction
        torch.testing.assert_close(layer.weight.detach(), weight)


def test_adamw_leaves_frozen_weights_out() -> None:
    net = small_net()
    net[0].requires_grad_(False)
    groups = AdamW(lr=0.1, weight_decay=0.5).build(net.parameters()).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.5), (3, 0.0)]
    vectors = AdamW(lr=0.1, weight_decay=0.5).build(nn.LayerNorm(3).parameters()).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in vectors] == [(2, 0.0)]


def factors(schedule: Warmup, steps: list[int]) -> list[float]:
    return [schedule.factor(step) for step in steps]


def test_without_options_the_rate_is_constant() -> None:
    assert factors(Warmup(), [1, 2, 1_000_000]) == [1, 1, 1]


def test_warm_up_rises_by_the_same_amount_each_step_to_one() -> None:
    assert factors(Warmup(warmup_steps=4), [1, 2, 3, 4, 5, 100]) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_a_linear_decay_falls_to_its_last_factor_and_stays() -> None:
    schedule = Warmup(warmup_steps=2, decay="linear", decay_steps=12, final_factor=0.1)
    steps = [1, 2, 7, 11, 12, 13, 1000]
    assert factors(schedule, steps) == pytest.approx([0.5, 1, 0.55, 0.19, 0.1, 0.1, 0.1])


def test_a_cosine_decay_falls_slowly_at_both_ends() -> None:
    schedule = Warmup(warmup_steps=2, decay="cosine", decay_steps=14, final_factor=0.2)
    steps = [1, 2, 5, 8, 11, 14, 1000]
    half = math.sqrt(0.5)
    expected = [0.5, 1, 0.2 + 0.4 * (1 + half), 0.6, 0.2 + 0.4 * (1 - half), 0.2, 0.2]
    assert factors(schedule, steps) == pytest.approx(expected)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_a_decay_that_ends_within_the_warm_up_drops_when_it_is_over(decay: str) -> None:
    schedule = Warmup.model_validate({"warmup_steps": 4, "decay": decay, "decay_steps": 2, "final_factor": 0.5})
    assert factors(schedule, [1, 3, 4, 5, 9]) == pytest.approx([0.25, 0.75, 1, 0.5, 0.5])


def test_an_inverse_square_root_falls_from_the_end_of_the_warm_up() -> None:
    schedule = Warmup(warmup_steps=4, decay="inverse_sqrt")
    assert factors(schedule, [1, 2, 4, 16, 64]) == [0.25, 0.5, 1, 0.5, 0.25]
    assert factors(Warmup(decay="inverse_sqrt"), [1, 4, 100]) == [1, 0.5, 0.1]


@pytest.mark.parametrize("warmup_steps", [0, 1, 2])
def test_a_step_decay_is_torchs_and_waits_for_the_warm_up(warmup_steps: int) -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    twin = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    wanted = []
    for _ in range(10):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        twin.step()
    schedule = Warmup(warmup_steps=warmup_steps, decay="step", decay_steps=3, gamma=0.5)
    first = max(1, warmup_steps)
    assert factors(schedule, list(range(first, first + 10))) == pytest.approx(wanted)
    assert schedule.factor(1) == 1 / first


@pytest.mark.parametrize(
    ("config", "twin"),
    [
        (DenseAdam(lr=0.1, weight_decay=0.5), lambda groups: torch.optim.Adam(groups, lr=0.1)),
        (DenseSGD(lr=0.1, weight_decay=0.5), lambda groups: torch.optim.SGD(groups, lr=0.1)),
        (
            DenseSGD(lr=0.1, momentum=0.9, nesterov=True),
            lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
        ),
    ],
)
def test_dense_optimizers_are_torchs_with_decay_on_matrices(config: DenseOptimizer, twin: Any) -> None:
    nets = [small_net(), small_net()]
    matrices = [p for p in nets[1].parameters() if p.ndim == 2]
    vectors = [p for p in nets[1].parameters() if p.ndim < 2]
    optimizers = [
        config.build(nets[0].parameters()),
        twin([{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors}]),
    ]
    for step in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            net(random(5, 4, seed=step)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for mine, its in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("decay", ["none", "linear", "cosine", "inverse_sqrt", "step"])
@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
def test_the_rate_is_never_zero_while_it_matters_and_never_above_one(decay: str, warmup_steps: int) -> None:
    schedule = Warmup.model_validate({"warmup_steps": warmup_steps, "decay": decay, "decay_steps": 50})
    values = factors(schedule, list(range(1, 50)))
    assert all(0 < value <= 1 for value in values)
    peak = max(warmup_steps, 1) - 1
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (SGD, {"lr": 0}),
        (Adagrad, {"lr": 1, "eps": 0}),
        (Adagrad, {"lr": 1, "initial_accumulator": -1}),
        (AdamW, {"lr": 1, "beta1": 1}),
        (AdamW, {"lr": 1, "weight_decay": -0.1}),
        (Warmup, {"final_factor": 2}),
        (Warmup, {"decay_steps": 0}),
        (SGD, {"lr": math.inf}),
    ],
)
def test_values_out_of_range_are_refused(config: type[SGD] | type[AdamW] | type[Warmup], key: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=rf"^1 validation error for \w+\n{list(key)[-1]}\n"):
        config.model_validate(key)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ValidationError, match="want a momentum above 0 with nesterov, got 0"):
        DenseSGD(lr=0.1, nesterov=True)
