"""A model and another one, or a baseline, on the same rows: how far apart, and how sure that is.

B  rows
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharded_emb.data.columns import Int64s
from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.process_group import Place
from sharded_emb.metrics import bootstrap, ranking
from sharded_emb.metrics.bootstrap import Difference
from sharded_emb.training.compare import counted_ranks, fitted_baselines, regressed, require_predicted
from sharded_emb.training.evaluation import BinaryEvaluator, NextItemEvaluator, Scored

Ranked = Iterable[tuple[Int64s, dict[str, Tensor]]]
Differences = dict[str, dict[str, Difference]]


@dataclass(frozen=True)
class Ranks:
    """Of the targets of those rows of a split that have something to predict from, in its order, by evaluation."""

    rows_B: Int64s
    by_name: dict[str, Tensor]


@dataclass(frozen=True)
class Performance:
    """What a model did on a split, row by row, on every rank."""

    split: str
    ranks: Ranks | None = None
    scored: Scored | None = None

    def less(self, other: "Performance", user_N: Int64s | None) -> Differences:
        """The differences by evaluation and metric. user_N: of each row of the split; None for one a row."""
        if self.ranks is not None and other.ranks is not None:
            rows_B = self.ranks.rows_B
            user_B = rows_B if user_N is None else user_N[rows_B]
            return {
                name: bootstrap.of_means(_by_metric(rank_B), _by_metric(other.ranks.by_name[name]), user_B)
                for name, rank_B in self.ranks.by_name.items()
            }
        assert self.scored is not None
        assert other.scored is not None
        label_N = self.scored.label_N
        user_N = np.arange(len(label_N)) if user_N is None else user_N
        found = bootstrap.of_labels(label_N, (self.scored.logit_N, other.scored.logit_N), user_N)
        return {self.split: found}


def of_model(evaluator: BinaryEvaluator | NextItemEvaluator, split: str) -> Performance:
    """Of the weights as they are. All ranks call it together."""
    if isinstance(evaluator, BinaryEvaluator):
        return Performance(split, scored=evaluator.score(split))
    return Performance(split, ranks=_gathered(evaluator.ranks(split), split, evaluator.scoring.place))


def of_baseline(evaluator: BinaryEvaluator | NextItemEvaluator, name: str, split: str) -> Performance:
    """Of a baseline on the rows of the evaluator. All ranks call it together."""
    if isinstance(evaluator, BinaryEvaluator):
        return Performance(split, scored=regressed(evaluator, split))
    baseline = next(each for each in fitted_baselines(evaluator) if each.name == name)
    ranked = counted_ranks(evaluator, baseline, split)
    return Performance(split, ranks=_gathered(ranked, split, evaluator.scoring.place))


def _gathered(ranked: Ranked, split: str, place: Place) -> Ranks:
    """In the order of the split. Raises InputError where nothing is ranked, on all ranks alike."""
    with torch.no_grad():
        mine = [(rows, {name: rank_B.cpu() for name, rank_B in ranks.items()}) for rows, ranks in ranked]
    parts = [part for of_rank in all_values(mine, place) for part in of_rank]
    require_predicted(parts, split)
    rows_B = np.concatenate([rows for rows, _ in parts])
    order_B = np.argsort(rows_B)
    ranks = {name: torch.cat([ranks[name] for _, ranks in parts])[order_B] for name in parts[0][1]}
    return Ranks(rows_B[order_B], ranks)


def _by_metric(rank_B: Tensor) -> dict[str, bootstrap.Floats]:
    found = ranking.values(rank_B)
    return {name: value_B.numpy() for name, value_B in found.items() if not name.startswith("recall")}
