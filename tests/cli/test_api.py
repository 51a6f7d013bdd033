"""`import sharded_emb` in a notebook, and a run.yaml that repeats its run."""

import json
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import sharded_emb
from sharded_emb.distributed.process_group import process_group
from sharded_emb.errors import OutOfRangeIdError
from sharded_emb.training.loop import Trainer
from sharded_emb.training.progress import MEASURED
from sharded_emb.training.tracking import TrackingConfig
from tests.cli.in_process import Commands

WORDS = ("loss=softmax", "tables.item.dim=8", "model.hidden=8", "model.blocks=1", "steps=4", "log_every_steps=1")


def trained(folder: Path, data: Path) -> Any:
    return sharded_emb.train(sharded_emb.compose(*WORDS, f"data={data}", f"run={folder}"))


def metrics(run: Path) -> list[dict[str, Any]]:
    """What a run logged, without how long it took."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", *MEASURED)} for line in lines]


def test_a_notebook_prepares_trains_and_evaluates(tmp_path: Path) -> None:
    sizes = ("dataset=quickstart", "dataset.users=30", "dataset.items=60", "dataset.clusters=4")
    lengths = ("dataset.mean_length=6", "dataset.max_length=9")
    config = sharded_emb.compose(*WORDS, *sizes, *lengths, f"data={tmp_path / 'data'}", f"run={tmp_path / 'run'}")
    handler = signal.getsignal(signal.SIGINT)
    dataset = sharded_emb.prepare(config)
    assert dataset.rows("item") <= 62
    outcome = sharded_emb.train(config)
    assert (outcome.status, outcome.exit_code, outcome.path) == ("finished", 0, tmp_path / "run")
    assert 0 <= outcome.metrics["test"]["ndcg@10"] <= 1
    assert signal.getsignal(signal.SIGINT) == handler, "an interrupt of the notebook is the notebook's again"
    assert sharded_emb.evaluate(outcome.path, "split=test")["test"] == pytest.approx(outcome.metrics["test"])
    for named in (tmp_path / "data", str(tmp_path / "data")):
        assert sharded_emb.Dataset.open(named).manifest == dataset.manifest


def test_what_is_wrong_is_raised_as_one_list(tmp_path: Path, tiny_data: Path) -> None:
    with pytest.raises(sharded_emb.InputError) as wrong:
        sharded_emb.compose("model=sasrce", "tables.item.dim=6")
    assert wrong.value.problems == [
        "model: want an option, got 'sasrce'; did you mean sasrec?",
        "tables.item.dim: want a multiple of 4, got 6; try 8",
    ]
    with pytest.raises(sharded_emb.InputError, match=r"^data: want a dataset folder, got .*nowhere, which is none"):
        trained(tmp_path / "run", tmp_path / "nowhere")
    with pytest.raises(sharded_emb.InputError, match=r"^data: want a new folder, got .*, which holds a dataset"):
        sharded_emb.prepare(sharded_emb.compose("dataset=quickstart", f"data={tiny_data}"))
    with pytest.raises(sharded_emb.InputError, match=r"^run: want a run folder, got .*nowhere, which has no run\.yaml"):
        sharded_emb.evaluate(tmp_path / "nowhere")
    with pytest.raises(sharded_emb.InputError, match=r"^run: want a run folder, got .*no,where, which has no "):
        sharded_emb.evaluate(tmp_path / "no,where")
    with pytest.raises(sharded_emb.InputError, match=r"^verify: want false, since it makes no run to return, "):
        sharded_emb.train(sharded_emb.compose(f"data={tiny_data}", f"run={tmp_path / 'run'}", "verify=true"))


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: sharded_emb.compose(["seed=1"]), "overrides: want texts, as 'seed=1', 'steps=100', got ['seed=1']"),
        (lambda: sharded_emb.evaluate("run", 5), "overrides: want texts, as 'seed=1', 'steps=100', got 5"),
        (lambda: sharded_emb.train("seed=1"), "config: want what sharded_emb.compose gives, got 'seed=1'"),
        (lambda: sharded_emb.prepare(None), "config: want what sharded_emb.compose gives, got None"),
        (
            lambda: sharded_emb.plan(sharded_emb.compose("tables.item.rows=9"), ids_per_sample=3),
            "ids_per_sample: want a mapping, got 3",
        ),
    ],
)
def test_what_is_of_a_wrong_type_is_named(call: Callable[[], object], problem: str) -> None:
    with pytest.raises(sharded_emb.InputError) as wrong:
        call()
    assert wrong.value.problems == [problem]


def test_a_run_that_could_not_begin_leaves_its_folder_free(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: TrackingConfig, run: Any) -> Any:  # noqa: ARG001
        raise RuntimeError("no login")

    run = f"run={tmp_path / 'run'}"
    with monkeypatch.context() as patched:
        patched.setattr(TrackingConfig, "build", refused)
        with pytest.raises(sharded_emb.InputError, match="no login") as kept:
            trained(tmp_path / "run", tiny_data)
    assert not (tmp_path / "run").exists()
    words = [*WORDS, f"data={tiny_data}", run, "resume=true"]
    shorter = [word.replace("steps=4", "steps=2") for word in words]
    assert sharded_emb.train(sharded_emb.compose(*shorter)).status == "finished"
    with pytest.raises(sharded_emb.InputError, match=r"^seed: want ") as kept_too:
        sharded_emb.train(sharded_emb.compose(*words, "seed=7"))
    assert sharded_emb.train(sharded_emb.compose(*words)).status == "finished"
    assert kept.tb is not None
    assert kept_too.tb is not None, "as a notebook keeps the last error"


def of_torch() -> list[object]:
    return [
        torch.get_num_threads(),
        torch.random.get_rng_state().tolist(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        sys.excepthook,
    ]


def test_a_notebook_has_torch_as_it_was_also_after_an_error(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, f"data={tiny_data}", "deterministic=true", f"threads_per_rank={torch.get_num_threads() + 1}")
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(123)
    before = of_torch()
    sharded_emb.train(sharded_emb.compose(*words, f"run={tmp_path / 'run'}"))
    assert of_torch() == before
    sharded_emb.evaluate(tmp_path / "run", "split=valid")
    assert of_torch() == before
    monkeypatch.setattr(Trainer, "train", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sharded_emb.train(sharded_emb.compose(*words, f"run={tmp_path / 'failed'}"))
    assert of_torch() == before
    torch.set_float32_matmul_precision("highest")


def test_ids_that_were_to_travel_ahead_and_have_nowhere_to_go_are_said(tmp_path: Path, tiny_data: Path) -> None:
    for how, count in (("true", 1), ("auto", 0)):
        words = [*WORDS, f"data={tiny_data}", f"run={tmp_path / how}", f"prefetch.ids={how}"]
        sharded_emb.train(sharded_emb.compose(*words))
        said = (tmp_path / how / "log" / "rank-0.log").read_text()
        assert said.count("prefetch.ids: no ids go to another rank here") == count


def test_a_run_may_be_in_a_thread(tmp_path: Path, tiny_data: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(trained, tmp_path / "run", tiny_data).result().status == "finished"


def test_the_error_of_a_result_has_its_name_once(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception, run: Path) -> str:
        def train(self: Trainer) -> None:  # noqa: ARG001
            raise error

        monkeypatch.setattr(Trainer, "train", train)
        with pytest.raises(type(error)):
            trained(run, tiny_data)
        found: str = json.loads((run / "result.json").read_text())["error"]
        return found

    out_of_range = OutOfRangeIdError("OutOfRangeIdError: table item, feature history: id 9 is out of range [0, 8)")
    assert fail(out_of_range, tmp_path / "one") == str(out_of_range)
    assert fail(ValueError("no more"), tmp_path / "other") == "ValueError: no more"


def test_a_process_has_one_run_at_a_time(tmp_path: Path, tiny_data: Path) -> None:
    with process_group("cpu"), ThreadPoolExecutor(1) as threads:
        second = threads.submit(trained, tmp_path / "run", tiny_data)
        with pytest.raises(sharded_emb.InputError, match=r"^run: want one run at a time in a process, got one more "):
            second.result()
    assert not (tmp_path / "run").exists()
    assert trained(tmp_path / "run", tiny_data).status == "finished"


def test_what_the_package_offers_is_listed_and_documented() -> None:
    assert set(sharded_emb.__all__) <= set(dir(sharded_emb))
    for name in sharded_emb.__all__:
        assert getattr(sharded_emb, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = sharded_emb.trian


def test_a_run_yaml_alone_repeats_the_run_and_takes_other_options(
    tmp_path: Path, tiny_data: Path, start: Commands
) -> None:
    first = trained(tmp_path / "first", tiny_data)
    again = ["--config-dir", str(first.path), "--config-name", "run"]
    assert start("train", *again, "run=second").code == 0
    assert metrics(tmp_path / "second") == metrics(first.path)
    assert start("train", *again, "run=third", "sharding=row_wise", "embedding_optimizer=sgd").code == 0
    kept = yaml.safe_load((tmp_path / "third" / "run.yaml").read_text())
    assert (kept["sharding"]["type"], kept["embedding_optimizer"]["lr"]) == ("row_wise", 0.1)
    taken = start("train", *again, "run=third", "seed=x")
    assert taken.code == 2
    assert taken.err.splitlines()[1:] == [
        "  seed: want an integer, got 'x'",
        "  run: want a new folder, got third, which exists; choose another run=, or go on with it by resume=true",
    ]
