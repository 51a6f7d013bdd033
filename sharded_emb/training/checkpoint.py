"""Checkpoints: everything that a run needs to go on as if it had never stopped, complete or absent.

checkpoints/step-N/    one checkpoint: the model in the format of torch.distributed.checkpoint, the rest in state.json,
                       checksums in manifest.json
checkpoints/last       a link to the newest one
checkpoints/best       a link to the one with the best validation metric, if there is one
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from sharded_emb.distributed.agree import all_values, from_first_rank, together
from sharded_emb.distributed.host_memory import workers
from sharded_emb.distributed.kernels import forget_cached_rows
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded
from sharded_emb.errors import InputError, RunFailedError
from sharded_emb.initializers import stream_key
from sharded_emb.training import checkpoint_entries as entries
from sharded_emb.training import checkpoint_files as files
from sharded_emb.training.checkpoint_allowed import Allowed, Fit
from sharded_emb.training.checkpoint_background import Background
from sharded_emb.training.checkpoint_config import CheckpointConfig
from sharded_emb.training.checkpoint_growth import Growth
from sharded_emb.training.checkpoint_misfits import Model, Opened, fit
from sharded_emb.training.checkpoint_pieces import ByThreads, InPieces
from sharded_emb.training.checkpoint_vocabularies import Vocabulary, said_of
from sharded_emb.training.state import RunState

log = logging.getLogger("sharded_emb")

T = TypeVar("T")


class NotSavedError(RunFailedError):
    """A checkpoint could not be written; those before it are as they were. Raised on every rank."""


class Checkpoints:
    """The checkpoints of one run folder. Every method but `newest` and `latest` is called by all ranks together.

    vocabularies: of each table that has one; a checkpoint is of use with the same, or with one that extends it. facts:
    what else each checkpoint should say of its run (config, plan, versions). key: under which a person named the run.
    """

    key = "run"

    def __init__(
        self,
        run: Path,
        place: Place,
        vocabularies: Mapping[str, Vocabulary],
        config: CheckpointConfig | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = run / "checkpoints"
        self.place = place
        self.vocabularies = vocabularies
        self.config = config or CheckpointConfig()
        self.facts = facts or {}
        self.background = Background(place) if self.config.asynchronous else None

    def save(self, sharded: Sharded, dense: Optimizer, step: int, best: bool, state: RunState | None = None) -> None:
        """Writes aside, renames, then moves `last` (and `best`), and drops what is not to be kept.

        Raises NotSavedError on every rank where the disk does not take it. Where saves are asynchronous, that is the
        error of the save before; this one is done, or raises, in `wait`.
        """
        self.wait()
        held = entries.everything(sharded, dense)
        if not sharded.updates.replicas.speaks:
            held = {name: each for name, each in held.items() if not isinstance(each, ShardedTensor)}
        said = {**self._said(sharded, step, state or RunState()), "dense_optimizer": type(dense).__name__}
        if self.background is None:
            self._save(held, said, best, self.place)
            return
        place, held = self.background.place, self.background.copies.of(held)
        self.background.start(lambda: self._save(held, said, best, place))

    def wait(self) -> None:
        """Until the save under way is done, where saves are asynchronous. Raises its error, on every rank."""
        if self.background is not None:
            self.background.wait()

    @property
    def failed(self) -> bool:
        """Whether `wait` would raise on this rank by now."""
        return self.background is not None and self.background.failed

    def _save(self, held: entries.Entries, said: dict[str, Any], best: bool, place: Place) -> None:
        target = files.of_step(self.folder, said["step"])
        aside = _on_first_rank(lambda: None if target in files.steps(self.folder) else files.begin(target), place)
        if aside is not None:
            try:
                pieces = _everywhere(lambda: _written(aside, held, place), place)
                _on_first_rank(lambda: _finish(aside, target, said, [p for each in pieces for p in each]), place)
            except NotSavedError as error:
                _on_first_rank(lambda: files.give_up(aside), place)  # a full disk needs the room
                before = from_first_rank(self.latest, place)
                there = ", nor one before" if before is None else f"; resume=true goes on from {before.name}"
                raise NotSavedError(f"{error}; no checkpoint of step {said['step']}{there}; make room") from error
        _on_first_rank(lambda: self._name(target, best), place)

    def _said(self, sharded: Sharded, step: int, state: RunState) -> dict[str, Any]:
        tables = [table for _, table in sharded.embeddings.features.values()]
        return {
            **self.facts,
            "step": step,
            "table_steps": sharded.updates.steps,
            "world_size": self.place.world_size,
            "ids": {table.name: repr(table.ids) for table in tables},
            "rows": {table.name: table.rows for table in tables},
            "optimizers": {table.name: type(table.optimizer).__name__ for table in tables},
            "all_rows": {table.name: table.update == "dense" for table in tables},
            **said_of(self.vocabularies),
            "run": state.to_json(),
        }

    def _name(self, target: Path, best: bool) -> None:
        for name in ("last", "best") if best else ("last",):
            files.point(self.folder / name, target.name)
        kept = {*files.steps(self.folder)[: self.config.keep], *files.named(self.folder, ("last", "best")).values()}
        kept |= {files.of_step(self.folder, step) for step in map(self._best_then, kept) if step}
        files.drop([old for old in files.steps(self.folder) if old.resolve() not in {k.resolve() for k in kept}])

    def _best_then(self, checkpoint: Path) -> int:
        """The best step when this one was written: a run that goes on from it may end with those weights. 0 for none,
        or where that cannot be read.
        """
        try:
            return int(files.state_of(checkpoint, self.key)["run"]["progress"]["best_step"])
        except (OSError, ValueError, KeyError, InputError):
            return 0

    def newest(self) -> Path:
        """The best checkpoint, else the last; all ranks ask together. Raises InputError if there is none."""
        # a run that goes on may move `best` while ranks look
        if checkpoint := from_first_rank(lambda: files.newest(self.folder), self.place):
            return checkpoint
        got = f"got {self.folder.parent} without one; train it first"
        raise InputError(f"{self.key}: want a run with a checkpoint, {got}")

    def latest(self) -> Path | None:
        """The newest complete checkpoint, which `last` names or was about to; None if there is none."""
        return next(iter(files.steps(self.folder)), None)

    def load(self, sharded: Sharded, dense: Optimizer | None, checkpoint: Path) -> RunState:
        """Reads weights, and states where there is an optimizer to take them, into a model of any plan.

        Raises InputError on every rank if a file is damaged, if the checkpoint has other vocabularies, or if it lacks
        something or has it in another shape.
        """
        state, _ = self.load_what_fits(sharded, dense, checkpoint, Allowed())
        return state

    def load_what_fits(
        self, sharded: Sharded, dense: Optimizer | None, checkpoint: Path, allowed: Allowed
    ) -> tuple[RunState, Fit]:
        """The same, but for differences that are allowed; what they are about keeps its values, as new rows do."""
        with together(self.place):
            self._require_whole(checkpoint)
        with together(self.place):
            opened = self._opened(checkpoint)
            wanted = entries.weights(sharded) | (entries.table_states(sharded) if dense is not None else {})
            model = Model(sharded, wanted, self.vocabularies, None if dense is None else type(dense).__name__)
            found = fit(model, opened, allowed)
            if found.problems:
                raise InputError(*found.problems)
        wanted = {name: value for name, value in wanted.items() if name not in found.anew}
        if dense is not None:
            wanted |= entries.empty_dense_states(wanted, opened.saved)
        # flat already: the library reads nested states in an older way where ranks have different entries
        reader = ByThreads(checkpoint, workers(self.place.local_world_size))
        load(wanted, storage_reader=reader, process_group=self.place.control, planner=Growth(found.grown))
        forget_cached_rows(sharded.embeddings)
        sharded.collisions.load_state_dict(entries.without_prefix(entries.COLLISIONS, wanted))
        if dense is not None:
            sharded.updates.steps = opened.said["table_steps"]
            entries.load_dense_states(sharded, dense, wanted)
        return RunState.from_json(opened.said["run"]), found

    def _opened(self, checkpoint: Path) -> Opened:
        said = files.state_of(checkpoint, self.key)
        return Opened(checkpoint, FileSystemReader(checkpoint).read_metadata().state_dict_metadata, said, self.key)

    def resume(self, sharded: Sharded, dense: Optimizer, checkpoint: Path) -> RunState:
        """As `load`, and what was written after this checkpoint is forgotten, as is a best one that is gone; random
        draws go on where they were.
        """
        state = self.load(sharded, dense, checkpoint)
        if not _on_first_rank(lambda: self._rewind(checkpoint, state), self.place):
            state = replace(state, best=None, since_best=0, progress=replace(state.progress, best_step=0))
        opened = self._opened(checkpoint)
        said, mine = opened.said, entries.empty(f"{entries.RANDOM}.{self.place.rank}", opened.saved)
        if said["world_size"] == self.place.world_size:
            load(mine, checkpoint_id=checkpoint, process_group=self.place.control)
            entries.load_random_states(self.place, mine)
        else:  # no rank may draw again what it drew in its first steps; the CPU generator reads 32 bits
            torch.manual_seed(stream_key(torch.initial_seed(), f"resumed.{said['step']}"))
        return state

    def _rewind(self, checkpoint: Path, state: RunState) -> bool:
        """Whether the best checkpoint until then is there, if there was one."""
        best = files.of_step(self.folder, state.progress.best_step)
        files.drop([p for p in files.steps(self.folder) if files.step_of(p) > files.step_of(checkpoint)])
        files.point(self.folder / "last", checkpoint.name)
        if state.progress.best_step and best in files.steps(self.folder):
            files.point(self.folder / "best", best.name)
            return True
        (self.folder / "best").unlink(missing_ok=True)
        if state.progress.best_step:
            log.warning("%s was the best checkpoint and is gone: what is best from now on counts as the best", best)
        return not state.progress.best_step

    def _require_whole(self, checkpoint: Path) -> None:
        share = self.place.rank, self.place.world_size
        wrong = files.damage(checkpoint, *share, threads=workers(self.place.local_world_size))
        if not wrong:
            return
        earlier = [p for p in files.steps(self.folder) if files.step_of(p) < files.step_of(checkpoint)]
        before = next((path for path in earlier if not files.damage(path)), None)
        offer = "no earlier one is whole"
        if before is not None:
            offer = f"{before.name} is whole, and is the one to go on from once {checkpoint} is removed"
        raise InputError(
            f"{self.key}: want a whole checkpoint, got {checkpoint} with a damaged {', '.join(wrong)}; {offer}"
        )


def _written(aside: Path, held: entries.Entries, place: Place) -> list[files.Piece]:
    save(held, storage_writer=FileSystemWriter(aside), planner=InPieces(), process_group=place.control)
    # what `save` returns does not say where everything was written with torch 2.11
    metadata = from_first_rank(lambda: FileSystemReader(aside).read_metadata(), place)
    return files.pieces_of_rank(aside, metadata, place.rank, workers(place.local_world_size))


def _finish(aside: Path, target: Path, said: dict[str, Any], pieces: list[files.Piece]) -> None:
    files.write_state(aside, said)
    files.finish(aside, target, [*pieces, *(files.whole_file(aside / name) for name in (".metadata", files.STATE))])


def _on_first_rank(work: Callable[[], T], place: Place) -> T:
    def attempt() -> T:
        try:
            return work()
        except OSError as error:
            raise _not_saved(error) from error

    return from_first_rank(attempt, place)


def _everywhere(work: Callable[[], T], place: Place) -> list[T]:
    """What each rank made of it. A rank whose disk is full must not leave the others waiting."""
    made: T | NotSavedError
    try:
        made = work()
    except (OSError, CheckpointException) as error:
        made = _not_saved(error)
    found = []
    for each in all_values(made, place):
        if isinstance(each, NotSavedError):
            raise each
        found.append(each)
    return found


def _not_saved(error: BaseException) -> NotSavedError:
    """The reason that the system gives, wherever the library put it."""
    failures = (getattr(error, "failures", None) or {}).values()
    reasons = [*(each[0] if isinstance(each, tuple) else each for each in failures), error]
    system = next((link for reason in reasons for link in _chain(reason) if isinstance(link, OSError)), None)
    if system is not None and system.strerror:
        return NotSavedError(f"{system.strerror}: {system.filename or ''}".rstrip(": "))
    return NotSavedError(f"not all could be written; is the disk full? ({str(reasons[0]).splitlines()[0]})")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
