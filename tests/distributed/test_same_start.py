"""Ranks that somebody has started by hand, each host by its own command."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import sharded_emb
from benchmarks.asked_ranks import Ranks
from sharded_emb.config import session
from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.process_group import Place, launch_id
from sharded_emb.training.launches import LAUNCH
from tests.distributed.next_item_data import write_dataset
from tests.distributed.ranks import run_ranks


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    with Ranks(2) as ranks:
        yield ranks


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """A dataset folder for each rank."""
    write_dataset(tmp_path / "0")
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    return tmp_path


def train(data: str, run: Path, *words: str) -> None:
    """RANK stands for that of the process."""
    rank = os.environ["RANK"]
    own = [f"experiment=sasrec_beauty data={data} steps=1 device=cpu".split(), words]
    sharded_emb.train(sharded_emb.compose(f"run={run}", *(word.replace("RANK", rank) for each in own for word in each)))


def test_words_that_differ_are_named_on_every_rank_and_no_run_is_made(two: Ranks, copies: Path) -> None:
    words = ["seed=RANK", "embedding_optimizer.lr=0.RANK1"]
    ending = two.ask(train, f"{copies}/0", copies / "run", *words)
    assert ending.how == "refused"
    for key, values in (("seed", "0 on rank 0 and 1"), ("embedding_optimizer.lr", "0.01 on rank 0 and 0.11")):
        assert f"{key}: want the same on all ranks, got {values} on rank 1; start all of them with" in ending.text
    assert not (copies / "run").exists()


def test_a_host_may_have_a_copy_of_the_data_and_other_cores(two: Ranks, copies: Path) -> None:
    ending = two.ask(train, f"{copies}/RANK", copies / "run", f"flat_copy={copies}/flatRANK", "threads_per_rank=RANK1")
    assert (ending.how, ending.text) == ("done", "")


def test_other_data_are_refused(two: Ranks, copies: Path) -> None:
    manifest = copies / "1" / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("seed: 0", "seed: 1"))
    ending = two.ask(train, f"{copies}/RANK", copies / "run")
    assert ending.how == "refused"
    said = "data: manifest.yaml: seed: want the same on all ranks, got 0 on rank 0 and 1 on rank 1; give every host"
    assert ending.text == f"{said} the same dataset"
    assert not (copies / "run").exists()


def as_restarted(place: Place, folder: str) -> tuple[Path | None, bool]:
    """Torchrun counts a restart on the host of the rank that failed, and starts those of the others anew as well."""
    os.chdir(folder)
    os.environ.update(TORCHELASTIC_RUN_ID="none", TORCHELASTIC_RESTART_COUNT=str(place.rank))
    config = sharded_emb.compose("experiment=sasrec_beauty", "data=./0")
    before = session._as_restarted(config, place)
    assert (before.run, before.resume) == (None, False), "the first start had not come so far"
    if place.rank == 0:
        Path("runs/mine").mkdir(parents=True)
        Path("runs/mine", LAUNCH).write_text(str(launch_id()))
    all_values(None, place)
    after = session._as_restarted(config, place)
    return after.run, after.resume


def test_ranks_of_all_hosts_go_on_where_those_of_one_have_failed(copies: Path) -> None:
    assert run_ranks(as_restarted, 2, str(copies), per_host=1) == [(Path("runs/mine"), True)] * 2
