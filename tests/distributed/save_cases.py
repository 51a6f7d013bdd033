"""A model whose saves are cut off: killed at every touch of a file, on a full disk, in a folder that is gone."""

import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from sharded_emb.config.build import Built
from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError
from sharded_emb.training import checkpoint
from sharded_emb.training import checkpoint_files as files
from sharded_emb.training.checkpoint import Checkpoints, NotSavedError
from sharded_emb.training.checkpoint_config import CheckpointConfig
from tests.distributed.driven import train_steps
from tests.distributed.next_item_config import config
from tests.distributed.plan_checkpoint_cases import numbers

# what changes what is in a folder; reading, and what a library imports, is no stage of a save
TOUCHES = {"open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.truncate"}


class Saving:
    """A model after one step, saved, and after two; where it is saved to is a folder of its own."""

    def __init__(self, place: Place, data: Path, run: Path) -> None:
        adagrad = {"_target_": "adagrad", "lr": 0.1}
        self.built = Built(config(data, "row_wise", embedding_optimizer=adagrad), place)
        self.run, self.place = run, place
        self.numbers: dict[int, dict[str, Tensor]] = {}
        self.train(1)
        self.save(1)

    def train(self, step: int) -> None:
        train_steps(self.built, 1)
        self.numbers[step] = {name: each.clone() for name, each in numbers(self.built.sharded).items()}

    def checkpoints(self, run: Path | None = None) -> Checkpoints:
        keeping = CheckpointConfig(keep=1)
        return Checkpoints(run or self.run, self.place, self.built.vocabularies(), keeping)

    def save(self, step: int, run: Path | None = None) -> None:
        self.checkpoints(run).save(self.built.sharded, self.built.dense, step, best=True)

    def loaded(self, run: Path | None = None) -> tuple[int, list[str]]:
        """The step of the newest checkpoint, and what of it is not what the model was then."""
        checkpoints = self.checkpoints(run)
        newest = checkpoints.latest()
        assert newest is not None, "no checkpoint is left"
        before = {name: each.clone() for name, each in numbers(self.built.sharded).items()}
        torch.nn.init.zeros_(next(self.built.sharded.shards()).values_RC)
        checkpoints.load(self.built.sharded, self.built.dense, newest)
        step, got = files.step_of(newest), numbers(self.built.sharded)
        odd = [name for name, want in self.numbers[step].items() if not torch.equal(want, got[name])]
        if step != max(self.numbers):  # the model goes on as it was
            self._restore(before)
        return step, odd

    def _restore(self, before: dict[str, Tensor]) -> None:
        for part in self.built.sharded.shards():
            rows, columns = part.values_RC.shape
            whole = before[part.table.name]
            part.values_RC.copy_(whole[part.row : part.row + rows, part.column : part.column + columns])
        from sharded_emb.distributed.local_shards import fused_states

        states = [value for name, value in before.items() if name.startswith("tables.")]
        for (_, state), value in zip(fused_states(self.built.sharded.fused), states, strict=True):
            state.copy_(value)


def killed_everywhere(place: Place, data: Path, folder: Path) -> list[tuple[str, int, list[str], int, list[str]]]:
    """A save killed before each touch of a file in turn: the touch, the step that is then the newest and what of it is
    wrong, and the same after the next save, with what was left lying about.
    """
    saving = Saving(place, data, folder / "first")
    saving.train(2)
    found = []
    for number in range(1000):
        run = folder / f"killed-{number}"
        shutil.copytree(folder / "first", run, symlinks=True)
        touch = _killed_at(saving, run, number)
        if touch is None:
            return found
        step, odd = saving.loaded(run)
        saving.save(3, run)
        left = sorted(path.name for path in (run / "checkpoints").iterdir())
        saving.numbers[3] = saving.numbers[2]
        after, odd_after = saving.loaded(run)
        del saving.numbers[3]
        assert left == ["best", "last", "step-3"], (touch, left)
        found.append((touch, step, odd, after, odd_after))
        shutil.rmtree(run)
    raise AssertionError("a save never ended")


def _killed_at(saving: Saving, run: Path, number: int) -> str | None:
    """Saves in a process of its own, which dies before it touches a file for the n-th time; None if it did not come to
    that.
    """
    told, telling = os.pipe()
    if (child := os.fork()) == 0:
        gc.disable()  # it would wait for the threads of groups that earlier tests have left
        count = 0

        def on_event(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            touched = [str(each) for each in arguments if str(run) in str(each)] if event in TOUCHES else []
            if not touched or (event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
                return
            if count == number:
                os.write(telling, f"{event} {Path(touched[0]).name}".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        # the threads of a process group are not there in a forked process; what is done to files is the same
        vars(checkpoint).update(from_first_rank=lambda make, _: make(), save=_alone)
        sys.addaudithook(on_event)
        try:
            saving.save(2, run)
        finally:
            os._exit(0)
    os.close(telling)
    os.waitpid(child, 0)
    with os.fdopen(told) as said:
        return said.read() or None


def _alone(held: Any, storage_writer: Any, planner: Any, process_group: Any) -> Any:  # noqa: ARG001
    return dcp.save(held, storage_writer=storage_writer, planner=planner, no_dist=True)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[str]:
    """A folder that takes no more than so many bytes: a file system of its own where that may be mounted, else files
    that may not grow larger. Which of them it is.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield "mounted"
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield "limited"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def full_disk(place: Place, data: Path, folder: Path, mounted: str, run: Path) -> dict[str, Any]:
    """Saves where there is room for less and less, and then for enough again."""
    saving = Saving(place, data, folder / "first")
    saving.train(2)
    found: dict[str, Any] = {"errors": [], "steps": set(), "odd": []}
    shutil.copytree(folder / "first", run, symlinks=True)
    whole = sum(path.stat().st_size for path in (run / "checkpoints" / "step-1").iterdir())
    for room in (0, 4096, *(whole * part // 10 // 4096 * 4096 for part in range(1, 10))):
        filler = run.parent / "filler"
        if mounted == "mounted":
            disk = os.statvfs(run)
            filler.write_bytes(b"\0" * max(disk.f_bavail * disk.f_frsize - room, 0))
        try:
            saving.save(2, run)
        except NotSavedError as error:
            found["errors"].append(str(error))
            found["left"] = sorted(path.name for path in (run / "checkpoints").iterdir())
            step, odd = saving.loaded(run)
            found["steps"].add(step)
            found["odd"] += odd
        else:
            shutil.rmtree(run)
            filler.unlink(missing_ok=True)
            shutil.copytree(folder / "first", run, symlinks=True)
        filler.unlink(missing_ok=True)
    if mounted == "limited":
        resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
    saving.save(2, run)
    found["then"] = saving.loaded(run)
    return found


def gone_folder(place: Place, data: Path, folder: Path) -> tuple[int, list[str]]:
    """A save after somebody has removed all checkpoints."""
    saving = Saving(place, data, folder / "first")
    saving.train(2)
    shutil.rmtree(folder / "first")
    saving.save(2)
    return saving.loaded()


def flipped(place: Place, data: Path, run: Path) -> dict[str, str]:
    """By what one bit was flipped of in the newest of two checkpoints, what loading it says."""
    saving = Saving(place, data, run)
    saving.train(2)
    checkpoints = Checkpoints(run, place, saving.built.vocabularies())
    checkpoints.save(saving.built.sharded, saving.built.dense, 2, best=False)
    newest = run / "checkpoints" / "step-2"
    pieces = json.loads((newest / "manifest.json").read_text())["pieces"]
    pieces.append(["manifest.json", "manifest.json", 0, (newest / "manifest.json").stat().st_size, 0])
    found = {}
    for file, name, offset, size, _ in pieces:
        content = bytearray((newest / file).read_bytes())
        content[offset + size // 2] ^= 4
        (newest / file).write_bytes(content)
        try:
            checkpoints.load(saving.built.sharded, saving.built.dense, newest)
        except InputError as error:
            found[file if file == name else f"{file} ({name})"] = str(error)
        content[offset + size // 2] ^= 4
        (newest / file).write_bytes(content)
    checkpoints.load(saving.built.sharded, saving.built.dense, newest)
    assert len(found) == len(pieces)
    return found


def background(place: Place, data: Path, run: Path) -> dict[str, Any]:
    """A save in the background that fails, one that the model trains over, and what each leaves."""
    saving = Saving(place, data, run)
    sharded, dense = saving.built.sharded, saving.built.dense
    background = CheckpointConfig(asynchronous=True)
    checkpoints = Checkpoints(run, place, saving.built.vocabularies(), background)
    saving.train(2)
    folder, away = run / "checkpoints", run / "away"
    from_first_rank(lambda: (folder.rename(away), folder.touch()), place)
    checkpoints.save(sharded, dense, 2, best=False)
    found: dict[str, Any] = {"error": ""}
    deadline = time.monotonic() + 60
    while not checkpoints.failed:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        checkpoints.wait()
    except NotSavedError as error:
        found["error"] = str(error)
    found["failed after"] = checkpoints.failed
    from_first_rank(lambda: (folder.unlink(), away.rename(folder)), place)
    checkpoints.save(sharded, dense, 2, best=False)
    saving.train(3)  # while the thread writes
    checkpoints.wait()
    checkpoints.load(sharded, dense, run / "checkpoints" / "step-2")
    got = numbers(sharded)
    found["odd"] = [name for name, want in saving.numbers[2].items() if not torch.equal(want, got[name])]
    found["trained"] = any(not torch.equal(each, got[name]) for name, each in saving.numbers[3].items())
    return found
