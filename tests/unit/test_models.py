"""What SASRec promises: a state comes from its own row and the events before it, whatever stands beside it.

B  rows    S  events that have a successor    D  dim    N  rows of the item table
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from sharded_emb.batch import CANDIDATES, Embedded, Extent, Jagged
from sharded_emb.embeddings.lookup import candidate_feature
from sharded_emb.models.base import NextItem, NextItemModel
from sharded_emb.models.sasrec import SASRec
from sharded_emb.pooling.mean import Mean
from sharded_emb.tables import Feature, FeatureConfig, Table
from tests.tables import make_feature, make_table

D, ITEMS = 8, 40
LONGEST = 6
HISTORIES = [[2, 3, 4, 5, 6], [], [7], [8, 9, 10, 8, 11, 12, 13], [], [14, 15]]


def feature(name: str, table: str, pooling: str, max_length: int | None = None) -> Feature:
    return make_feature(name, table, pooling=pooling, max_length=max_length)


def table(name: str, dim: int, *features: Feature) -> Table:
    return make_table(name, ITEMS, dim, *features)


def item_vectors(seed: int = 0) -> Tensor:
    return torch.randn(ITEMS, D, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def jagged(rows: list[list[int]], table_ND: Tensor, padding: int = 0) -> Jagged:
    """With more padding the extent claims that a row elsewhere in the batch is longer."""
    ids_T = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    longest = max(map(len, rows), default=0) + padding
    extent = Extent(longest, sum(map(bool, rows)))
    return Jagged(table_ND[ids_T], ids_T, torch.tensor([len(row) for row in rows]), extent)


def sasrec(**options: Any) -> NextItemModel:
    torch.manual_seed(1)
    config = SASRec(**{"heads": 2, "hidden": 16, **options})
    items = table("item", D, feature("history", "item", "none", LONGEST), candidate_feature("item"))
    model = config.build([table("user", 4, feature("user", "user", "sum")), items]).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from zero biases and unit scales
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def next_item(model: NextItemModel, rows: list[list[int]], table_ND: Tensor, padding: int = 0) -> NextItem:
    candidates = jagged([[20, 21, 22], *[[] for _ in rows[1:]]], table_ND)
    return model(Embedded({}, {"history": jagged(rows, table_ND, padding), CANDIDATES: candidates}))


def states(model: NextItemModel, rows: list[list[int]], padding: int = 0) -> list[Tensor]:
    """By row the states after each of its events but the last."""
    output = next_item(model, rows, item_vectors(), padding)
    return [output.states_SD[output.row_S == row] for row in range(len(rows))]


every_sasrec = pytest.mark.parametrize(
    "options",
    [{}, {"blocks": 1, "heads": 1}, {"similarity": "cosine", "temperature": 0.1}],
    ids=["two blocks", "one block", "cosine"],
)


@every_sasrec
def test_a_state_of_sasrec_depends_on_no_later_event(options: dict[str, Any]) -> None:
    model = sasrec(**options)
    (before_SD,) = states(model, [[2, 3, 4, 5, 6, 7]])
    for changed in range(6):
        row = [2, 3, 4, 5, 6, 7]
        row[changed] = 30
        (after_SD,) = states(model, [row])
        difference_S = (before_SD - after_SD).abs().amax(1)
        assert difference_S[:changed].tolist() == pytest.approx([0] * changed, abs=1e-6)
        assert (difference_S[changed:] > 1e-3).all(), "every event that was read has to matter"


@every_sasrec
def test_a_state_of_sasrec_depends_on_no_other_row(options: dict[str, Any]) -> None:
    model = sasrec(**options)
    before = states(model, HISTORIES)
    for changed in range(len(HISTORIES)):
        rows = [[31] * 4 if row == changed else history for row, history in enumerate(HISTORIES)]
        for row, after_SD in enumerate(states(model, rows)):
            if row != changed:
                torch.testing.assert_close(after_SD, before[row], atol=1e-6, rtol=0)


@every_sasrec
def test_padding_changes_no_state_of_sasrec(options: dict[str, Any]) -> None:
    """A row alone, padded further, and beside longer rows has the same states."""
    model = sasrec(**options)
    together = states(model, HISTORIES)
    for row, history in enumerate(HISTORIES):
        for padding in range(LONGEST + 1 - max(len(history), 2)):
            (alone_SD,) = states(model, [history], padding)
            torch.testing.assert_close(alone_SD, together[row], atol=1e-6, rtol=0)


def test_sasrec_tells_the_places_of_events_apart() -> None:
    (same_SD,) = states(sasrec(), [[2, 2, 2, 2]])
    assert (same_SD[1:] - same_SD[:-1]).abs().amax(1).min() > 1e-3


@every_sasrec
def test_what_followed_is_compared_with_the_state_before_it(options: dict[str, Any]) -> None:
    model, table_ND = sasrec(**options), item_vectors()
    output = next_item(model, HISTORIES, table_ND)
    assert output.positive_ids_S.tolist() == [item for history in HISTORIES for item in history[1:]]
    assert output.row_S.tolist() == [row for row, history in enumerate(HISTORIES) for _ in history[1:]]
    assert output.candidate_ids_K.tolist() == [20, 21, 22]
    assert torch.equal(output.positives_SD, model.items(table_ND[output.positive_ids_S]))
    assert torch.equal(output.candidates_KD, model.items(table_ND[20:23]))


@every_sasrec
def test_a_query_is_the_state_before_the_last_event(options: dict[str, Any]) -> None:
    model, table_ND = sasrec(**options), item_vectors()
    rows = [history for history in HISTORIES if len(history) > 1]
    queries_BD = model.queries(Embedded({}, {"history": jagged(rows, table_ND)}))
    last_BD = torch.stack([of_row_SD[-1] for of_row_SD in states(model, rows)])
    torch.testing.assert_close(queries_BD, last_BD, atol=1e-6, rtol=0)
    others = [[*history[:-1], 33] for history in rows]  # the last event is what is asked for
    again_BD = model.queries(Embedded({}, {"history": jagged(others, table_ND)}))
    torch.testing.assert_close(again_BD, queries_BD, atol=1e-6, rtol=0)


def test_empty_rows_behind_leave_the_queries_of_others_alone() -> None:
    """As evaluation has it on a rank with one row less than the others."""
    model, table_ND = sasrec(), item_vectors()
    rows = [[2, 3, 4], [5, 6]]
    alone_BD = model.queries(Embedded({}, {"history": jagged(rows, table_ND)}))
    filled_BD = model.queries(Embedded({}, {"history": jagged([*rows, []], table_ND)}))
    torch.testing.assert_close(filled_BD[:2], alone_BD, atol=1e-6, rtol=0)


@every_sasrec
@pytest.mark.parametrize("rows", [HISTORIES, [[], []], [[5], []], [[], [5, 6]]])
def test_rows_without_a_successor_give_sasrec_finite_gradients(options: dict[str, Any], rows: list[list[int]]) -> None:
    model, table_ND = sasrec(**options).train(), item_vectors()
    output = next_item(model, rows, table_ND)
    assert len(output.states_SD) == sum(max(len(row) - 1, 0) for row in rows)
    weights = [table_ND, *model.parameters()]
    gradients = torch.autograd.grad((output.states_SD @ output.candidates_KD.T).sum(), weights, allow_unused=True)
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_cosine_compares_unit_vectors_at_a_temperature() -> None:
    model = sasrec(similarity="cosine", temperature=0.25)
    output = next_item(model, HISTORIES, item_vectors())
    for vectors in (output.positives_SD, output.candidates_KD):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    torch.testing.assert_close(output.states_SD.norm(dim=1), torch.full((len(output.states_SD),), 4.0))
    assert torch.equal(model.items(torch.zeros(1, D)), torch.zeros(1, D)), "padding has no direction"


def test_a_dot_product_takes_item_vectors_as_they_are() -> None:
    vectors_ND = item_vectors()
    assert sasrec().items(vectors_ND) is vectors_ND


HISTORY = FeatureConfig(table="item", column="items", max_length=5)


@pytest.mark.parametrize(
    ("config", "features", "problems"),
    [
        (SASRec(), {"history": HISTORY}, []),
        (SASRec(), {"histroy": HISTORY}, ["model.history: want a feature, got 'history'; did you mean histroy?"]),
        (SASRec(history="past"), {}, ["model.history: want a feature, got 'past'"]),
        (
            SASRec(),
            {"history": HISTORY.model_copy(update={"pooling": Mean()})},
            ["features.history.pooling: want none, since model.history reads a sequence, got mean"],
        ),
        (
            SASRec(),
            {"history": HISTORY.model_copy(update={"max_length": None})},
            ["features.history.max_length: want a number of events, since SASRec has a vector a place"],
        ),
    ],
)
def test_sasrec_says_what_it_misses(config: SASRec, features: dict[str, FeatureConfig], problems: list[str]) -> None:
    assert config.problems(features) == problems
