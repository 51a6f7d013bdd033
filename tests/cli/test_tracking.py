"""`tracking=`: what services are told of a run besides its own files, without a network."""

import importlib.util
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sharded_emb.errors import InputError
from sharded_emb.training import tracking
from sharded_emb.training.tracking import Following, Tracked, Tracker, TrackingConfig
from tests.cli.commands import metrics_lines, result
from tests.cli.in_process import Commands

WORDS = ("experiment=quickstart", "log_every_steps=1", "checkpoint.every_steps=2", "run=mine")


def without(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"the extra [{module}] is not installed")


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_service_that_is_not_installed_is_named_before_anything_is_made(
    start: Commands, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == service else there(name, *more)
    )
    ended = start("train", *WORDS, f"data={tiny_data}", f"tracking={service}")
    how = f"pip install 'sharded-emb[{service}]', or leave tracking out"
    assert ended.code == 2
    assert ended.err.splitlines()[1].strip() == f"tracking: want {service} installed, got none; {how}"
    assert not (start.folder / "mine").exists()


class Broken(TrackingConfig):
    """A service that takes a run and then is gone, or does not even take it."""

    refuses: bool = False

    def build(self, run: Tracked) -> Tracker:  # noqa: ARG002
        if self.refuses:
            raise ConnectionError("no such host")
        return Gone()


class Gone(Tracker):
    def log(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        raise ConnectionError("no such host")


def test_a_service_that_is_gone_is_told_of_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    # not through handlers: commands of earlier tests have changed them
    monkeypatch.setattr(tracking.log, "warning", lambda text, *values: said.append(text % values))
    following = Following(Broken(), Tracked(tmp_path, {}))
    following.log(1, {"train/loss": 1.0})
    following.log(2, {"train/loss": 1.0})
    following.close("finished", {})
    assert said == ["tracking ends here, the run goes on: ConnectionError: no such host"]
    with pytest.raises(InputError, match=r"^tracking: want None to take this run, got: no such host$"):
        Following(Broken(refuses=True), Tracked(tmp_path, {}))


class Hanging(TrackingConfig):
    """A service that takes a run and then answers no more until it is let go."""

    def build(self, run: Tracked) -> Tracker:  # noqa: ARG002
        return Silent()


class Silent(Tracker):
    last: ClassVar["Silent"]

    def __init__(self) -> None:
        Silent.last = self
        self.asked, self.let_go = threading.Event(), threading.Event()
        self.told: list[int | str] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        self.told.append(step)
        self.asked.set()
        self.let_go.wait(60)

    def close(self, status: str, metrics: Mapping[str, float]) -> None:  # noqa: ARG002
        self.told.append(status)


def seven_steps(folder: Path) -> tuple[Following, Silent]:
    """Followed by a service that is busy with the first of them."""
    following, service = Following(Hanging(), Tracked(folder, {})), Silent.last
    following.log(1, {"train/loss": 1.0})
    assert service.asked.wait(60)
    for step in range(2, 8):
        following.log(step, {"train/loss": 1.0})
    return following, service


@pytest.mark.parametrize("status", ["stopped", "finished"])
def test_a_service_that_does_not_answer_holds_up_nothing(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(tracking.log, "warning", lambda text, *values: said.append(text % values))
    monkeypatch.setattr(tracking, "SECONDS_TO_STOP" if status == "stopped" else "SECONDS_TO_ANSWER", 0.1)
    monkeypatch.setattr(tracking, "MOST_BEHIND", 4)
    following, service = seven_steps(tmp_path)
    following.close(status, {})
    (line,) = said
    behind = "4 calls wait, and 2 lines were left out"
    assert line == f"tracking: the service has not taken all of this run in time: {behind}"
    service.let_go.set()
    assert following._thread is not None
    following._thread.join(60)
    assert not following._thread.is_alive()
    assert service.told == [1]


def test_a_slow_service_is_told_all_of_a_run_that_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(tracking.log, "warning", lambda text, *values: said.append(text % values))
    monkeypatch.setattr(tracking, "MOST_BEHIND", 4)
    following, service = seven_steps(tmp_path)
    threading.Timer(0.3, service.let_go.set).start()
    following.close("finished", {"test/mrr": 0.5})
    assert service.told == [1, 2, 3, 4, 5, "finished"]
    assert said == ["tracking: the service was too slow for 2 lines, which it lacks"]


def test_where_no_service_is_told_there_is_no_thread(tmp_path: Path) -> None:
    before = {*threading.enumerate()}
    following = Following(TrackingConfig(), Tracked(tmp_path, {}))
    following.log(1, {"train/loss": 1.0})
    assert {*threading.enumerate()} <= before
    following.close("finished", {})


def test_the_end_of_a_run_stands_before_its_service_is_waited_for(
    start: Commands, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And signals find the process as it was: nothing is written over it."""
    found: list[Any] = []

    class Asked(Tracker):
        def close(self, status: str, metrics: Mapping[str, float]) -> None:
            found.extend([status, result(start.folder / "mine")["status"], signal.getsignal(signal.SIGTERM)])
            found.append({*metrics} >= {"test/ndcg@10"})

    monkeypatch.setattr(TrackingConfig, "build", lambda *_: Asked())
    before = signal.getsignal(signal.SIGTERM)
    assert start("train", *WORDS, f"data={tiny_data}", "steps=2").code == 0
    assert found == ["finished", "finished", before, True]


def test_a_run_that_a_service_refuses_leaves_no_folder(
    start: Commands, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrackingConfig, "build", Broken(refuses=True).build)
    refused = "tracking: want None to take this run, got: no such host"
    ended = start("train", *WORDS, f"data={tiny_data}")
    assert (ended.code, ended.err.splitlines()[1].strip()) == (2, refused)
    assert not (start.folder / "mine").exists()
    (start.folder / "mine" / "log").mkdir(parents=True)
    (start.folder / "mine" / "log" / "job.log").write_text("of the scheduler")
    assert start("train", *WORDS, f"data={tiny_data}").code == 2
    assert [path.name for path in (start.folder / "mine").rglob("*")] == ["log", "job.log"]


@without("mlflow")
def test_mlflow_has_what_metrics_jsonl_has_and_a_resumed_run_stays_one(start: Commands, tiny_data: Path) -> None:
    from mlflow import MlflowClient

    words = (*WORDS, f"data={tiny_data}", "tracking=mlflow")
    assert start("train", *words, "steps=2").code == 0
    assert start("train", *words, "steps=4", "resume=true").code == 0
    client = MlflowClient(f"sqlite:///{start.folder / 'mine' / 'mlflow.db'}")
    (experiment,) = (each for each in client.search_experiments() if each.name == "sharded_emb")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.params["model.blocks"]) == ("FINISHED", "1")
    losses = {line["step"]: line["loss"] for line in metrics_lines(start.folder / "mine") if line["split"] == "train"}
    assert {each.step: each.value for each in client.get_metric_history(run.info.run_id, "train/loss")} == losses
    assert set(losses) == {1, 2, 3, 4}
    (test,) = (line for line in metrics_lines(start.folder / "mine") if line["split"] == "test" and line["step"] == 4)
    last = client.get_metric_history(run.info.run_id, "test/ndcg_at_10")[-1]
    assert last.value == test["ndcg@10"]


@without("wandb")
def test_wandb_writes_a_run_that_can_be_uploaded_later(start: Commands, tiny_data: Path) -> None:
    words = (*WORDS, f"data={tiny_data}", "tracking=wandb", "tracking.mode=offline", "tracking.project=tests")
    assert start("train", *words, "steps=2").code == 0
    (file,) = (start.folder / "mine" / "wandb").glob("offline-run-*/run-*.wandb")
    name = (start.folder / "mine" / ".wandb-id").read_text()
    assert file.name == f"run-{name}.wandb"
    written = file.read_bytes()
    assert all(text in written for text in (b"train/loss", b"valid/ndcg@10", b"test/ndcg@10", b"finished"))
    assert list((start.folder / "mine" / "tensorboard").iterdir())
