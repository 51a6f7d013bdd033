"""Runs that are killed at random moments and resumed until they are done, beside straight ones.

Ranks are real processes that train as the command does; they are forked from one that has imported everything, which
saves the seconds of a start. What kills them knows nothing of what they do.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from sharded_emb.training import checkpoint_entries as entries
from sharded_emb.training.progress import MEASURED
from tests.distributed.ranks import forking

RANKS = 2
WAIT_SECONDS = 30  # what torchrun gives ranks whose peer was killed
WORDS = [
    *("experiment=sasrec_beauty", "tables.item.dim=8", "global_batch=7", "epochs=4", "log_every_steps=1"),
    *("early_stopping.patience=9", "model.blocks=1", "stall_seconds=60", "wait_seconds=60", "device=cpu"),
]
CONFIGS: dict[str, list[str]] = {
    "row_wise, row-wise Adagrad": ["sharding=row_wise", "embedding_optimizer=rowwise_adagrad"],
    "column_wise, Adam": ["sharding=column_wise", "embedding_optimizer=adam", "checkpoint.every_steps=3"],
    "data_parallel, Adagrad": ["sharding=data_parallel", "embedding_optimizer=adagrad"],
    "row_wise, Adagrad, asynchronous saves": [
        *("sharding=row_wise", "embedding_optimizer=adagrad", "checkpoint.asynchronous=true"),
    ],
    "table_wise, Adagrad, two pieces": ["sharding=table_wise", "embedding_optimizer=adagrad", "accumulation=2"],
}


@dataclass
class Outcome:
    """Of one run that was killed again and again. killed: how often in which phase, and whether one rank or all.

    slowest_end: seconds from a kill to the end of all ranks.
    """

    config: str
    seed: int
    starts: int = 0
    killed: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest_end: float = 0.0
    differing: list[str] = field(default_factory=list)


def _rank(rank: int, port: int, words: Sequence[str]) -> None:
    """Ends with the exit code of the command."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(port))
    import sharded_emb

    with (Path(words[-1].partition("=")[2]).with_suffix(f".said-{rank}")).open("a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    code = 1
    try:
        code = sharded_emb.train(sharded_emb.compose(*words)).exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _start(words: Sequence[str]) -> list[BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = forking()
    ranks: list[BaseProcess] = [context.Process(target=_rank, args=(rank, port, words)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    return ranks


def _words(config: str, data: Path, run: Path) -> list[str]:
    saving = [] if any("every_steps" in word for word in CONFIGS[config]) else ["checkpoint.every_steps=1"]
    return [*WORDS, *CONFIGS[config], *saving, f"data={data}", "resume=true", f"run={run}"]


def straight(config: str, data: Path, run: Path) -> float:
    """A run that nobody disturbs; the seconds that it took from its first step to its last."""
    ranks = _start(_words(config, data, run))
    for process in ranks:
        process.join()
        assert process.exitcode == 0, process.exitcode
    lines = _lines(run)
    return lines[-1]["seconds"] - lines[0]["seconds"]


def killed(config: str, data: Path, run: Path, seed: int, seconds: float) -> Outcome:
    """Starts a run, kills it after a while, again and again, then lets it end. seconds: of the straight one."""
    draw, found = random.Random(seed), Outcome(config, seed)
    for _ in range(draw.randint(2, 5)):
        ranks, before = _start(_words(config, data, run)), _start_of(run)
        found.starts += 1
        if draw.random() < 0.8:  # else while it starts
            _until(lambda before=before: _start_of(run) != before, ranks)
        time.sleep(draw.uniform(0, 0.6 * seconds))
        phase = _phase(run, before)
        victims = ranks if draw.random() < 0.5 else [draw.choice(ranks)]
        if any(process.exitcode is not None for process in ranks):
            victims = []  # done before
        for process in victims:
            os.kill(process.pid or 0, signal.SIGKILL)
        if victims:
            found.killed[phase, "all" if victims == ranks else "one"] += 1
            found.slowest_end = max(found.slowest_end, _end(ranks))
        for process in ranks:
            process.join()
    for process in _start(_words(config, data, run)):
        process.join()
        if process.exitcode != 0:
            found.differing.append(f"the last start ended with {process.exitcode}")
    found.starts += 1
    return found


def _end(ranks: Sequence[BaseProcess]) -> float:
    """As torchrun has it once a rank is gone: others are told to end, and after a while killed. The seconds of that."""
    died = time.monotonic()
    while all(process.exitcode is None for process in ranks):
        time.sleep(0.005)
    for process in ranks:
        if process.exitcode is None:
            process.terminate()
    for process in ranks:
        process.join(max(0.0, died + WAIT_SECONDS - time.monotonic()))
        process.kill()
    return time.monotonic() - died


def _until(true: Any, ranks: Sequence[BaseProcess]) -> None:
    while not true() and all(process.exitcode is None for process in ranks):
        time.sleep(0.005)


def _pulse(run: Path) -> list[Any]:
    try:
        found: list[Any] = json.loads((run / "log" / ".rank-0.pulse").read_text())
    except (OSError, ValueError):
        return [0, 0, "starting"]
    return found


def _start_of(run: Path) -> int:
    return int(_pulse(run)[0])


def _phase(run: Path, before: int) -> str:
    """What the first rank was doing."""
    start, _, phase, *_ = _pulse(run)
    return "starting" if start == before else phase


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def differing(one: Path, other: Path) -> list[str]:
    """What is not bitwise the same of what two runs have left."""
    found = [] if _untimed(_lines(one)) == _untimed(_lines(other)) else ["metrics.jsonl"]
    results = [json.loads((run / "result.json").read_text()) for run in (one, other)]
    found += [key for key in ("status", "steps", "epochs", "metrics") if results[0][key] != results[1][key]]
    for link in ("last", "best"):
        names = [(run / "checkpoints" / link).resolve().name for run in (one, other)]
        if names[0] != names[1]:
            found.append(f"{link}: {names}")
            continue
        parts = [_everything(run / "checkpoints" / link) for run in (one, other)]
        found += sorted(f"{link}: {name}" for name in parts[0].keys() ^ parts[1].keys())
        found += [f"{link}: {name}" for name in parts[0].keys() & parts[1] if not _same(*(p[name] for p in parts))]
    return found


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def _untimed(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    timed = ("seconds", *MEASURED)
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


def _everything(checkpoint: Path) -> dict[str, Any]:
    """All entries of a checkpoint, and what it says of the run but for times."""
    saved = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    kinds = {name.split(".")[0] for name in saved}
    found: dict[str, Any] = {}
    for kind in kinds:
        found |= entries.empty(kind, saved)
    load(found, checkpoint_id=checkpoint, no_dist=True)
    said = json.loads((checkpoint / "state.json").read_text())
    for timed in ("seconds", "metrics_bytes"):  # lines of metrics have times of different lengths
        del said["run"][timed]
    del said["run"]["progress"]["training_seconds"]
    return {**found, "state": {key: said[key] for key in ("step", "table_steps", "run", "vocabularies")}}


def chaos(data: Path, folder: Path, seeds: Sequence[int], configs: Sequence[str]) -> list[Outcome]:
    """A killed run for each seed, its config in turn; nothing that is the same is kept."""
    lengths: dict[str, float] = {}
    found = []
    for number, seed in enumerate(seeds):
        config = configs[number % len(configs)]
        calm = folder / f"straight-{configs.index(config)}"
        if config not in lengths:
            lengths[config] = straight(config, data, calm)
        run = folder / f"killed-{seed}"
        outcome = killed(config, data, run, seed, lengths[config])
        outcome.differing += differing(calm, run)
        found.append(outcome)
        if not outcome.differing:
            shutil.rmtree(run)
        for said in folder.glob(f"{run.name}.said-*"):
            said.unlink()
    return found
