"""The run folder: who writes what, and that one job at a time does.

run.yaml  plan.json  metrics.jsonl  result.json  log/rank-N.log  tensorboard/  checkpoints/
"""

import fcntl
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from sharded_emb import versions
from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError
from sharded_emb.replacing import replacing
from sharded_emb.training.launches import LAUNCH, launch_ids
from sharded_emb.training.metric_lines import MetricLines, without_nan
from sharded_emb.training.same_run import LIMITS, config_hash, differences
from sharded_emb.training.tracking import Following, Tracked, TrackingConfig

RUN = "run.yaml"
LOCK = ".lock"


class RunFolder:
    """An open run folder. Rank 0 writes everything but the other ranks' logs."""

    def __init__(self, path: Path, place: Place, config: dict[str, Any], lock: IO[str] | None) -> None:
        self.path = path
        self.place = place
        self.config = config
        self._lock = lock
        self._start = time.monotonic()
        self._writes = place.rank == 0
        self._metrics = MetricLines(path) if self._writes else None
        self._following: Following | None = None
        self._ended: tuple[str, dict[str, float]] = "failed", {}

    @classmethod
    def create(cls, wanted: Path | None, name: str, config: dict[str, Any], place: Place) -> "RunFolder":
        """A new run folder, decided by rank 0. Raises InputError on every rank if it exists already."""
        path, lock = None, None

        def make() -> Path:
            nonlocal lock
            folder = wanted or _free(Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
            lock = _create(folder, {**config, "run": str(folder)}, launches)
            return folder

        launches = launch_ids(place)
        path = from_first_rank(make, place)
        return cls(path, place, {**config, "run": str(path)}, lock)

    @classmethod
    def reopen(cls, path: Path, config: dict[str, Any], place: Place) -> "RunFolder | None":
        """The folder of a run that was started before; None, on every rank, if there is none yet.

        Raises InputError on every rank if another job uses it, or if the run was started with another config.
        """
        lock = None

        def claim() -> bool:
            nonlocal lock
            if not (path / RUN).is_file():
                return False
            lock = locked(path)
            with _given_free(lock):
                if wrong := differences(config_of("run", path), config, path):
                    raise InputError(*wrong)
            return True

        return cls(path, place, {**config, "run": str(path)}, lock) if from_first_rank(claim, place) else None

    def take_back(self) -> None:
        """Removes what was made of a new run that was refused before it began, and would stand in the way of others."""
        if not self._writes:
            return
        logs = self.path / "log"  # may have been there, and hold what others wrote
        for entry in [*(each for each in self.path.iterdir() if each != logs), *logs.glob("rank-*.log")]:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        for folder in (logs, self.path):
            with suppress(OSError):
                folder.rmdir()

    def finished(self) -> dict[str, Any] | None:
        """result.json of a run that has nothing left to do under the limits of this config, whatever else may change;
        None of any other. A stream that did not say that it ended may have more.
        """

        def read() -> dict[str, Any] | None:
            try:
                found = json.loads((self.path / "result.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return None
            if not isinstance(found, dict):  # of somebody else
                return None
            before = config_of("run", self.path)
            done = found.get("status") == "finished" and found.get("config_hash") == config_hash(before)
            done &= all(self.config.get(key) == before.get(key) for key in LIMITS)
            more_may_come = not found.get("stream", {}).get("ended", True) and found["steps"] != self.config.get(
                "steps"
            )
            return found if done and not more_may_come else None

        return from_first_rank(read, self.place)

    def rewind(self, step: int, seconds: float, metrics_bytes: int) -> None:
        """Forgets what came after a step, when metrics.jsonl had so many bytes, and goes on from its time."""
        self._start = time.monotonic() - seconds
        if self._metrics is not None:
            self._metrics.rewind(step, metrics_bytes)
            (self.path / "result.json").unlink(missing_ok=True)

    def write_config(self) -> None:
        """run.yaml, as the run goes on."""
        if self._writes:
            _write_config(self.path, self.config)

    def follow(self, tracking: TrackingConfig) -> None:
        """From now on a service is told of what is written here. Raises InputError on every rank if it cannot be."""

        def begin() -> None:
            self._following = Following(tracking, Tracked(self.path, self.config))

        from_first_rank(begin, self.place)

    @property
    def metrics_bytes(self) -> int:
        """Written to metrics.jsonl so far; 0 on all ranks but the first."""
        return 0 if self._metrics is None else self._metrics.bytes

    @property
    def seconds(self) -> float:
        """Since the run was first started, without the time in between."""
        return time.monotonic() - self._start

    def write_json(self, name: str, value: Any) -> None:
        """Writes a file of the folder, whole or not at all."""
        self.write_text(name, lambda: json.dumps(without_nan(value), indent=2) + "\n")

    def write_text(self, name: str, text: Callable[[], str]) -> None:
        """The same of any text, which is only made where it is written."""
        if self._writes:
            with replacing(self.path / name) as aside:
                aside.write_text(text(), encoding="utf-8")

    def write_metrics(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, and the same for TensorBoard and what follows the run."""
        if self._metrics is None:
            return
        values = {f"{split}/{key}": value for key, value in metrics.items()}
        self._metrics.write(step, {"step": step, "split": split, "seconds": round(self.seconds, 3), **metrics}, values)
        if self._following is not None:
            self._following.log(step, values)

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
        by_split = values.get("metrics", {}).items()
        self._ended = status, {f"{split}/{key}": each for split, of in by_split for key, each in of.items()}

    def close(self) -> None:
        """Ends all files, lets what follows the run have the rest, and gives the folder free."""
        following, self._following = self._following, None
        if following is not None:
            following.close(*self._ended)
        for file in (self._metrics, self._lock):
            if file is not None:
                file.close()


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this rank had: of the device where it is CUDA, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _create(folder: Path, config: dict[str, Any], launches: list[str]) -> IO[str]:
    if wrong := taken(folder):
        raise InputError(wrong)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"run: want a folder that can be made, got {folder} ({error.strerror})") from error
    lock = locked(folder)
    with _given_free(lock):
        if wrong := taken(folder):  # by a job that was faster
            raise InputError(wrong)
        (folder / "log").mkdir(exist_ok=True)
        if launches:
            (folder / LAUNCH).write_text("\n".join(launches), encoding="utf-8")
        _write_config(folder, config)
    return lock


def config_of(key: str, folder: Path) -> dict[str, Any]:
    """The config that a run was started with, as a tree. Raises InputError on the key where its file is damaged."""
    file = folder / RUN
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"{key}: want the config of a run in {file}, got {said}; is it damaged?") from error
    if not isinstance(found, dict) or not found:
        got = "nothing" if not found else f"a {type(found).__name__}"
        raise InputError(f"{key}: want the config of a run in {file}, got {got}; is it damaged?")
    return found


def taken(folder: Path) -> str | None:
    """Why a folder is no place for a new run; None if it is one."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return f"run: want a new folder, got {folder}, which is a file; choose another run="
    if (folder / RUN).exists():
        return (
            f"run: want a new folder, got {folder}, which exists; choose another run=, or go on with it by resume=true"
        )
    # these are left by a job that was killed at once
    if {path.name for path in folder.iterdir()} - {LOCK, LAUNCH, "log"}:
        return f"run: want a new folder, got {folder}, which exists; choose another run=, or remove it"
    return None


def locked(folder: Path) -> IO[str]:
    """A lock that goes with the process, however it ends."""
    lock = (folder / LOCK).open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise InputError(
            f"run: want a folder that no other job uses, got {folder}, which one has locked; wait for it, or stop it"
        ) from error
    return lock


@contextmanager
def _given_free(lock: IO[str]) -> Iterator[None]:
    """Where the block fails: a notebook keeps the error, and with it what was open."""
    try:
        yield
    except BaseException:
        lock.close()
        raise


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    with replacing(folder / RUN) as aside:
        aside.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _free(folder: Path) -> Path:
    """The folder itself, or the first of FOLDER-2, FOLDER-3 ... that is not there: jobs start in the same second."""
    names = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return folder if not folder.exists() else next(name for name in names if not name.exists())
