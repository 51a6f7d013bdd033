"""What item2vec promises: every event is predicted from a neighbour in its row, drawn by the sample and the step.

B  rows    T  events over all rows    S  predicted events    D  dim
"""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sharded_emb.batch import CANDIDATES, Embedded, Jagged
from sharded_emb.models.base import Drawn, NextItem
from sharded_emb.models.item2vec import Item2Vec
from tests.unit.test_models import HISTORIES, item_vectors, jagged

LENGTHS = [1, 2, 0, 9, 4, 1, 5]


def drawn(lengths: list[int], step: int = 1, samples: list[int] | None = None) -> Drawn:
    named = np.array(samples if samples is not None else range(len(lengths)), dtype=np.int64)
    return Drawn(named, np.array(lengths, dtype=np.int64), seed=3, step=step)


def neighbours(config: Item2Vec, of: Drawn) -> list[list[int]]:
    """By row the place that each event is predicted from; -1 of none."""
    way_T = config.predicted(of)
    ends = [0, *of.lengths.cumsum()]
    found = []
    for begin, end in pairwise(ends):
        ways = enumerate(way_T[begin:end])
        found.append([int(p - w if w <= config.window else p + w - config.window) if w else -1 for p, w in ways])
    return found


@pytest.mark.parametrize("window", [1, 2, 5])
def test_an_event_is_predicted_from_another_one_of_its_row_in_the_window(window: int) -> None:
    for step in range(50):
        for row, length in zip(neighbours(Item2Vec(window=window), drawn(LENGTHS, step)), LENGTHS, strict=True):
            if length < 2:
                assert row == [-1] * length
                continue
            for place, other in enumerate(row):
                assert 0 <= other < length
                assert 0 < abs(other - place) <= window


def test_all_neighbours_have_their_turn_alike() -> None:
    config = Item2Vec(window=2)
    met = Counter((p, o) for s in range(6000) for p, o in enumerate(neighbours(config, drawn([5], s))[0]))
    for place in range(5):
        others = [o for o in range(5) if 0 < abs(o - place) <= 2]
        assert {o for p, o in met if p == place} == {*others}
        assert [met[place, o] for o in others] == pytest.approx([6000 / len(others)] * len(others), rel=0.1)


def test_a_draw_belongs_to_the_sample_and_the_step_and_not_to_the_batch() -> None:
    config = Item2Vec(window=3)
    together = neighbours(config, drawn([9, 4, 7], samples=[11, 12, 13]))
    assert neighbours(config, drawn([7, 12, 9], samples=[13, 99, 11]))[::2] == [together[2], together[0]]
    assert neighbours(config, drawn([9], step=2, samples=[11]))[0] != together[0]


def given(rows: list[list[int]], numbers_T: Tensor | None = None) -> tuple[Embedded, Tensor, Tensor]:
    """Rows with vectors of their items, and of a feature beside them."""
    items_ND, centers_ND = item_vectors(), item_vectors().detach().flip(0).requires_grad_()
    history: Jagged = replace(jagged(rows, items_ND), numbers_T=numbers_T)
    candidates = jagged([[20, 21], *[[] for _ in rows[1:]]], items_ND)
    sequences = {"history": history, "center": jagged(rows, centers_ND), CANDIDATES: candidates}
    return Embedded({}, sequences), items_ND, centers_ND


@pytest.mark.parametrize("beside", [(), ("center",)], ids=["one table", "two tables"])
def test_states_are_the_vectors_of_neighbours(beside: tuple[str, ...]) -> None:
    config = Item2Vec(window=2, beside=beside)
    lengths = [len(row) for row in HISTORIES]
    embedded, items_ND, centers_ND = given(HISTORIES, torch.from_numpy(config.predicted(drawn(lengths))).float())
    found: NextItem = config.build([])(embedded)
    rows = zip(HISTORIES, neighbours(config, drawn(lengths)), strict=True)
    pairs = [(row[p], row[o]) for row, others in rows for p, o in enumerate(others) if o >= 0]
    predicted, near = (torch.tensor(each) for each in zip(*pairs, strict=True))
    assert torch.equal(found.positive_ids_S, predicted)
    assert torch.equal(found.positives_SD, items_ND[predicted])
    assert torch.equal(found.states_SD, items_ND[near] + centers_ND[near] if beside else items_ND[near])
    assert [int((found.row_S == row).sum()) for row in range(len(lengths))] == [n if n > 1 else 0 for n in lengths]
    assert torch.equal(found.candidates_KD, items_ND[[20, 21]])


def test_a_query_is_the_mean_of_the_newest_events_before_the_last() -> None:
    embedded, items_ND, _ = given([[2, 3, 4, 5, 6], [7, 8], [9, 10, 11]])
    want_BD = torch.stack([items_ND[[4, 5]].mean(0), items_ND[7], items_ND[[9, 10]].mean(0)])
    plain: Any = Item2Vec(window=2).build([])
    torch.testing.assert_close(plain.queries(embedded), want_BD)
    model: Any = Item2Vec(window=2, similarity="cosine", temperature=0.5).build([])
    want_BD = torch.nn.functional.normalize(want_BD, dim=1) / 0.5
    torch.testing.assert_close(model.queries(embedded), want_BD)
