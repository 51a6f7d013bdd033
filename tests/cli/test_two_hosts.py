"""Two torchrun agents of two ranks each, as on two hosts: they find each other, and train what one process trains."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from tests.cli.commands import ROOT, metrics_lines, result, run

pytestmark = pytest.mark.slow

SHARDINGS = {
    "item": "row_wise",  # read as a sequence too
    "genre": "table_row_wise",
    "year": "table_column_wise",
    "occupation": "grid",
    "age": "table_row_wise",
    "gender": "table_wise",
}
WORDS = [
    *("experiment=din_ml100k", "embedding_optimizer=sgd", "embedding_optimizer.lr=1", "model.dropout=0"),
    *("global_batch=64", "steps=8", "early_stopping=null", "log_every_steps=1", "device=cpu"),
    *(f"tables.{table}.sharding={kind}" for table, kind in SHARDINGS.items()),
]


def write_raw(folder: Path) -> Path:
    """MovieLens in its own files, but few and random."""
    draw = random.Random(3)
    folder.mkdir()
    genres = ["Action", "Comedy", "Drama", "Horror", "War"]
    films = [f"{i}\tFilm {i}\t{draw.randint(1980, 1998)}\t{' '.join(draw.sample(genres, 2))}" for i in range(60)]
    jobs = ["artist", "doctor"]
    users = [f"{u}\t{draw.randint(10, 70)}\t{draw.choice('MF')}\t{draw.choice(jobs)}\t0" for u in range(30)]
    events = [f"{draw.randrange(30)}\t{draw.randrange(60)}\t{draw.randint(1, 5)}\t{at}" for at in range(1500)]
    for name, head, lines in (
        ("item", "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq", films),
        ("user", "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token", users),
        ("inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float", events),
    ):
        (folder / f"tiny.{name}").write_text("\n".join([head, *lines]) + "\n")
    return folder


def on_two_hosts(*words: str) -> list[str]:
    """What both agents of a run said. Fails unless both end with 0."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
    line += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "-m", "sharded_emb.train", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    agents = [
        subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = []
    try:
        for agent in agents:
            said.append(agent.communicate(timeout=400)[0])
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    return said


def weights(run_folder: Path) -> dict[str, Tensor]:
    """All whole tables and dense weights of the last checkpoint."""
    whole = run_folder / "whole.pt"
    dcp_to_torch_save(run_folder / "checkpoints" / "last", whole)
    saved: dict[str, Tensor] = torch.load(whole)
    return {name: values for name, values in saved.items() if name.partition(".")[0] in ("tables", "dense")}


def columns_and_ranks(plan: dict[str, Any], table: str) -> list[tuple[int, int]]:
    """The first column and the rank of each shard."""
    return [(shard["offsets"][1], shard["rank"]) for shard in plan["tables"][table]["shards"]]


def test_two_agents_train_what_one_process_trains(tmp_path: Path) -> None:
    data, one, two = tmp_path / "data", tmp_path / "one", tmp_path / "two"
    run("prepare", "experiment=din_ml100k", f"dataset.raw={write_raw(tmp_path / 'raw')}", f"data={data}")
    run("train", *WORDS, f"data={data}", f"run={one}")
    on_two_hosts(*WORDS, f"data={data}", f"run={two}")

    plan = json.loads((two / "plan.json").read_text())
    assert {name: table["sharding"] for name, table in plan["tables"].items()} == SHARDINGS
    hosts = [{0, 1}, {2, 3}]
    for table in ("genre", "age", "year"):
        assert {rank for _, rank in columns_and_ranks(plan, table)} in hosts, "all ranks of one host"
    assert columns_and_ranks(plan, "occupation") == [(0, 0), (0, 1), (4, 2), (4, 3)], "a block of columns a host"

    want, found = weights(one), weights(two)
    assert {f"tables.{table}.weight" for table in SHARDINGS} <= found.keys() == want.keys()
    for name, values in found.items():
        atol = 1e-6 if name.startswith("tables") else 1e-5  # AdamW divides gradients of nearly nothing by themselves
        torch.testing.assert_close(values, want[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
    losses = [[each["loss"] for each in metrics_lines(folder) if each["split"] == "train"] for folder in (one, two)]
    assert len(losses[1]) == 8
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert result(two)["metrics"]["test"] == pytest.approx(result(one)["metrics"]["test"], abs=1e-4)
