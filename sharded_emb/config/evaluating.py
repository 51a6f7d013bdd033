"""`evaluate`: the metrics of a run that is there."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sharded_emb.config.against_rules import BASELINES, other_run
from sharded_emb.config.build import Built
from sharded_emb.config.run import EvaluateConfig
from sharded_emb.config.same_numbers import require_same_numbers
from sharded_emb.config.same_rows import Trained
from sharded_emb.config.session import best_reachable, joined
from sharded_emb.config.validate import validate
from sharded_emb.config.where import from_home
from sharded_emb.replacing import replacing
from sharded_emb.training.against import Differences, of_baseline, of_model
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.checkpoint_allowed import Allowed
from sharded_emb.training.compare import baseline_metrics
from sharded_emb.training.evaluation import BinaryEvaluator, Metrics, NextItemEvaluator
from sharded_emb.training.metric_lines import without_nan
from sharded_emb.training.predictions import Lists, write_lists, write_scores
from sharded_emb.training.report import protocol_line, results_table
from sharded_emb.training.run_page import write_page


def evaluate(config: EvaluateConfig) -> Metrics:
    """The metrics of the best checkpoint of a run, else its last; writes evaluation_SPLIT.json into the run folder."""
    assert config.run is not None
    with joined(config) as place:
        allowed = Allowed.by(config.checkpoint, inherited=True)
        built = Built(config, place, draw=allowed.keeps_some)
        checkpoints = Checkpoints(config.run, place, built.vocabularies())
        newest = checkpoints.newest()
        require_same_numbers(built, newest)
        _, fit = checkpoints.load_what_fits(built.sharded, None, newest, allowed)
        evaluator, split = built.evaluator(), config.split
        metrics = evaluator(split, lists=True)
        baselines = baseline_metrics(evaluator, split) if config.baselines else {}
        against = _against(built, evaluator) if config.against is not None else _Against()
        if config.predictions is not None:
            if isinstance(evaluator, NextItemEvaluator):
                lists = Lists(config.top_k, config.filter_seen, config.columns)
                written = write_lists(evaluator, split, config.predictions, lists)
            else:
                written = write_scores(evaluator, split, config.predictions, config.columns)
            if place.rank == 0:
                print(f"{config.predictions}: {written}")
        if place.rank == 0:
            for line in fit.told():
                print(line)
            others = {"baselines": baselines, "against": against, "differs": fit.report()}
            _show_evaluation(built, newest, metrics, others, evaluator.protocol(split))
    return metrics


@dataclass(frozen=True)
class _Against:
    """How far a run is from another one, or from a baseline. checkpoint: of the other run."""

    differences: Differences = field(default_factory=dict)
    checkpoint: Path | None = None


def _against(built: Built, evaluator: BinaryEvaluator | NextItemEvaluator) -> _Against:
    """On the same rows."""
    config = built.config
    assert isinstance(config, EvaluateConfig)
    assert config.against is not None
    mine = of_model(evaluator, config.split)
    newest = None
    if config.against in BASELINES[config.model.task]:
        other = of_baseline(evaluator, config.against, config.split)
    else:
        folder = from_home(Path(config.against))
        grown = Allowed(grown=config.checkpoint.grow_tables, inherited=True)
        other_built = Built(validate(EvaluateConfig, other_run(folder, config)), built.place, draw=grown.keeps_some)
        checkpoints = Checkpoints(folder, built.place, other_built.vocabularies())
        newest = checkpoints.newest()
        require_same_numbers(other_built, newest)
        checkpoints.load_what_fits(other_built.sharded, None, newest, grown)
        other = of_model(other_built.evaluator(), config.split)
    return _Against(mine.less(other, evaluator.scoring.users(config.split)), newest)


def _show_differences(differences: Differences, against: str, of: str) -> None:
    for name, found in differences.items():
        print(f"{name}: the difference to {against}, and where 95 of 100 samples of {of} have it")
        for metric, each in found.items():
            sure = "" if each.certain else "  not certain"
            print(f"  {metric:<20} {each.difference:+.4f}  [{each.low:+.4f}, {each.high:+.4f}]{sure}")


def _show_evaluation(
    built: Built, checkpoint: Path, metrics: Metrics, others: Mapping[str, Any], protocol: Mapping[str, Any]
) -> None:
    config = built.config
    assert isinstance(config, EvaluateConfig)
    assert config.run is not None
    best = {split: values for split, values in best_reachable(built).items() if str(config.split) == split}
    beside: dict[str, Metrics] = {**others["baselines"], "best reachable": best}
    against: _Against = others["against"]
    trained = Trained.on(checkpoint, built.dataset)
    warnings = trained.warnings
    if trained.protocol is not None:
        protocol = {
            name: {**said, "trained_on": "; ".join(filter(None, (said.get("trained_on"), trained.protocol)))}
            for name, said in protocol.items()
        }
    if against.checkpoint is not None:
        warnings += Trained.on(against.checkpoint, built.dataset).warnings
    for name in metrics:
        rows = {config.model.__class__.__name__: metrics[name]}
        rows |= {other: found[name] for other, found in beside.items() if name in found}
        print(protocol_line(name, protocol[name]))
        print(results_table(rows))
    found = {"checkpoint": checkpoint.name, "metrics": metrics, "baselines": others["baselines"], "protocol": protocol}
    found |= {"best_reachable": best} if best else {}
    if config.against is not None:
        of = "users" if "user" in built.dataset.columns else "rows"
        _show_differences(against.differences, config.against, of)
        values = {
            name: {metric: asdict(each) for metric, each in by_metric.items()}
            for name, by_metric in against.differences.items()
        }
        found["against"] = {"name": config.against, "users": "paired bootstrap", "differences": values}
    if others["differs"]:
        found["differs"] = others["differs"]
    if warnings:
        found["warnings"] = warnings
    for warning in warnings:
        print(f"warning: {warning}")
    with replacing(config.run / f"evaluation_{config.split}.json") as aside:
        aside.write_text(json.dumps(without_nan(found), indent=2) + "\n", encoding="utf-8")
    write_page(config.run)
    print(f"evaluated {checkpoint.name} of {config.run}")
