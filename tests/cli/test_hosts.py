"""Two hosts with addresses of their own: the numbers of one, a cable that is cut, a host that is killed and is back."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.commands import result
from tests.cli.hosts import Host, ended_within, two_hosts, why_not
from tests.cli.in_process import Commands

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=f"hosts: {why_not()}"),
    pytest.mark.skipif(not (ROOT / ".venv" / "complete").exists(), reason="no complete .venv in the project"),
]
SMALL = (
    "tables.item.dim=8", "model.hidden=8", "model.blocks=1", "model.dropout=0", "sharding=row_wise",
    "epochs=null", "evaluation.every_epochs=100000", "early_stopping=null", "global_batch=16",
    "log_every_steps=1", "profile.steps=0",
)  # fmt: skip


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as found:
        yield found


def losses(run: Path) -> dict[int, float]:
    file = run / "metrics.jsonl"
    found = file.read_text().splitlines() if file.exists() else []
    lines = [json.loads(line) for line in found if line.endswith("}")]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


def wait_for(what: Callable[[], bool], logs: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, said(logs)
        time.sleep(0.1)


def wait_for_step(run: Path, step: int, logs: Path) -> None:
    wait_for(lambda: max(losses(run), default=0) >= step, logs)


def said(logs: Path) -> str:
    return "\n".join(f"{log}:\n{log.read_text()[-5000:]}" for log in sorted(logs.glob("*.log")))


def test_two_hosts_have_the_numbers_of_one_and_end_when_the_cable_is_cut_and_go_on(
    hosts: tuple[Host, Host], tiny_data: Path, tmp_path: Path
) -> None:
    first, second = hosts
    words = ("train", f"data={tiny_data}", *SMALL, "lost_seconds=10", "checkpoint.every_steps=10", "steps=80")
    straight, run = tmp_path / "straight", tmp_path / "cut"

    def start() -> list[subprocess.Popen[bytes]]:
        return [host.launch(tmp_path / f"{host.name}.log", first.address, *words, f"run={run}") for host in hosts]

    alone = first.launch(tmp_path / "alone.log", first.address, *words, f"run={straight}", HOSTS="1", RANKS="4")
    ended_within(alone, 120)
    assert alone.returncode == 0, said(tmp_path)
    both = start()
    wait_for_step(run, 25, tmp_path)
    second.cut()
    wait_for(lambda: not (first.ranks() or second.ranks()), tmp_path, 30)
    ended_within(both[0], 30)
    assert both[0].returncode == 1, said(tmp_path)
    second.end()  # where torchrun itself waits for the place where hosts meet, as long as the kernel does
    assert "ending, so that the launcher can start those that are left" in said(tmp_path)
    assert max(losses(run)) < 80, "it was done before the cable was cut"
    second.mend()
    for started in start():
        ended_within(started, 120)
        assert started.returncode == 0, said(tmp_path)
    assert losses(run) == losses(straight)


def test_a_run_goes_on_with_the_host_that_is_left_and_takes_the_other_in_again(
    hosts: tuple[Host, Host], start: Commands, tiny_data: Path, tmp_path: Path
) -> None:
    first, second = hosts
    # with weights that stay, a loss says which samples it is of, however sums on fewer ranks are rounded
    words = (f"data={tiny_data}", *SMALL, "embedding_optimizer.lr=1e-9", "dense_optimizer.lr=1e-9")
    run, log = tmp_path / "elastic", tmp_path / f"{first.name}.log"

    def launch(host: Host) -> subprocess.Popen[bytes]:
        elastic = {"HOSTS": "1:2", "RESTARTS": "3", "LAST_CALL": "10"}
        endless = ("steps=100000", "lost_seconds=10", "checkpoint.every_steps=10", f"run={run}")
        return host.launch(tmp_path / f"{host.name}.log", first.address, "train", *words, *endless, **elastic)

    def wait_for_steps(more: int) -> None:
        wait_for_step(run, max(losses(run)) + more, tmp_path)

    left, _ = launch(first), launch(second)
    wait_for_step(run, 25, tmp_path)
    assert "4 ranks on cpu" in log.read_text(), "the second host came too late to be there from the start"
    second.kill()
    wait_for(lambda: "2 ranks on cpu" in log.read_text(), tmp_path)
    wait_for_steps(20)
    second.mend()
    again = launch(second)
    wait_for(lambda: log.read_text().count("4 ranks on cpu") == 2, tmp_path)
    wait_for_steps(20)
    for launched in (left, again):
        launched.terminate()
    for launched in (left, again):
        ended_within(launched, 60)
        assert launched.returncode == 1, said(tmp_path)
    found = losses(run)
    assert result(run)["status"] == "stopped", said(tmp_path)
    assert [*found] == [*range(1, result(run)["steps"] + 1)]
    straight = ("checkpoint.every_steps=null", f"run={tmp_path / 'straight'}")
    assert start("train", *words, f"steps={len(found)}", *straight).code == 0
    want = losses(tmp_path / "straight")
    assert [found[step] for step in found] == pytest.approx([want[step] for step in found], abs=1e-5)
