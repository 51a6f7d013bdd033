"""Counts of pairs beside a model's scores."""

import numpy as np
import pyarrow as pa
import torch

from sharded_emb.data.columns import RaggedColumn
from sharded_emb.metrics.baselines import count_neighbours, fit_baselines
from sharded_emb.metrics.counts import Counts, CountsConfig
from sharded_emb.vocabulary_rows import FIRST_ROW

ROWS = 30


def test_scores_have_the_logarithm_of_what_the_baseline_counts() -> None:
    draw = np.random.default_rng(0)
    sequences = pa.chunked_array([[draw.integers(2, ROWS, draw.integers(0, 9)).tolist() for _ in range(40)]])
    values, offsets = draw.integers(2, ROWS, 8), np.array([0, 0, 1, 8])  # histories of no, one and seven events
    counts = Counts(CountsConfig(weight=3.0, scale=5.0), count_neighbours(RaggedColumn.from_arrow(sequences), ROWS))
    before_BN = torch.from_numpy(draw.normal(size=(3, ROWS))).float()
    scores_BN = before_BN.clone()
    counts.add_to(scores_BN, values, offsets)
    baseline = fit_baselines(RaggedColumn.from_arrow(sequences), ROWS)[-1]
    assert baseline.name == "sequence_knn"
    pairs_BN = baseline.scores(values, offsets)[:, FIRST_ROW:]
    want_BN = before_BN[:, FIRST_ROW:] + torch.from_numpy(3 * np.log1p(5 * pairs_BN))
    assert (pairs_BN[1:] > 0.1).any(axis=1).all()
    assert torch.allclose(scores_BN[:, FIRST_ROW:].double(), want_BN.double(), atol=1e-5)
    assert torch.equal(scores_BN[0], before_BN[0]), "nothing follows an empty history"
