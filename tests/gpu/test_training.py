"""Models train on a GPU to the numbers of the CPU, the same ones each time, and wait for the device once a step."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sharded_emb.batch import Embedded
from sharded_emb.config.build import Built
from sharded_emb.data.source import Share
from sharded_emb.distributed.process_group import process_group
from sharded_emb.models.din import DIN
from sharded_emb.training.feed import Feed
from sharded_emb.training.step import Learner
from tests.distributed import next_item_cases
from tests.distributed.driven import train_steps
from tests.distributed.next_item_config import MODELS, config
from tests.distributed.next_item_data import write_dataset
from tests.unit import test_click_models as click

TIMED = {"pooling": {"_target_": "none", "times": "times"}}

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder."""
    folder = tmp_path_factory.mktemp("gpu") / "data"
    write_dataset(folder)
    return folder


def config_of(model: str) -> dict[str, Any]:
    """What a config says of a model; `timed_` ones read times."""
    if model == "sasrec":
        return {}
    features = {"history": {"table": "item", "column": "items", "max_length": 6}}
    timed = {"features": {"history": {**features["history"], **TIMED}}} if model.startswith("timed_") else {}
    return {"model": MODELS[model.removeprefix("timed_")], **timed}


def of(device: Any, work: Any, data: Path) -> Any:
    """What a case gives on a device."""
    with process_group(device, wait_seconds=60) as place:
        return work(place, data)


@pytest.mark.parametrize("work", [next_item_cases.train_models, next_item_cases.train_described])
def test_models_and_losses_give_the_numbers_of_the_cpu(work: Any, data: Path) -> None:
    want, got = of("cpu", work, data), of("cuda", work, data)
    for name, (losses, table, metrics) in want.items():
        torch.testing.assert_close(
            got[name][0], losses, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
        torch.testing.assert_close(
            got[name][1], table, rtol=0, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
        if isinstance(metrics, dict):
            ours = got[name][2]["valid"]
            assert ours == pytest.approx(metrics["valid"], abs=0.03), name


@pytest.mark.parametrize("model", [*MODELS, "timed_hstu", "sasrec"])
def test_deterministic_runs_are_bitwise_the_same(model: str, data: Path) -> None:
    def train(place: Any, folder: Path) -> Any:
        more = config_of(model)
        built = Built(config(folder, deterministic=True, **more), place)
        try:
            return train_steps(built, 8), built.sharded.whole_table("item")
        finally:
            torch.use_deterministic_algorithms(False)

    (losses, table), (again, same) = of("cuda", train, data), of("cuda", train, data)
    assert losses == again
    assert torch.equal(table, same)


@pytest.mark.parametrize("model", ["sasrec", "hstu", "timed_hstu", "esasrec"])
def test_a_step_waits_for_the_device_once(model: str, data: Path) -> None:
    def waits(place: Any, folder: Path) -> list[str]:
        more = config_of(model)
        optimizer = {"_target_": "sharded_emb.optim.rowwise_adagrad.RowWiseAdagrad", "lr": 0.1}
        built = Built(config(folder, "table_wise", embedding_optimizer=optimizer, **more), place)
        learner = Learner(built.sharded, built.dense, built.config.schedule)
        feed = Feed(built.source(), built.collate(), Share(0, 1), place.device, built.config.prefetch)
        batches = [fed for fed in feed.epoch(0, 0, 1) if fed.loss_weight]
        for number, fed in enumerate(batches[:3], start=1):
            learner.step(fed.pieces, fed.loss_weight, number)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                learner.step(batches[3].pieces, batches[3].loss_weight, 4)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return [f"{each.filename}:{each.lineno}" for each in said if "called a synchronizing" in str(each.message)]

    found = of("cuda", waits, data)
    assert len(found) == 1, found
    assert found[0].split(":")[0].endswith("training/step.py"), found


@pytest.mark.parametrize("times", [False, True], ids=["without times", "with times"])
def test_hstu_of_packed_rows_gives_the_numbers_of_the_cpu(times: bool, data: Path) -> None:
    features = {"history": {"table": "item", "column": "items", "max_length": 6, **(TIMED if times else {})}}

    def train(place: Any, folder: Path) -> Any:
        built = Built(config(folder, model=MODELS["hstu"], features=features), place)
        return train_steps(built, 8), built.sharded.whole_table("item")

    (losses, table), (got_losses, got_table) = of("cpu", train, data), of("cuda", train, data)
    torch.testing.assert_close(got_losses, losses, rtol=0, atol=2e-5)
    torch.testing.assert_close(got_table, table, rtol=0, atol=2e-4)


def test_hstu_with_times_trains_in_half_precision(data: Path) -> None:
    """Near the CPU's: parameters and tables are float32, and only what the products read is rounded."""
    features = {"history": {"table": "item", "column": "items", "max_length": 6, **TIMED}}
    model = MODELS["hstu"]

    def train(place: Any, folder: Path) -> Any:
        dense = {"dtype": "bf16" if place.device.type == "cuda" else "fp32"}
        built = Built(config(folder, model=model, features=features, dense=dense), place)
        return train_steps(built, 8)

    torch.testing.assert_close(of("cuda", train, data), of("cpu", train, data), rtol=0, atol=2e-2)


def moved(whole: Embedded, device: str) -> Embedded:
    """The same batch on a device."""
    sequences = {
        name: replace(
            events,
            values_TD=events.values_TD.to(device),
            ids_T=events.ids_T.to(device),
            lengths_B=events.lengths_B.to(device),
        )
        for name, events in whole.sequences.items()
    }
    return Embedded({name: vectors.to(device) for name, vectors in whole.pooled.items()}, sequences)


@pytest.mark.parametrize("name", ["din", *click.MODELS])
def test_click_models_give_the_numbers_of_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(click.MODELS, "din", DIN(histories=("liked", "disliked"), hidden=(16, 8)))

    def work(device: str) -> tuple[Tensor, ...]:
        model = click.build(name).to(device)
        inputs = click.clicks(click.LIKED, click.DISLIKED)
        vectors = [*inputs.pooled.values(), *(events.values_TD for events in inputs.sequences.values())]
        logit_B = model(moved(inputs, device))
        return logit_B.detach().cpu(), *torch.autograd.grad(logit_B.square().sum(), vectors)

    torch.testing.assert_close(work("cuda"), work("cpu"), rtol=1e-4, atol=1e-5)
