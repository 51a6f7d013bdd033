"""bf16 in a training step: the model is near the exact one, what the loss is given is fp32, and weights stay it."""

import contextlib
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sharded_emb.batch import CANDIDATES, Embedded
from sharded_emb.errors import InputError
from sharded_emb.models.base import NextItem
from sharded_emb.training.trainee import DenseConfig, Trainee
from tests.unit import test_click_models as click
from tests.unit import test_next_item_models as sequence


class Kept(nn.Module):
    """A loss that keeps what it was given."""

    def forward(self, output: Any, batch: Any) -> Tensor:  # noqa: ARG002
        self.output = output
        return output.states_SD.sum() if isinstance(output, NextItem) else output.sum()


def step(model: nn.Module, embedded: Embedded, dtype: str, compiled: bool = False) -> tuple[Any, list[Tensor]]:
    """The output of the model, and the gradients of its weights."""
    loss, dense = Kept(), DenseConfig(dtype=dtype, compile=compiled)  # type: ignore[arg-type]
    trainee: Any = Trainee(nn.Identity(), nn.Identity(), model, loss, dense)  # type: ignore[arg-type]
    total = trainee(embedded)
    weights = [*model.parameters()]
    return loss.output, list(torch.autograd.grad(total, weights, allow_unused=True)) if weights else []


def near(found: list[Tensor], exact: list[Tensor]) -> None:
    for one, other in zip(found, exact, strict=True):
        if other is not None:
            assert one.dtype == torch.float32
            assert (one - other).norm() <= 0.15 * other.norm() + 1e-2


@pytest.mark.parametrize("name", sequence.MODELS)
def test_a_next_item_model_in_bf16(name: str) -> None:
    model, table_ND = sequence.build(name), sequence.item_vectors()
    rows = sequence.HISTORIES
    candidates = sequence.jagged([[20, 21, 22], *[[] for _ in rows[1:]]], table_ND)
    embedded = Embedded({}, {"history": sequence.events(rows, table_ND), CANDIDATES: candidates})
    (exact, exact_gradients), (found, gradients) = (step(model, embedded, dtype) for dtype in ("fp32", "bf16"))
    for vectors in ("states_SD", "positives_SD", "candidates_KD"):
        near([getattr(found, vectors)], [getattr(exact, vectors)])
    assert not torch.equal(found.states_SD, exact.states_SD)
    near(gradients, exact_gradients)


def test_a_model_without_weights_of_its_own_in_bf16() -> None:
    """As item2vec is one: tables alone learn."""

    class Dots(nn.Module):
        def forward(self, embedded: Embedded) -> Tensor:
            first_BD, *_ = embedded.pooled.values()
            return (first_BD @ first_BD.T).diagonal()

    embedded = click.clicks(click.LIKED, click.DISLIKED)
    (exact, _), (found, _) = (step(Dots(), embedded, dtype) for dtype in ("fp32", "bf16"))
    near([found], [exact])
    assert not torch.equal(found, exact)


@pytest.mark.parametrize("name", [name for name in click.MODELS if name != "fm"])  # which has no product of matrices
def test_a_click_model_in_bf16(name: str) -> None:
    model, embedded = click.build(name), click.clicks(click.LIKED, click.DISLIKED)
    (exact, exact_gradients), (found, gradients) = (step(model, embedded, dtype) for dtype in ("fp32", "bf16"))
    near([found], [exact])
    assert not torch.equal(found, exact)
    near(gradients, exact_gradients)


def test_tf32_is_for_training_alone() -> None:
    """Neither evaluation nor another run of the process has it."""
    model = click.build("dcn")
    trainee = Trainee(nn.Identity(), nn.Identity(), model, Kept(), DenseConfig(dtype="tf32"))  # type: ignore[arg-type]
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32
    trainee.eval()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
    trainee.train()
    assert torch.get_float32_matmul_precision() == "high"
    Trainee(nn.Identity(), nn.Identity(), model, Kept())  # type: ignore[arg-type]
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_a_model_that_mixes_rows_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(InputError, match=r"^model: want each row computed from itself alone, got BatchNorm1d in 1, "):
        Trainee(nn.Identity(), nn.Identity(), model, Kept())  # type: ignore[arg-type]


def test_a_part_keeps_its_mode_through_an_evaluation() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout().eval(), nn.Dropout())
    trainee = Trainee(nn.Identity(), nn.Identity(), model, Kept(), DenseConfig(dtype="tf32"))  # type: ignore[arg-type]
    with contextlib.suppress(ZeroDivisionError), trainee.evaluating():
        assert not any(module.training for module in trainee.modules())
        assert torch.get_float32_matmul_precision() == "highest"
        raise ZeroDivisionError
    assert [module.training for module in model] == [True, False, True]
    assert torch.get_float32_matmul_precision() == "high"
    trainee.eval()
    with trainee.evaluating():
        pass
    assert not any(module.training for module in trainee.modules())
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ for torch.compile")
def test_a_compiled_model_has_the_numbers_of_the_other_for_batches_of_any_size() -> None:
    model, compiled = click.build("dcn"), click.build("dcn")
    for rows in (click.LIKED, click.LIKED[:4], click.LIKED[3:]):
        embedded = click.clicks(rows, rows)
        (want, want_gradients), (found, gradients) = (
            step(each, embedded, "fp32", each is compiled) for each in (model, compiled)
        )
        torch.testing.assert_close(found, want)
        torch.testing.assert_close(gradients, want_gradients)
    assert [*compiled.state_dict()] == [*model.state_dict()], "what checkpoints hold keeps its names"
