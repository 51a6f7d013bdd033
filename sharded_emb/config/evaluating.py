"""`evaluate`: the metrics of a run that is there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharded_emb.config.build import Built
from sharded_emb.config.run import EvaluateConfig
from sharded_emb.config.session import best_reachable, joined
from sharded_emb.errors import InputError
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.compare import baseline_metrics, write_predictions
from sharded_emb.training.evaluation import Metrics, NextItemEvaluator
from sharded_emb.training.report import results_table
from sharded_emb.training.run_folder import without_nan


def evaluate(config: EvaluateConfig) -> Metrics:
    """The metrics of the best checkpoint of a run, else its last; writes evaluation_SPLIT.json into the run folder."""
    assert config.run is not None
    with joined(config) as place:
        built = Built(config, place)
        checkpoints = Checkpoints(config.run, place, built.vocabularies())
        newest = checkpoints.newest()
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
    return metrics


def _show_evaluation(
    built: Built, checkpoint: Path, metrics: Metrics, baselines: Mapping[str, Metrics], protocol: Mapping[str, Any]
) -> None:
    config = built.config
    assert isinstance(config, EvaluateConfig)
    assert config.run is not None
    best = {split: values for split, values in best_reachable(built).items() if str(config.split) == split}
    others: dict[str, Metrics] = {**baselines, "best reachable": best}
    for name in metrics:
        rows = {config.model.__class__.__name__: metrics[name]}
        rows |= {other: found[name] for other, found in others.items() if name in found}
        print(f"{name}  ({', '.join(f'{key}: {value}' for key, value in protocol[name].items())})")
        print(results_table(rows))
    found = {"checkpoint": checkpoint.name, "metrics": metrics, "baselines": baselines, "protocol": protocol}
    (config.run / f"evaluation_{config.split}.json").write_text(
        json.dumps(without_nan(found), indent=2) + "\n", encoding="utf-8"
    )
    print(f"evaluated {checkpoint.name} of {config.run}")
