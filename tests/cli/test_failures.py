"""What becomes of a run of two ranks when one of them fails, is killed, hangs, or is told to stop in a long save."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sharded_emb.distributed.process_group import launch_id
from tests.cli.commands import ROOT, metrics_lines, result
from tests.cli.in_process import Commands
from tests.distributed.next_item_data import write_dataset

WORDS = ["experiment=sasrec_beauty", "tables.item.dim=8", "global_batch=4", "epochs=1000", "early_stopping=null"]

BREAKING = "_target_: tests.cli.breaking.Breaking\nhistory: history\nhow: none\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(folder)
    return folder


class Launched:
    """torchrun with two ranks of `train`, in a folder of its own; what it says is in a file."""

    def __init__(self, folder: Path, data: Path, words: list[str], options: tuple[str, ...] = ()) -> None:
        (folder / "conf" / "model").mkdir(parents=True)
        (folder / "conf" / "model" / "breaking.yaml").write_text(BREAKING)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
        own = ["--config-dir", str(folder / "conf"), "model=breaking", f"data={data}", "log_every_steps=1"]
        self._said = folder / "said"
        with self._said.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, "-m", "sharded_emb.train", *WORDS, *own, *words],
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        return self._said.read_text()

    def end(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()

    def until(self, true: Callable[[], object], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() in (None, -signal.SIGKILL), self.said()
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """A child of nobody that has ended may still be waiting to be seen."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_rank_that_failed_is_heard_first_and_named_by_the_others_and_30_s_later_all_have_ended(
    tmp_path: Path, data: Path
) -> None:
    run, raised = tmp_path / "run", tmp_path / "raised"
    saving = ["checkpoint.every_steps=3", "checkpoint.asynchronous=true"]
    launched = Launched(tmp_path, data, [f"run={run}", "model.how=raise", f"model.once={raised}", *saving])
    launched.until(raised.exists)
    assert launched.end(120) == 1
    assert time.time() - raised.stat().st_mtime < 30, launched.said()
    said = launched.said()
    at = [
        said.index(line)
        for line in (
            "train (rank 1): failed\nTraceback",
            "ValueError: the model has had enough\nrank 1, after step 3, forward; its log is",
            f"train: rank 1 failed after step 3: ValueError: the model has had enough; its log is {run}/log/rank-1.log",
            "Root Cause (first observed failure):",
        )
    ]
    assert at == sorted(at)
    assert "rank      : 1 (local_rank: 1)\n  exitcode  : 1" in said[at[-1] :]
    assert "ValueError: the model has had enough" in (run / "log" / "rank-1.log").read_text()
    found = result(run)
    assert (found["status"], found["steps"]) == ("failed", 3)
    assert found["error"].startswith("OtherRankFailedError: rank 1 failed after step 3: ValueError")
    checkpoints = {each.name for each in (run / "checkpoints").iterdir()}
    assert checkpoints == {"last", "step-3"}, "what was being saved is whole; nobody saves anew without the others"


def test_torchrun_restarts_a_run_that_goes_on_by_itself(tmp_path: Path, data: Path) -> None:
    """A rank is killed, and neither run= nor resume= was given. torchrun ends the other before it has said a word."""
    words = ["model.how=kill", "model.step=5", "model.once=broken", "checkpoint.every_steps=2", "steps=8"]
    launched = Launched(tmp_path, data, words, ("--max-restarts", "1"))
    assert launched.end(180) == 0, launched.said()
    said = launched.said()
    assert "train: another rank is gone or hangs, and gave no reason (" in said
    assert "  rank 1: forward, after step 4, for " in said
    assert "resumed after step 4" in said
    (run,) = (tmp_path / "runs").iterdir()
    assert (result(run)["status"], result(run)["steps"]) == ("finished", 8)
    assert [line["step"] for line in metrics_lines(run) if line["split"] == "train"] == list(range(1, 9))


def test_a_save_that_takes_too_long_for_a_signal_is_given_up(tmp_path: Path, data: Path) -> None:
    run = tmp_path / "run"
    slow = ["model.how=slow_save", "checkpoint.every_steps=2", "checkpoint.stop_within_seconds=2"]
    launched = Launched(tmp_path, data, [f"run={run}", *slow])
    part = run / "checkpoints" / ".step-4.part"
    launched.until(part.exists)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.end(25) != 0
    assert (
        "saving, after step 4, was not done 2 s after signal 15: given up; the checkpoint before stands"
        in launched.said()
    )
    assert result(run)["status"] == "stopped"
    assert result(run)["steps"] == 4
    assert (run / "checkpoints" / "last").resolve().name == "step-2"


def test_ranks_end_with_their_torchrun(tmp_path: Path, data: Path) -> None:
    """While one of them hangs, which is told of."""
    run = tmp_path / "run"
    launched = Launched(tmp_path, data, [f"run={run}", "model.how=stall", "model.seconds=600", "stall_seconds=1.5"])
    # 2 s, or more on a busy machine
    report = r"no rank has gone on for \d+ s; log/rank-N.log say where each is:\n"
    launched.until(lambda: re.search(report + r"(  rank [01]: forward, after step 3, for \d+ s\n){2}", launched.said()))
    first = re.split(report, launched.said())[1]
    assert {line.partition(":")[0] for line in first.splitlines()[:2]} == {"  rank 0", "  rank 1"}
    waited = [int(each) for each in re.findall(r"no rank has gone on for (\d+) s;", launched.said())]
    assert all(later >= 2 * earlier - 1 for earlier, later in pairwise(waited)), "one rank reports, and then of more"
    launched.until(lambda: "time.sleep(self.config.seconds)" in (run / "log" / "rank-1.log").read_text())
    children = Path(f"/proc/{launched.process.pid}/task/{launched.process.pid}/children").read_text().split()
    ranks = [int(pid) for pid in children if b"sharded_emb.train" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(ranks) == 2
    launched.process.kill()
    launched.process.wait()
    launched.until(lambda: not any(map(alive, ranks)), seconds=5)
    assert "the launcher of this rank is gone; ending without a checkpoint" in (run / "log" / "rank-0.log").read_text()


def test_a_loss_that_is_no_number_leaves_its_batch(tmp_path: Path, data: Path, start: Commands) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "breaking.yaml").write_text(BREAKING)
    breaking = ["--config-dir", str(tmp_path), "model=breaking", "model.how=not_finite", "model.rank=0"]
    ended = start("train", *WORDS, *breaking, f"data={data}", "run=mine", "accumulation=2")
    assert ended.code == 1
    said = (
        "train: loss is nan at step 2; no weight has been updated; the batch is in mine/not-finite-step-2.pt; look at "
    )
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert result(tmp_path / "mine")["steps"] == 1
    batch = torch.load(tmp_path / "mine" / "not-finite-step-2.pt")
    assert batch["step"] == 2
    (pieces,) = batch["ranks"]
    assert [piece["samples"] for piece in pieces] == [2, 2]
    for piece in pieces:
        assert piece["ids"].keys() == {"history", "candidates"}
        assert piece["ids"]["history"]["lengths"].sum() == len(piece["ids"]["history"]["ids"]) > 0


def test_a_run_that_another_launch_has_made_is_no_place_to_be_started_anew_in(
    tmp_path: Path, data: Path, start: Commands
) -> None:
    run = tmp_path / "run"
    small = [*WORDS[:3], f"data={data}", f"run={run}", "log_every_steps=1", "epochs=null", "early_stopping=null"]
    assert start("train", *small, "steps=2").code == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    launched = Launched(tmp_path, data, [f"run={run}", "steps=8"], ("--max-restarts", "1"))
    assert launched.end(120) == 1, launched.said()
    assert launched.said().count("run: want a new folder") >= 2, "by the first start and by the second"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_launches_of_two_containers_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun gives all of them the same name, and is the first process of each."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    ids = []
    for _ in range(2):
        shell = subprocess.Popen(["sleep", "60"])
        monkeypatch.setattr(os, "getppid", lambda pid=shell.pid: pid)
        ids += [launch_id(), launch_id()]
        shell.kill()
        shell.wait()
        time.sleep(0.02)
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    (name, _, began, boot), (other_name, _, other_began, other_boot) = (str(each).split() for each in ids[::2])
    assert (name, boot) == (other_name, other_boot)
    assert began != other_began, "processes of one number, as each container has, began at other times"
