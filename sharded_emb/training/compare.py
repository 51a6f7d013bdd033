"""What stands beside a model's metrics: baselines on the same rows by the same rule."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sharded_emb.data.columns import Int64s
from sharded_emb.distributed.agree import all_sums, from_first_rank
from sharded_emb.errors import InputError, OneLabelError
from sharded_emb.metrics import binary, ranking
from sharded_emb.metrics.baselines import Baseline, fit_baselines
from sharded_emb.metrics.baselines_logistic import Columns, logistic_scores
from sharded_emb.training.evaluation import BinaryEvaluator, Metrics, NextItemEvaluator, Scored

log = logging.getLogger("sharded_emb")

NEXT_ITEM_BASELINES = ("popularity", "markov", "sequence_knn")
BINARY_BASELINES = ("logistic_regression",)


def baseline_metrics(evaluator: BinaryEvaluator | NextItemEvaluator, split: str) -> dict[str, Metrics]:
    """By baseline the metrics that the evaluator gives the model. All ranks call it together."""
    if isinstance(evaluator, NextItemEvaluator):
        return {baseline.name: _counted(evaluator, baseline, split) for baseline in fitted_baselines(evaluator)}
    users, found = evaluator.scoring.users(split), {}
    for task, name in enumerate(evaluator.names(split)):
        try:
            scored = regressed(evaluator, split, task)
        except OneLabelError as error:  # of one task among others, which have baselines all the same
            if len(evaluator.names(split)) == 1:
                raise
            if evaluator.scoring.place.rank == 0:
                log.warning("%s has no logistic_regression: %s", name, error.problems[0].partition("; ")[0])
            continue
        found[name] = binary.metrics(scored.label_N, scored.logit_N, users)
    return {"logistic_regression": found}


def fitted_baselines(evaluator: NextItemEvaluator) -> list[Baseline]:
    """Counted over the train split."""
    return fit_baselines(evaluator.train_sequences(), evaluator.table.rows)


def regressed(evaluator: BinaryEvaluator, split: str, task: int = 0) -> Scored:
    """Labels of a task in a split, and logits of a logistic regression on what the model reads. All ranks call it
    together.
    """
    dataset, reading = evaluator.scoring.dataset, evaluator.scoring.reading
    label = reading.labels[task]

    def regress() -> Scored:
        ids = [each for each in reading.features if not each.raw]
        for left in (each for each in reading.features if each.raw):
            log.warning("logistic_regression leaves out feature %s, whose ids have no vocabulary", left.name)
        columns = Columns(ids if ids or reading.numbers else reading.features, reading.numbers)
        probability_N = logistic_scores(dataset, columns, split, label)
        label_N = label.of(dataset.split(split)[label.column].to_numpy()).astype(np.float64)
        return Scored(label_N, np.log(probability_N) - np.log1p(-probability_N))

    return from_first_rank(regress, evaluator.scoring.place, slowly=True)


def counted_ranks(
    evaluator: NextItemEvaluator, baseline: Baseline, split: str
) -> Iterator[tuple[Int64s, dict[str, Tensor]]]:
    """As `NextItemEvaluator.ranks`, by a baseline."""
    for rows in evaluator.parts(split):
        values, lengths = evaluator.histories(split, rows)
        scores_BN = torch.from_numpy(baseline.scores(values, np.concatenate([[0], np.cumsum(lengths)])))
        unfiltered_B, filtered_B = ranking.ranks_of_target(scores_BN, *evaluator.targets_and_seen(split, rows))
        yield rows, {split: filtered_B, f"{split}_unfiltered": unfiltered_B}


def _counted(evaluator: NextItemEvaluator, baseline: Baseline, split: str) -> Metrics:
    summed = {split: Counter[str](), f"{split}_unfiltered": Counter[str]()}
    for rows, ranks in counted_ranks(evaluator, baseline, split):
        for name, rank_B in ranks.items():
            summed[name].update({"rows": len(rows), **ranking.sums(rank_B)})
    return {
        name: ranking.means(counts, lambda v: all_sums(v, evaluator.scoring.place)) for name, counts in summed.items()
    }


def require_predicted(parts: Sequence[object], split: str) -> None:
    """Raises InputError where no row of a split has anything to predict from. parts: of all ranks."""
    if not parts:
        raise InputError(
            f"split: want rows of two events or more, to predict the last, got none in {split}; choose another"
        )
