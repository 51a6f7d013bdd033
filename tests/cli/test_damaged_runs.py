"""Run folders that lost something, or are asked for what they cannot give: an error that says so, or a warning."""

import errno
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import sharded_emb
from sharded_emb.errors import InputError
from sharded_emb.training import checkpoint_files as files
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.checkpoint_config import CheckpointConfig
from sharded_emb.training.metric_lines import MetricLines
from sharded_emb.training.run_log import _File
from sharded_emb.training.state import Progress, RunState
from tests.distributed.ranks import on_one_rank

WORDS = ("loss=softmax", "tables.item.dim=8", "model=gru4rec", "model.hidden=8", "epochs=null", "log_every_steps=1")
SAVING = ("checkpoint.every_steps=2", "checkpoint.keep=9")


def trained(folder: Path, data: Path, *words: str) -> Path:
    return sharded_emb.train(sharded_emb.compose(*WORDS, *SAVING, f"data={data}", f"run={folder}", *words)).path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "run", tiny_data, "steps=4")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """Where a run was, with another one's files."""
    copy = tmp_path / "run"
    shutil.copytree(made, copy, symlinks=True)
    config = yaml.safe_load((copy / "run.yaml").read_text())
    (copy / "run.yaml").write_text(yaml.safe_dump(config | {"run": str(copy)}))
    return copy


@pytest.mark.parametrize(
    ("text", "got"),
    [("model: [", "while parsing a flow node"), ("", "nothing"), ("- a\n", "a list")],
)
@pytest.mark.parametrize("key", ["run", "against"])
def test_a_config_that_is_damaged_is_named(
    run: Path, made: Path, tiny_data: Path, text: str, got: str, key: str
) -> None:
    (run / "run.yaml").write_text(text)
    reading: dict[str, Callable[[], object]] = {
        "run": lambda: trained(run, tiny_data, "steps=6", "resume=true"),
        "against": lambda: sharded_emb.evaluate(made, f"against={run}"),
    }
    message = rf"^{key}: want the config of a run in {run}/run.yaml, got {got}; is it damaged\?$"
    with pytest.raises(InputError, match=message):
        reading[key]()


def test_a_run_is_not_made_shorter(run: Path, tiny_data: Path) -> None:
    with pytest.raises(InputError, match=rf"^steps: want at least 4, which {run} has made, got 3; begin another run$"):
        trained(run, tiny_data, "steps=3", "resume=true")
    assert (run / "result.json").is_file()


@pytest.mark.parametrize("words", [("steps=4", "wait_seconds=60", "checkpoint.every_minutes=5"), ("steps=5",)])
def test_a_finished_run_is_left_as_it_is_unless_it_is_to_be_longer(
    run: Path, tiny_data: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_data.parent)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    trained(run, Path(tiny_data.name), "resume=true", *words)
    after = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert (after == before) == ("steps=4" in words)


def backed_up(run: Path) -> None:
    shutil.copytree(run / "checkpoints" / "step-4", run / "checkpoints" / "step-4.bak")


def another_result(run: Path) -> None:
    (run / "result.json").write_text("[]")


@pytest.mark.parametrize("change", [backed_up, another_result])
def test_what_somebody_put_there_is_not_taken_for_ours(
    run: Path, tiny_data: Path, change: Callable[[Path], None]
) -> None:
    change(run)
    trained(run, tiny_data, "steps=6", "resume=true")
    assert json.loads((run / "result.json").read_text())["steps"] == 6


def test_a_best_checkpoint_that_is_gone_is_missed(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    early = "early_stopping={metric: ndcg@10, patience: 9, best: lowest}"  # the first is, as the model learns
    run = trained(tmp_path / "run", tiny_data, "steps=4", early)
    checkpoints = run / "checkpoints"
    lost, last = (checkpoints / "best").resolve(), (checkpoints / "last").resolve()
    assert lost != last
    shutil.rmtree(lost)
    trained(run, tiny_data, "steps=5", early, "resume=true")
    said = f"{lost} was the best checkpoint and is gone: what is best from now on counts as the best"
    assert said in capsys.readouterr().err
    assert (checkpoints / "best").resolve() == checkpoints / "step-5"


def test_what_was_the_best_is_kept_for_a_checkpoint_that_a_run_may_go_on_from(tmp_path: Path) -> None:
    for step, best in ((2, 2), (4, 2), (6, 4), (8, 8)):
        folder = files.of_step(tmp_path / "checkpoints", step)
        folder.mkdir(parents=True)
        files.write_state(folder, {"run": RunState(progress=Progress(step=step, best_step=best)).to_json()})
        (folder / files.MANIFEST).touch()
    checkpoints = Checkpoints(tmp_path, on_one_rank(lambda place: place), {}, CheckpointConfig(keep=2))
    checkpoints._name(files.of_step(checkpoints.folder, 8), best=True)
    assert [path.name for path in files.steps(checkpoints.folder)] == ["step-8", "step-6", "step-4"]


def test_a_full_disk_costs_lines_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full:
        """Has room for five bytes more."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, text: bytes) -> int:
            return int(self.file.write(text[:5]))

    lines: Any = MetricLines(tmp_path)
    lines.write(1, {"step": 1}, {})
    file, lines._file = lines._file, Full(lines._file)
    lines.write(2, {"step": 2}, {})
    lines._file = file
    lines.write(3, {"step": 3}, {})
    lines.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 3}\n'
    (record,) = caplog.records
    assert record.getMessage() == f"metrics.jsonl has no line of step 2: {tmp_path}: the disk took a part of it"


def test_tensorboard_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").touch()
    lines = MetricLines(tmp_path)
    for step in (1, 2):
        lines.write(step, {"step": step}, {"loss": 1.0})
    lines.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    (record,) = caplog.records
    assert record.getMessage() == f"TensorBoard has nothing from step 1 on: {tmp_path}: File exists"


def test_a_log_that_finds_no_room_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Full:
        def write(self, _: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    file: Any = _File(tmp_path / "rank-0.log")
    stream, file.stream = file.stream, Full()
    for line in ("one", "two"):
        file.handle(logging.LogRecord("sharded_emb", logging.INFO, "here", 1, line, None, None))
    file.stream = stream
    file.close()
    assert capsys.readouterr().err == f"{tmp_path}/rank-0.log has not all lines: No space left on device\n"
