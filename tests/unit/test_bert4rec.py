"""What BERT4Rec promises: which events are hidden belongs to samples, and a hidden event is seen by nobody.

B  rows    T  events over all rows    S  hidden events    D  dim
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sharded_emb.batch import CANDIDATES, Embedded, Jagged
from sharded_emb.embeddings.lookup import candidate_feature
from sharded_emb.models.base import Drawn, NextItem
from sharded_emb.models.bert4rec import BERT4Rec, BERT4RecModel
from tests.tables import make_feature, make_table
from tests.unit.test_models import HISTORIES, ITEMS, LONGEST, D, item_vectors, jagged


def bert4rec(**options: Any) -> BERT4RecModel:
    torch.manual_seed(1)
    history = make_feature("history", "item", max_length=LONGEST)
    config = BERT4Rec(**{"heads": 2, "hidden": 16, **options})
    model = config.build([make_table("item", ITEMS, D, history, candidate_feature("item"))]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert isinstance(model, BERT4RecModel)
    return model


def hidden_of(rows: list[list[int]], hidden: list[list[int]], padding: int = 0) -> Jagged:
    """Rows whose events at these places are hidden."""
    plain = jagged(rows, item_vectors(), padding)
    marks = [float(place in places) for row, places in zip(rows, hidden, strict=True) for place in range(len(row))]
    return Jagged(plain.values_TD, plain.ids_T, plain.lengths_B, plain.extent, torch.tensor(marks))


def output(model: BERT4RecModel, history: Jagged) -> NextItem:
    candidates = jagged([[20, 21], *[[] for _ in history.lengths_B[1:]]], item_vectors())
    return model(Embedded({}, {"history": history, CANDIDATES: candidates}))


def test_hidden_events_are_what_is_predicted() -> None:
    found = output(bert4rec(), hidden_of(HISTORIES, [[1, 4], [], [], [0], [], [1]]))
    assert found.positive_ids_S.tolist() == [3, 6, 8, 15]
    assert found.row_S.tolist() == [0, 0, 3, 5]
    assert torch.equal(found.positives_SD, item_vectors()[[3, 6, 8, 15]])
    assert len(found.states_SD) == 4


def test_a_hidden_event_moves_no_state_and_all_others_of_the_row_do() -> None:
    model, hidden = bert4rec(), [[1, 3]]
    before_SD = output(model, hidden_of([[2, 3, 4, 5, 6]], hidden)).states_SD
    for place in range(5):
        row = [2, 3, 4, 5, 6]
        row[place] = 30
        after_SD = output(model, hidden_of([row], hidden)).states_SD
        moved_S = (after_SD - before_SD).abs().amax(1) > 1e-4
        assert moved_S.tolist() == [place not in hidden[0]] * 2


def test_neither_other_rows_nor_padding_move_a_state() -> None:
    model, hidden = bert4rec(), [[0, 4], [], [], [2], [], [1]]
    found = output(model, hidden_of(HISTORIES, hidden))
    for row in (0, 3, 5):
        for padding in range(LONGEST + 2 - len(HISTORIES[row])):
            alone = output(model, hidden_of([HISTORIES[row]], [hidden[row]], padding))
            torch.testing.assert_close(alone.states_SD, found.states_SD[found.row_S == row], atol=2e-6, rtol=0)


def test_a_query_hides_the_last_event_alone() -> None:
    model = bert4rec()
    rows = [row for row in HISTORIES if row]
    queries_BD = model.queries(Embedded({}, {"history": jagged(rows, item_vectors())}))
    found = output(model, hidden_of(rows, [[len(row) - 1] for row in rows]))
    torch.testing.assert_close(queries_BD, found.states_SD, atol=1e-6, rtol=0)
    filled_BD = model.queries(Embedded({}, {"history": jagged([*rows, []], item_vectors())}))
    torch.testing.assert_close(filled_BD[:-1], queries_BD, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows", [HISTORIES, [[], []], [[5], []]])
def test_gradients_are_finite_and_reach_what_was_seen(rows: list[list[int]]) -> None:
    model = bert4rec().train()
    history = hidden_of(rows, [[len(row) - 1] if len(row) > 1 else [] for row in rows])
    table: list[Tensor] = [history.values_TD, *model.parameters()]
    loss = output(model, history).states_SD.sum() + 0 * sum(each.sum() for each in table)
    gradients = torch.autograd.grad(loss, table)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    if rows is HISTORIES:
        hidden_T = history.numbers_T == 1
        of_row_T = torch.tensor([len(row) > 1 for row in rows for _ in row])
        assert torch.equal(gradients[0].abs().sum(1) > 0, ~hidden_T & of_row_T)


def draw(config: BERT4Rec, samples: list[int], lengths: list[int], seed: int = 0, step: int = 1) -> list[list[bool]]:
    drawn = Drawn(np.array(samples), np.array(lengths), seed, step)
    parts = np.split(config.predicted(drawn), np.cumsum(lengths)[:-1])
    return [part.tolist() for part in parts]


def test_what_is_hidden_belongs_to_seed_step_and_sample_and_not_to_the_batch() -> None:
    config, lengths = BERT4Rec(hidden_share=0.5, last_only=0.5), [9, 4, 12]
    together = draw(config, [7, 8, 90], lengths)
    assert draw(config, [90, 7], [12, 9]) == [together[2], together[0]]
    for sample in range(40):  # whatever the longest row beside it
        alone = draw(config, [sample], [5])
        assert draw(config, [99, sample], [17, 5])[1:] == alone
    assert draw(config, [7, 8, 90], lengths) == together
    for seed, step in ((1, 1), (0, 2)):
        assert draw(config, [7, 8, 90], lengths, seed, step) != together
    assert draw(config, [6], [9]) != [together[0]]


def test_every_row_of_two_events_or_more_hides_some_and_shows_some() -> None:
    lengths = [1, 2, 3, 0, 20] * 400
    for share in (0.05, 0.95):
        hidden = draw(BERT4Rec(hidden_share=share, last_only=0), list(range(2000)), lengths)
        for row in hidden:
            assert (any(row), all(row)) == ((True, False) if len(row) > 1 else (False, bool(not row)))


def test_the_shares_are_those_asked_for() -> None:
    long = draw(BERT4Rec(hidden_share=0.3, last_only=0), list(range(1000)), [50] * 1000)
    assert sum(map(sum, long)) / 50_000 == pytest.approx(0.3, abs=0.01)
    mixed = draw(BERT4Rec(hidden_share=0.3, last_only=0.4), list(range(1000)), [50] * 1000)
    assert sum(row == [False] * 49 + [True] for row in mixed) / 1000 == pytest.approx(0.4, abs=0.05)
    assert draw(BERT4Rec(last_only=1), [3, 4], [3, 1]) == [[False, False, True], [False]]
