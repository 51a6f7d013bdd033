"""The run folder: who writes what, and that one job at a time does.

run.yaml  plan.json  metrics.jsonl  result.json  log/rank-N.log  tensorboard/  checkpoints/
"""

import fcntl
import hashlib
import json
import logging
import math
import resource
import sys
import time
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from sharded_emb import versions
from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError

log = logging.getLogger("sharded_emb")


class RunFolder:
    """An open run folder. Rank 0 writes everything but the other ranks' logs."""

    def __init__(self, path: Path, place: Place, config: dict[str, Any], lock: IO[str] | None) -> None:
        self.path = path
        self.place = place
        self.config = config
        self._lock = lock
        self._start = time.monotonic()
        self._writes = place.rank == 0
        self._metrics = (path / "metrics.jsonl").open("a", encoding="utf-8") if self._writes else None
        self._board = SummaryWriter(str(path / "tensorboard")) if self._writes else None

    @classmethod
    def create(cls, wanted: Path | None, name: str, config: dict[str, Any], place: Place) -> "RunFolder":
        """A new run folder, decided by rank 0. Raises InputError on every rank if it exists already."""
        path, lock = None, None

        def make() -> Path:
            nonlocal lock
            folder = wanted or _free(Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
            lock = _create(folder, {**config, "run": str(folder)})
            return folder

        path = from_first_rank(make, place)
        return cls(path, place, {**config, "run": str(path)}, lock)

    @property
    def seconds(self) -> float:
        """Since the folder was opened."""
        return time.monotonic() - self._start

    def write_json(self, name: str, value: Any) -> None:
        """Writes a file of the folder, whole or not at all."""
        if self._writes:
            aside = self.path / f".{name}.part"
            aside.write_text(json.dumps(without_nan(value), indent=2) + "\n", encoding="utf-8")
            aside.replace(self.path / name)

    def write_metrics(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, flushed, and the same for TensorBoard."""
        if self._metrics is None or self._board is None:
            return
        line = {"step": step, "split": split, "seconds": round(self.seconds, 3), **metrics}
        self._metrics.write(json.dumps(without_nan(line)) + "\n")
        self._metrics.flush()
        for key, value in metrics.items():
            self._board.add_scalar(f"{split}/{key}", value, step)

    def write_result(self, status: str, values: dict[str, Any]) -> None:
        """result.json: how the run ended."""
        self.write_json(
            "result.json",
            {
                "status": status,
                "seconds": round(self.seconds, 3),
                "peak_memory_bytes": peak_memory_bytes(self.place.device),
                **values,
                "versions": {k: v for k, v in versions.found().items() if v is not None},
                "config_hash": config_hash(self.config),
            },
        )

    def close(self) -> None:
        """Ends all files and gives the folder free."""
        for file in (self._metrics, self._board, self._lock):
            if file is not None:
                file.close()


def config_hash(config: dict[str, Any]) -> str:
    """A hash of what a run depends on: everything but where it writes."""
    known = {key: value for key, value in config.items() if key != "run"}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this rank had: of the device where it is CUDA, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _create(folder: Path, config: dict[str, Any]) -> IO[str]:
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"run: want a new folder, got {folder}, which exists; choose another run=, or remove it")
    try:
        (folder / "log").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"run: want a folder that can be made, got {folder} ({error.strerror})") from error
    lock = (folder / ".lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"run: want a folder that no other job uses, got {folder}, which one has locked") from error
    (folder / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return lock


def _free(folder: Path) -> Path:
    """The folder itself, or the first of FOLDER-2, FOLDER-3 ... that is not there: jobs start in the same second."""
    names = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return folder if not folder.exists() else next(name for name in names if not name.exists())


def without_nan(value: Any) -> Any:
    """The same with null for what JSON has no word for: not-a-number and infinities."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Console(logging.Handler):
    """Writes to what stderr is at the moment: a progress bar takes it over to print lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def log_to(path: Path, rank: int) -> None:
    """Sends this rank's log to its file; the console shows rank 0, and the other ranks' warnings with their rank."""
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
    file = logging.FileHandler(path / "log" / f"rank-{rank}.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console = _Console()
    console.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    console.setFormatter(logging.Formatter("%(message)s" if rank == 0 else f"[rank {rank}] %(message)s"))
    log.addHandler(file)
    log.addHandler(console)
