"""One run from a validated config: joins the group, builds, trains, reports."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from sharded_emb.config.build import Built
from sharded_emb.config.facts import facts_of
from sharded_emb.config.run import RunConfig
from sharded_emb.config.same_rows import require_same_dataset, weights_of_other_rows
from sharded_emb.config.same_start import require_same_start
from sharded_emb.config.warm_starting import FROM_SEED, Begun, warm_started
from sharded_emb.distributed.agree import all_values, from_first_rank
from sharded_emb.distributed.heartbeat import Heartbeat
from sharded_emb.distributed.process_group import Place, by_torchrun, process_group, restarted
from sharded_emb.errors import InputError
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.checkpoint_files import steps
from sharded_emb.training.early_stopping import EarlyStopping
from sharded_emb.training.evaluation import Metrics
from sharded_emb.training.failures import explained
from sharded_emb.training.launches import of_this_launch
from sharded_emb.training.limits import Limits
from sharded_emb.training.loop import Trainer
from sharded_emb.training.parts import Parts
from sharded_emb.training.profile import Profile
from sharded_emb.training.progressive import progressive_metrics
from sharded_emb.training.pulse import Pulse, Watch
from sharded_emb.training.report import protocol_line, results_table
from sharded_emb.training.run_folder import RunFolder
from sharded_emb.training.run_log import log_file, log_to
from sharded_emb.training.run_page import PICTURE, write_page
from sharded_emb.training.signals import Signals
from sharded_emb.training.state import Progress
from sharded_emb.training.step import Stepping

log = logging.getLogger("sharded_emb")


@contextmanager
def joined(config: RunConfig) -> Iterator[Place]:
    """The process group of a config's device, with its threads. Raises InputError on every rank where another one was
    started with other words.
    """
    with process_group(config.device, config.wait_seconds, config.in_steps) as place, _torch_as_it_was():
        require_same_start(config, place)
        torch.set_num_threads(config.threads_per_rank)
        yield place


@contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """Settings and random numbers are as before at the end: the process may be somebody's notebook."""
    threads, precision, tf32 = (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
    )
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warns)
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.allow_tf32 = tf32


@dataclass(frozen=True)
class Outcome:
    """What became of a run. path: its folder. metrics: by split, of the weights it keeps; empty if it was stopped.

    signal: what stopped it, None for a finished run.
    """

    path: Path
    metrics: Metrics
    signal: int | None = None

    @property
    def status(self) -> Literal["finished", "stopped"]:
        """As result.json has it."""
        return "finished" if self.signal is None else "stopped"

    @property
    def exit_code(self) -> int:
        """0, or 128 and the signal."""
        return 0 if self.signal is None else 128 + self.signal


def train(config: RunConfig, *, is_command: bool = False) -> Outcome:
    """Trains and evaluates, into a new run folder, or goes on in that of a run that was not finished.

    is_command: the process ends with the run, and a rank of many has said what it fails of before signals end it.
    Raises InputError on every rank for what is wrong with the input.
    """
    config.tracking.check()
    with joined(config) as place:
        config = _as_restarted(config, place)
        tree = config.model_dump(mode="json", exclude={"resume"})
        with _folder_of(config, tree, place) as folder:
            if folder is not None and (done := folder.finished()) is not None:
                if place.rank == 0:
                    print(f"run {folder.path} was finished after step {done['steps']}; there is nothing left to do")
                return Outcome(folder.path, done["metrics"])
            goes_on = _goes_on(folder)
            built = Built(config, place, draw=not goes_on)
            # before there is a folder, which a checkpoint that does not fit would leave behind
            if goes_on and folder is not None:
                require_same_dataset(built, next(iter(steps(folder.path / "checkpoints")), None))
            begun = FROM_SEED if goes_on else warm_started(built)
            with closing(folder or RunFolder.create(config.run, config.name, tree, place)) as own:
                try:
                    trainer = make_trainer(built, own, begun)
                except InputError:  # on every rank
                    if folder is None:
                        own.take_back()
                    raise
                said_by_many = is_command and place.world_size > 1
                with _watched(trainer, config) as pulse, trainer.signals.listening(until_said=said_by_many):
                    return _to_the_end(trainer, built, pulse)


def _goes_on(folder: RunFolder | None) -> bool:
    """Whether there is a checkpoint of the run."""
    return folder is not None and from_first_rank(lambda: bool(steps(folder.path / "checkpoints")), folder.place)


def _as_restarted(config: RunConfig, place: Place) -> RunConfig:
    """Where torchrun restarted a rank, with the run that its first start has made, if it came so far. It starts the
    ranks of other hosts anew as well, and counts that on the host of the one that failed alone.
    """
    if config.run is not None or not any(all_values(restarted(), place)):
        return config
    run = from_first_rank(lambda: of_this_launch(Path("runs")), place)
    return config if run is None else config.model_copy(update={"run": run, "resume": True})


@contextmanager
def _watched(trainer: Trainer, config: RunConfig) -> Iterator[Pulse]:
    """Others see what this rank is doing; stalls are reported, and a signal is obeyed in the time there is."""
    folder = trainer.parts.folder
    pulse = Pulse(folder.path, trainer.place)
    trainer.tell = pulse.tell
    watch, heartbeat = Watch(pulse, config.stall_seconds), Heartbeat(trainer.place, config.lost_seconds)
    seconds = config.checkpoint.stop_within_seconds
    if seconds is not None and by_torchrun():  # nobody else kills what takes longer

        def give_up(number: int) -> None:
            moment = pulse.mine
            said = f"{moment.phase}, after step {moment.step}, was not done {seconds:g} s after signal {number}"
            log.error("%s: given up; the checkpoint before stands", said)
            folder.write_result("stopped", {"steps": moment.step, "error": said})
            logging.shutdown()
            os._exit(128 + number)

        trainer.signals.no_longer_than(seconds, give_up)
    try:
        yield pulse
    finally:
        heartbeat.close()
        watch.close()
        pulse.close()


@contextmanager
def _folder_of(config: RunConfig, tree: dict[str, Any], place: Place) -> Iterator[RunFolder | None]:
    """The run folder to go on with, if that is what is asked for and there is one; given free at the end."""
    folder = RunFolder.reopen(config.run, tree, place) if config.resume and config.run is not None else None
    try:
        yield folder
    finally:
        if folder is not None:
            folder.close()


def make_trainer(built: Built, folder: RunFolder, begun: Begun = FROM_SEED) -> Trainer:
    """What trains, as far as the run in its folder was. begun: with what its model began, where there was none.

    Raises InputError on every rank.
    """
    config, place = built.config, built.place
    log_to(folder.path, place.rank)
    facts = facts_of(built, folder)
    checkpoints = Checkpoints(folder.path, place, built.vocabularies(), config.checkpoint, facts)
    signals = Signals()
    parts = Parts(
        sharded=built.sharded,
        dense=built.dense,
        schedule=config.schedule,
        source=built.source(),
        collate=built.collate(),
        evaluator=built.evaluator(signals),
        folder=folder,
        checkpoints=checkpoints,
        profile=Profile(config.profile, place, folder.path / "profile" / f"rank-{place.rank}.json"),
        stream=built.stream(),
        progressive=progressive_metrics(built.sharded, built.reading.labels, config.evaluation.progressive),
    )
    limits = Limits(
        steps=config.steps,
        epochs=config.epochs,
        log_every_steps=config.log_every_steps,
        evaluate_every_epochs=config.evaluation.every_epochs,
        evaluate_every_steps=config.evaluation.every_steps,
        save_every_steps=config.checkpoint.every_steps,
        save_every_minutes=config.checkpoint.every_minutes,
    )
    stepping = Stepping(config.accumulation, config.clip_norm)
    trainer = Trainer(parts, limits, EarlyStopping(config.early_stopping), stepping, config.prefetch, signals=signals)
    latest = from_first_rank(checkpoints.latest, place)
    if latest is not None:
        made = trainer.resume(latest)
        _require_more(limits, made.progress, folder.path)
        folder.rewind(made.progress.step, made.seconds, made.metrics_bytes)
    else:
        trainer.warm_start = begun.report
        folder.rewind(0, 0.0, 0)
    folder.write_config()
    folder.follow(config.tracking)
    folder.write_json("plan.json", built.plan_report())
    folder.write_text(PICTURE, built.plan_picture)
    log.info("run %s: %d ranks on %s", folder.path, place.world_size, place.device.type)
    for line in (*begun.lines, *built.told()):
        log.info("%s", line)
    drawn = latest is None and begun is FROM_SEED
    for line in (*weights_of_other_rows(facts), *built.notes(drawn)) if place.rank == 0 else ():
        log.warning("%s", line)
    if latest is not None:
        log.info("resumed after step %d", trainer.progress.step)
    return trainer


def _require_more(limits: Limits, made: Progress, run: Path) -> None:
    """Raises InputError where a run is to be shorter than it is: its result would be of more than was asked for."""
    for key, most, are in (("steps", limits.steps, made.step), ("epochs", limits.epochs, made.epoch)):
        if most is not None and most < are:
            raise InputError(f"{key}: want at least {are}, which {run} has made, got {most}; begin another run")


def _to_the_end(trainer: Trainer, built: Built, pulse: Pulse) -> Outcome:
    """Trains; whatever happens, result.json says how it ended."""
    folder, status, metrics = trainer.parts.folder, "failed", {}
    more: dict[str, Any] = {}
    started = time.monotonic()
    try:
        metrics = trainer.train()
        status = "stopped" if trainer.stop_signal else "finished"
        memory = built.memory()
        more = {"peak_memory_bytes": max(memory["peak_bytes_by_rank"]), "memory": memory}
        if (times := built.times(trainer.parts.profile.phases)) is not None:
            more["times"] = times
    except BaseException as error:
        mine = explained(error, pulse, log_file(folder.path, built.place.rank))
        known = isinstance(error, InputError)  # says all there is; anything else wants its traceback
        # the console shows what the command ends with
        said = ("failed after step %d: %s", trainer.progress.step, mine)
        log.error(*said, exc_info=None if known else error, extra={"file_only": True})
        more = {"error": _with_its_name(mine)}
        if mine is error:
            raise
        raise mine from error
    finally:
        pretrained = {name: asdict(filled) for name, filled in built.pretrained.items()}
        more |= {"pretrained_weights": pretrained} if pretrained else {}
        _write_result(folder, status, {**trainer.result(metrics), **more})
    if trainer.stop_signal:
        log.warning("stopped by signal %d after step %d", trainer.stop_signal, trainer.progress.step)
    else:
        _show(metrics, built, trainer, time.monotonic() - started)
    if built.place.rank == 0:
        write_page(folder.path)
    return Outcome(folder.path, metrics, trainer.stop_signal)


def _with_its_name(error: BaseException) -> str:
    """The text of an error, which may begin with the name of its class itself."""
    name = f"{type(error).__name__}: "
    return name + str(error).removeprefix(name)


def _write_result(folder: RunFolder, status: str, values: dict[str, Any]) -> None:
    """A disk that does not take it hides no error of the run."""
    try:
        folder.write_result(status, values)
    except OSError as error:
        log.error("result.json could not be written to %s: %s", folder.path, error.strerror or error)


def best_reachable(built: Built) -> Metrics:
    """Of a data set whose law is known, by split."""
    return built.dataset.manifest.best_reachable or {}


def _show(metrics: Metrics, built: Built, trainer: Trainer, seconds: float) -> None:
    if built.place.rank == 0:
        best = {f"{split}: best reachable": values for split, values in best_reachable(built).items()}
        shown = {name: values for name, values in {**metrics, **best}.items() if values}  # some splits have no rows
        print("\n".join(protocol_line(name, said) for name, said in trainer.protocol().items() if name in shown))
        print(results_table(shown))
        print(f"{seconds:.0f} s; the run is in {trainer.parts.folder.path}")
