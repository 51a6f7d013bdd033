"""The training loop."""

import logging
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharded_emb.batch import Batch
from sharded_emb.data.prefetch import DEFAULT, PrefetchConfig
from sharded_emb.data.source import Share
from sharded_emb.data.unknown_ids import add_counts
from sharded_emb.distributed.agree import all_sums, all_values
from sharded_emb.distributed.phases import DATA, STEP, named
from sharded_emb.training.buffers import Buffers
from sharded_emb.training.checkpoint import NotSavedError
from sharded_emb.training.checkpoint_files import step_of
from sharded_emb.training.course import Course, Epochs, Fetching
from sharded_emb.training.early_stopping import EarlyStopping
from sharded_emb.training.evaluation import Metrics
from sharded_emb.training.failures import say_not_saved, write_batch
from sharded_emb.training.feed import Fed
from sharded_emb.training.following import with_following
from sharded_emb.training.limits import Limits
from sharded_emb.training.parts import Parts
from sharded_emb.training.progress import Display
from sharded_emb.training.scoring import AskedToStopError
from sharded_emb.training.signals import Signals
from sharded_emb.training.state import AllRanks, LastSave, Progress, RunState
from sharded_emb.training.step import ONE_PIECE, Learner, NotFiniteLossError, Stepping
from sharded_emb.training.unknown import unknown_of_all

log = logging.getLogger("sharded_emb")


@dataclass
class Trainer:
    """Trains until a limit is reached, patience has run out, or the run is asked to stop.

    tell: is told after which step the loop is, and what it is at.
    """

    parts: Parts
    limits: Limits
    stopping: EarlyStopping
    stepping: Stepping = ONE_PIECE
    prefetch: PrefetchConfig = DEFAULT
    progress: Progress = field(default_factory=Progress)
    warm_start: Mapping[str, Any] = field(default_factory=dict)  # what the run began with, if not with the seed
    signals: Signals = field(default_factory=Signals)
    tell: Callable[[int, str], None] = lambda *_: None
    last_save: LastSave = field(init=False, default=LastSave())
    loss: float = field(init=False, default=float("nan"))  # of the last step
    stop_signal: int | None = field(init=False, default=None)  # what all ranks agreed to stop for
    unknown_ids: dict[str, dict[str, Any]] = field(init=False, default_factory=dict)  # by split and feature, at the end
    managed_tables: dict[str, dict[str, int]] = field(init=False, default_factory=dict)  # whose rows ids have, likewise

    def __post_init__(self) -> None:
        self.place = self.parts.sharded.place
        sharded, dense, schedule = self.parts.sharded, self.parts.dense, self.parts.schedule
        self.ids_ahead = self.prefetch.sends_ids(sharded.embeddings.knows_ids)
        self.learner = Learner(sharded, dense, schedule, self.stepping, self._tell, self.ids_ahead)
        self.display = Display(self.limits.total_steps(self.course.batches_per_epoch), self.place)
        self.saved, self.buffers = time.monotonic(), Buffers(sharded)

    @property
    def course(self) -> Course:
        """The samples of the run."""
        return self.parts.stream or Epochs(self.parts.source, self.parts.collate)

    def resume(self, checkpoint: Path) -> RunState:
        """Goes on from a checkpoint of this run. Raises InputError on every rank if it does not fit or is damaged."""
        state = self.parts.checkpoints.resume(self.parts.sharded, self.parts.dense, checkpoint)
        self.progress, self.warm_start = state.progress, state.warm_start
        self.stopping.best, self.stopping.since_best = state.best, state.since_best
        self.course.unknown.update(state.unknown_ids_of(self.place.rank, self.place.world_size))
        self.display.begin(state.progress)
        return state

    def train(self) -> Metrics:
        """Runs to the end; returns the metrics of valid and test with the weights that the run keeps."""
        try:
            while not self._stopped():
                if self._evaluation_due():
                    self._evaluate()
                elif self._finished():
                    break
                else:
                    self._epoch()
        except AskedToStopError as asked:  # in an evaluation, which is due again when the run goes on
            self.stop_signal = asked.signal
        except Exception:  # of all ranks, or of one that the others wait for: a save can end meanwhile
            self._settle(failed=True)
            raise
        finally:
            self.display.close()
            self.parts.profile.close()
        self._save()
        self.parts.checkpoints.wait()
        try:
            return {} if self._stopped() else self._final_metrics()
        except AskedToStopError as asked:
            self.stop_signal = asked.signal
            return {}

    def _epoch(self) -> None:
        """Trains to the end of an epoch or of a part of a stream, from wherever in it the run is."""
        with closing(self._batches()) as batches:
            for (fed, all_ranks), after in with_following(batches, self._next_is_wanted):
                started = time.monotonic()
                with named(STEP):
                    self._step(fed.pieces, all_ranks.loss_weight, after and after[0].pieces[0])
                for batch in fed.pieces:
                    add_counts(self.course.unknown, batch)
                self.progress.step += 1
                if self.progress.step == 1:
                    self.buffers.check()
                self.course.passed(self.progress, fed.samples)
                self.progress.training_seconds += time.monotonic() - started
                self.display.step(self.progress.step, all_ranks.ids)
                self.parts.profile.step_ended()
                if self.progress.step % self.limits.log_every_steps == 0:
                    self._log(self.parts.progressive())
                minutes_over = all_ranks.minutes_over and self.last_save.step <= all_ranks.asked_at
                save_due = minutes_over or self.limits.save_after(self.progress.step)
                if save_due and not self._evaluation_due():
                    self._save_if_possible()
                if self._pauses_after(self.progress.step):
                    break

    def _next_is_wanted(self) -> bool:
        """Whether the next batch is of use while this one is computed."""
        return self.ids_ahead and not self._pauses_after(self.progress.step + 1)

    def _pauses_after(self, step: int) -> bool:
        return self.limits.is_last(step) or self.limits.evaluate_after(step)

    def _step(self, pieces: list[Batch], global_weight: float, following: Batch | None) -> None:
        try:
            self.loss = self.learner.step(pieces, global_weight, self.progress.step + 1, following)
        except NotFiniteLossError as error:
            path = write_batch(self.parts.folder.path, error.pieces, self.progress.step + 1, self.place)
            raise (error if path is None else error.with_batch(path)) from None

    def _tell(self, phase: str) -> None:
        self.tell(self.progress.step, phase)

    def _evaluation_due(self) -> bool:
        """Once after a step: at the end of an epoch and of the run, and within epochs as it was asked for."""
        due = self.course.evaluates(self.progress, self.limits.evaluate_every_epochs)
        due = due or self.limits.evaluate_after(self.progress.step)
        return self.progress.step > self.progress.evaluated_step and (due or self._out_of_limits())

    def _batches(self) -> Generator[tuple[Fed, AllRanks]]:
        """This rank's batches of what is left of an epoch, and what all ranks have agreed on for each.

        Every rank learns here, before any id of the batch is exchanged, of a bad id on one of them, and of a signal to
        stop.
        """
        share = Share(self.place.rank, self.place.world_size, self.stepping.accumulation)
        course, started = self.course, time.monotonic()
        if not course.begins(self.progress, self._pause):
            return
        self.display.exclude(time.monotonic() - started)
        with closing(course.batches(self.progress, Fetching(share, self.place.device, self.prefetch))) as every:
            while True:
                self._tell("reading data")
                with named(DATA):
                    fed = next(every, None)
                if fed is None:
                    return
                self._tell("agreeing on the batch")
                flags = (fed.error is not None, self.signals.heard, self.parts.checkpoints.failed, self._minutes_over())
                told = [*map(float, flags), fed.loss_weight, float(fed.ids)]
                errors, signals, not_saved, minutes_over, weight, ids = all_sums(told, self.place)
                if not_saved:
                    self._settle()
                if errors:
                    raise next(e for e in all_values(fed.error, self.place) if e is not None)
                if signals:
                    self._stop()
                    return
                yield fed, AllRanks(weight or 1.0, int(ids), bool(minutes_over), self.progress.step)

    def _stop(self) -> None:
        self.stop_signal = max(all_values(self.signals.heard, self.place))

    def _pause(self) -> bool:
        """While the run waits for samples: whether it is to stop. Saves if it is time, and there is something new."""
        self._tell("waiting for samples")
        signals, minutes_over = all_sums([float(self.signals.heard), float(self._minutes_over())], self.place)
        if signals:
            self._stop()
        elif minutes_over and self.progress.step > self.last_save.step:
            self._save_if_possible()
        return bool(signals)

    def _log(self, found: Metrics) -> None:
        factor = self.parts.schedule.factor(self.progress.step)
        values = {"loss": self.loss, "lr_factor": factor, **found.pop("train", {})}
        values |= self.display.report(self.progress, self.course.where(self.progress), values)
        for name, metrics in {"train": values, **found}.items():
            self.parts.folder.write_metrics(self.progress.step, name, metrics)

    def _evaluate(self) -> None:
        started = time.monotonic()
        self._tell("evaluating")
        self.parts.profile.interrupt()
        found = self.parts.evaluator("valid")
        for name, metrics in found.items():
            self.parts.folder.write_metrics(self.progress.step, name, metrics)
        self.progress.evaluated_step = self.progress.step
        self.display.exclude(time.monotonic() - started)  # a save leaves its own time out
        if best := self.stopping.improved(found["valid"]):
            self.progress.best_step = self.progress.step
            self._save(best=True)
        elif self.limits.save_after(self.progress.step):
            self._save_if_possible()
        shown = {name: value for name, value in found["valid"].items() if not re.match("recall|.*@5$", name)}
        said = "  ".join([f"{name} {value:.4f}" for name, value in shown.items()] + ["(best so far)"] * best)
        if shown:  # the split has rows
            log.info("%s  step %d  valid  %s", self.course.where(self.progress), self.progress.step, said)

    def _save(self, best: bool = False) -> None:
        started = time.monotonic()
        self._tell("saving")
        self.buffers.check()
        if found := self.parts.progressive():  # of steps since the line before, which a run that goes on has not seen
            self._log(found)
        self._settle()
        self.last_save = LastSave(self.progress.step, best)
        step, state = self.progress.step, self._state()
        self.parts.checkpoints.save(self.parts.sharded, self.parts.dense, step, best, state)
        self.saved = time.monotonic()
        self.display.exclude(self.saved - started)

    def _save_if_possible(self) -> None:
        """A disk that is full for now costs a checkpoint and not the run; only the last save has to succeed."""
        self._settle()
        try:
            self._save()
        except NotSavedError as error:
            say_not_saved(self.progress.step, error)
            self.saved = time.monotonic()

    def _settle(self, failed: bool = False) -> None:
        """Waits for a save in the background. A run that needs none, or has `failed`, only says that it did."""
        try:
            self.parts.checkpoints.wait()
        except (NotSavedError, RuntimeError) as error:  # the latter of an exchange with a rank that is gone
            if not failed and (self.last_save.needed or isinstance(error, RuntimeError)):
                raise
            say_not_saved(self.last_save.step, error)

    def _state(self) -> RunState:
        return RunState(
            progress=self.progress,
            best=self.stopping.best,
            since_best=self.stopping.since_best,
            seconds=self.parts.folder.seconds,
            metrics_bytes=self.parts.folder.metrics_bytes,
            unknown_ids=all_values(self.course.unknown, self.place),
            warm_start=self.warm_start,
        )

    def _minutes_over(self) -> bool:
        """By the clock of the first rank, which tells the others."""
        every = self.limits.save_every_minutes
        return self.place.rank == 0 and every is not None and time.monotonic() - self.saved > 60 * every

    def _final_metrics(self) -> Metrics:
        """With the best weights where there is an early stopping, else with the last."""
        kept = self.parts.checkpoints.newest()
        if step_of(kept) != self.progress.step:
            self._tell("loading the weights to keep")
            self.parts.checkpoints.load(self.parts.sharded, None, kept)
        found: Metrics = {}
        for split in ("valid", "test"):
            self._tell(f"evaluating {split}")
            found |= self.parts.evaluator(split, lists=True)
        unknown = {"train": self.course.unknown, **self.parts.evaluator.unknown}
        self.unknown_ids = unknown_of_all(unknown, self.course.policy, self.place)
        self.managed_tables = self.parts.sharded.collisions.counts()
        for table, counts in self.managed_tables.items():
            log.info("table %s: %d of %d rows have an id; rows were given %d times", table, *counts.values())
        for name, metrics in found.items():
            if name.startswith("test"):
                self.parts.folder.write_metrics(self.progress.step, name, metrics)
        return found

    def protocol(self) -> dict[str, Any]:
        """What makes the final metrics comparable, by name of the evaluation."""
        return self.parts.evaluator.protocol("valid") | self.parts.evaluator.protocol("test")

    def result(self, metrics: Metrics) -> dict[str, Any]:
        """What result.json says of the run besides how it ended."""
        return {
            "steps": self.progress.step,
            **self.course.result(self.progress),
            "samples_per_second": round(self.progress.samples / max(self.progress.training_seconds, 1e-9), 1),
            "metrics": metrics,
            "protocol": self.protocol(),
            **({"warm_start": started} if (started := self.warm_start) else {}),
            **({"unknown_ids": unknown} if (unknown := self.unknown_ids) else {}),
            **({"managed_tables": managed} if (managed := self.managed_tables) else {}),
        }

    def _stopped(self) -> bool:
        return self.stop_signal is not None

    def _out_of_limits(self) -> bool:
        return self.limits.reached(self.progress) or self.course.over

    def _finished(self) -> bool:
        return self._out_of_limits() or self.stopping.over or self._stopped()
