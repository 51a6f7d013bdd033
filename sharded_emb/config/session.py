"""One run from a validated config: joins the group, builds, trains, reports."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sharded_emb.config.build import Built
from sharded_emb.config.run import EvaluateConfig, RunConfig
from sharded_emb.distributed.process_group import Place, process_group
from sharded_emb.errors import InputError
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.compare import baseline_metrics, write_predictions
from sharded_emb.training.early_stopping import EarlyStopping
from sharded_emb.training.evaluation import Metrics, NextItemEvaluator
from sharded_emb.training.loop import Limits, Parts, Trainer
from sharded_emb.training.report import results_table
from sharded_emb.training.run_folder import RunFolder, log_to

log = logging.getLogger("sharded_emb")


@contextmanager
def joined(config: RunConfig) -> Iterator[Place]:
    """The process group of a config's device, with its threads."""
    torch.set_num_threads(config.threads_per_rank)
    with process_group(config.device, config.wait_seconds) as place:
        yield place


def train(config: RunConfig) -> int:
    """Trains and evaluates; returns the exit code: 0, or 128 and the signal that stopped the run."""
    with joined(config) as place:
        built = Built(config, place)
        folder = RunFolder.create(config.run, config.name, config.model_dump(mode="json"), place)
        log_to(folder.path, place.rank)
        folder.write_json("plan.json", built.plan_report())
        log.info("run %s: %d ranks on %s, %s", folder.path, place.world_size, place.device.type, built.plan.types)
        limits = Limits(config.steps, config.epochs, config.log_every_steps, config.evaluation.every_epochs)
        parts = Parts(
            sharded=built.sharded,
            dense=built.dense,
            schedule=config.schedule,
            source=built.source(),
            collate=built.collate(),
            evaluator=built.evaluator(),
            folder=folder,
        )
        trainer = Trainer(parts, limits, EarlyStopping(config.early_stopping))
        trainer.listen()
        return _to_the_end(trainer, folder, built)


def _to_the_end(trainer: Trainer, folder: RunFolder, built: Built) -> int:
    """Trains; whatever happens, result.json says how it ended."""
    status, metrics = "failed", {}
    started = time.monotonic()
    try:
        metrics = trainer.train()
        status = "stopped" if trainer.stop_signal else "finished"
    finally:
        folder.write_result(status, trainer.result(metrics))
        folder.close()
    if trainer.stop_signal:
        log.warning("stopped by signal %d after step %d", trainer.stop_signal, trainer.progress.step)
        return 128 + trainer.stop_signal
    _show(metrics, built, folder, time.monotonic() - started)
    return 0


def evaluate(config: EvaluateConfig) -> int:
    """Evaluates the best checkpoint of a run, else its last; writes evaluation_SPLIT.json into the run folder."""
    assert config.run is not None
    with joined(config) as place:
        checkpoints = Checkpoints(config.run, place)
        newest = checkpoints.newest()
        built = Built(config, place)
        checkpoints.load(built.sharded, None, newest)
        evaluator, split = built.evaluator(), config.split
        metrics = evaluator(split)
        baselines = baseline_metrics(evaluator, split) if config.baselines else {}
        if config.predictions is not None:
            if not isinstance(evaluator, NextItemEvaluator):
                raise InputError("predictions: want a next-item model, which has items to list, got a binary one")
            users = write_predictions(evaluator, split, config.predictions, config.top_k, config.filter_seen)
            if place.rank == 0:
                print(f"{config.predictions}: the top {config.top_k} of {users:,} users")
        if place.rank == 0:
            _show_evaluation(built, newest, metrics, baselines, evaluator.protocol(split))
    return 0


def _show_evaluation(
    built: Built, checkpoint: Path, metrics: Metrics, baselines: Mapping[str, Metrics], protocol: Mapping[str, Any]
) -> None:
    config = built.config
    assert isinstance(config, EvaluateConfig)
    assert config.run is not None
    others: dict[str, Metrics] = {**baselines, "best reachable": {k: v for k, v in _best_reachable(built).items() if k == config.split}}
    for name in metrics:
        rows = {config.model.__class__.__name__: metrics[name]}
        rows |= {other: found[name] for other, found in others.items() if name in found}
        print(f"{name}  ({', '.join(f'{key}: {value}' for key, value in protocol[name].items())})")
        print(results_table(rows))
    found = {"checkpoint": checkpoint.name, "metrics": metrics, "baselines": baselines, "protocol": protocol}
    (config.run / f"evaluation_{config.split}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"evaluated {checkpoint.name} of {config.run}")


def _best_reachable(built: Built) -> Metrics:
    return built.dataset.manifest.best_reachable or {}


def _show(metrics: Metrics, built: Built, folder: RunFolder, seconds: float) -> None:
    if built.place.rank == 0:
        best = {f"{split}: best reachable": values for split, values in _best_reachable(built).items()}
        shown = {**metrics, **best}
        print(results_table(shown))
        print(f"{seconds:.0f} s; the run is in {folder.path}")
