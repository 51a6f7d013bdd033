"""Optimizers against their formulas written by hand, and the schedule by its values."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.optim.adamw import AdamW
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.optim.schedule import Warmup
from sharded_emb.optim.sgd import SGD

STEPS = 5
START = 0.25  # of the accumulators


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients() -> list[Tensor]:
    """Row 2 is never looked up, row 3 only once."""
    found = [random(4, 8, seed=10 + step) for step in range(STEPS)]
    for step, gradient in enumerate(found):
        gradient[2] = 0
        if step != 1:
            gradient[3] = 0
    return found


def slow(config: EmbeddingOptimizer, start: float) -> list[list[list[float]]]:
    """The slow twin: the weights after each step, element by element."""
    weights = random(4, 8, seed=0).tolist()
    sums = [[start] * 8 for _ in range(4)]
    after = []
    for gradient in gradients():
        for row, gradient_row in enumerate(gradient.tolist()):
            squares = [g * g for g in gradient_row]
            if config.state_per == "row":
                squares = [sum(squares) / 8] * 8
            for column, g in enumerate(gradient_row):
                sums[row][column] += squares[column]
                scale = 1.0 if config.state_per is None else 1 / (math.sqrt(sums[row][column]) + config.eps)  # type: ignore[attr-defined]
                weights[row][column] -= config.lr * g * scale
        after.append([list(row) for row in weights])
    return after


def fast(config: EmbeddingOptimizer) -> list[Tensor]:
    weight = nn.Parameter(random(4, 8, seed=0))
    optimizer = config.replicated([weight])
    after = []
    for gradient in gradients():
        weight.grad = gradient
        optimizer.step()
        after.append(weight.detach().clone())
    return after


@pytest.mark.parametrize(
    ("config", "start"),
    [
        (SGD(lr=0.3), 0.0),
        (Adagrad(lr=0.3), 0.1),
        (Adagrad(lr=0.3, initial_accumulator=START, eps=1e-3), START),
        (Adagrad(lr=0.3, initial_accumulator=0), 0.0),
        (RowWiseAdagrad(lr=0.3), 0.0),
        (RowWiseAdagrad(lr=0.3, initial_accumulator=START, eps=1e-3), START),
    ],
    ids=lambda value: repr(value),
)
def test_a_replicated_table_is_updated_by_the_formula(config: EmbeddingOptimizer, start: float) -> None:
    for step, (found, expected) in enumerate(zip(fast(config), slow(config, start), strict=True)):
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), msg=f"after step {step}")
    assert torch.equal(found[2], random(4, 8, seed=0)[2]), "a row that is never looked up stays as it was"


@pytest.mark.parametrize("config", [SGD(lr=0.5), Adagrad(lr=0.5, eps=0.25), RowWiseAdagrad(lr=0.5, eps=0.25)])
def test_the_kernel_is_told_every_hyper_parameter(config: EmbeddingOptimizer) -> None:
    _, arguments = config.fused()
    told = {name: value for name, value in dict(config).items() if name != "initial_accumulator"}
    assert arguments == told
    arguments["lr"] = 0
    assert config.fused()[1] == told


def test_accumulators_start_where_they_are_told() -> None:
    assert [SGD(lr=1).initial_state, Adagrad(lr=1).initial_state, RowWiseAdagrad(lr=1).initial_state] == [0, 0.1, 0]
    assert [SGD.state_per, Adagrad.state_per, RowWiseAdagrad.state_per] == [None, "element", "row"]


def test_rowwise_adagrad_of_one_column_is_adagrad() -> None:
    finals = []
    for config in (Adagrad(lr=0.1, initial_accumulator=START), RowWiseAdagrad(lr=0.1, initial_accumulator=START)):
        weight = nn.Parameter(random(4, 1, seed=0))
        optimizer = config.replicated([weight])
        for step in range(STEPS):
            weight.grad = random(4, 1, seed=step)
            optimizer.step()
        finals.append(weight.detach())
    torch.testing.assert_close(*finals)


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
    optimizer = AdamW(lr=0.1, weight_decay=0.5).build(net)
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
    optimizer = config.build(layer)
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
    groups = AdamW(lr=0.1, weight_decay=0.5).build(net).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.5), (3, 0.0)]
    vectors = AdamW(lr=0.1, weight_decay=0.5).build(nn.LayerNorm(3)).param_groups
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


@pytest.mark.parametrize("decay", ["none", "linear", "cosine"])
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
