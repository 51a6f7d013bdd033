"""What DIN promises: a row's logit comes from that row, and from past events in no order.

B  rows    D  dim of the item table    N  its rows
"""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sharded_emb.batch import Embedded, Extent, Jagged
from sharded_emb.models.din import DIN
from sharded_emb.tables import Feature, FeatureConfig
from tests.tables import make_feature, make_table

D, ITEMS = 8, 40
LIKED = [[2, 3, 4, 5, 6], [], [7], [8, 9, 10, 8, 11, 12, 13], [], [14, 15]]
DISLIKED = [[], [3], [], [4, 5], [], [6]]
POOLED = {"genres": 4, "item": D, "user": 4}
FEATURES = {"liked": "item", "disliked": "item", "item": "item", "genres": "genre", "user": "user"}


def feature(name: str) -> Feature:
    pooling = "sum" if name in POOLED else "none"
    return make_feature(name, FEATURES[name], pooling=pooling, max_length=7)


def din(**options: Any) -> nn.Module:
    """With two histories, each of which has an attention unit of its own."""
    torch.manual_seed(1)
    tables = [
        make_table(
            name,
            ITEMS,
            D if name == "item" else 4,
            *(feature(each) for each in FEATURES if FEATURES[each] == name),
        )
        for name in ("user", "item", "genre")
    ]
    small = {"histories": ("liked", "disliked"), "attention_hidden": (8,), "hidden": (16, 8)}
    return DIN(**{**small, **options}).build(tables).eval()


def jagged(rows: list[list[int]], padding: int = 0) -> Jagged:
    """With more padding the extent claims that a row elsewhere in the batch is longer."""
    table_ND = torch.randn(ITEMS, D, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ids_T = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    extent = Extent(max(map(len, rows)) + padding, sum(map(bool, rows)))
    return Jagged(table_ND[ids_T], ids_T, torch.tensor([len(row) for row in rows]), extent)


def clicks(liked: list[list[int]], disliked: list[list[int]]) -> Embedded:
    draw = torch.Generator().manual_seed(5)
    pooled = {name: torch.randn(len(liked), dim, generator=draw).requires_grad_() for name, dim in POOLED.items()}
    return Embedded(pooled, {"liked": jagged(liked), "disliked": jagged(disliked)})


def slow_logit(model: nn.Module, pooled: dict[str, Tensor], histories: dict[str, Tensor]) -> Tensor:
    """The slow twin: one row, one event after the other, as Zhou et al. write it."""
    target_D = pooled["item"]
    parts = [pooled[name] for name in sorted(POOLED)]
    for name, events in histories.items():
        interest_D = torch.zeros(D)
        for seen_D in events:
            pair = torch.cat([seen_D, target_D, seen_D - target_D, seen_D * target_D])
            weight = torch.sigmoid(model.get_submodule(f"readers.{name}.net")(pair))
            interest_D = interest_D + weight * seen_D / len(events)
        interest_D = (interest_D - interest_D.mean()) / (interest_D.var(unbiased=False) + 1e-5).sqrt()
        parts += [interest_D, interest_D * target_D]
    return model.get_submodule("net")(torch.cat(parts))[0]


def test_a_row_equals_the_slow_twin_and_so_depends_on_no_other() -> None:
    model, whole = din(), clicks(LIKED, DISLIKED)
    logit_B = model(whole)
    assert logit_B.shape == (len(LIKED),)
    for row in range(len(LIKED)):
        pooled = {name: vectors[row] for name, vectors in whole.pooled.items()}
        histories = {name: each.values_TD.split(each.lengths_B.tolist())[row] for name, each in whole.sequences.items()}
        torch.testing.assert_close(logit_B[row], slow_logit(model, pooled, histories), atol=1e-6, rtol=0)


def test_a_row_alone_has_the_logit_it_has_beside_others() -> None:
    model, whole = din(), clicks(LIKED, DISLIKED)
    logit_B = model(whole)
    for row in range(len(LIKED)):
        pooled = {name: vectors[row : row + 1] for name, vectors in whole.pooled.items()}
        sequences = {"liked": jagged([LIKED[row]], padding=3), "disliked": jagged([DISLIKED[row]])}
        torch.testing.assert_close(model(Embedded(pooled, sequences))[0], logit_B[row], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", POOLED)
def test_every_pooled_feature_moves_its_own_row_alone(name: str) -> None:
    whole = clicks(LIKED, DISLIKED)
    logit_B = din()(whole)
    for row in range(len(LIKED)):
        (gradient_BD,) = torch.autograd.grad(logit_B[row], whole.pooled[name], retain_graph=True)
        assert [bool(of_row.any()) for of_row in gradient_BD] == [each == row for each in range(len(LIKED))]


def test_the_order_of_past_events_does_not_matter() -> None:
    model, whole = din(), clicks(LIKED, DISLIKED)
    turned = Embedded(whole.pooled, {**whole.sequences, "liked": jagged([row[::-1] for row in LIKED])})
    torch.testing.assert_close(model(turned), model(whole), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "rows"), [("liked", LIKED), ("disliked", DISLIKED)])
def test_other_past_events_move_the_logit_of_their_row(name: str, rows: list[list[int]]) -> None:
    model, whole = din(), clicks(LIKED, DISLIKED)
    others = Embedded(whole.pooled, {**whole.sequences, name: jagged([[item + 20 for item in row] for row in rows])})
    moved_B = (model(others) - model(whole)).abs() > 1e-5
    assert moved_B.tolist() == [bool(row) for row in rows]


def test_histories_are_told_apart() -> None:
    model = din()
    logit_B, exchanged_B = model(clicks(LIKED, DISLIKED)), model(clicks(DISLIKED, LIKED))
    differs_B = (logit_B - exchanged_B).abs() > 1e-5
    assert differs_B.tolist() == [liked != disliked for liked, disliked in zip(LIKED, DISLIKED, strict=True)]


def test_one_history_is_enough() -> None:
    whole = clicks(LIKED, DISLIKED)
    model = din(histories=("liked",))
    assert model(whole).shape == (len(LIKED),)
    assert torch.equal(model(clicks(LIKED, LIKED)), model(whole))


@pytest.mark.parametrize("rows", [LIKED, [[], []], [[5], []]])
def test_empty_histories_give_finite_gradients(rows: list[list[int]]) -> None:
    model, whole = din(dropout=0.1).train(), clicks(rows, [[] for _ in rows])
    logit_B = model(whole)
    assert torch.isfinite(logit_B).all()
    weights = [whole.sequences["liked"].values_TD, *whole.pooled.values(), *model.parameters()]
    gradients = torch.autograd.grad(logit_B.sum(), weights)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


HISTORY = FeatureConfig(table="item", column="items", max_length=5)
ITEM = FeatureConfig(table="item", column="item", pooling="sum")


@pytest.mark.parametrize(
    ("config", "features", "problems"),
    [
        (DIN(), {"history": HISTORY, "item": ITEM}, []),
        (
            DIN(target="film"),
            {"past": HISTORY, "item": ITEM},
            [
                "model.histories: want a feature, got 'history'; there are: item, past",
                "model.target: want a feature, got 'film'; there are: item, past",
            ],
        ),
        (
            DIN(histories=("liked", "item")),
            {"liked": HISTORY, "item": ITEM},
            ["features.item.pooling: want none, since model.histories reads a sequence, got sum"],
        ),
        (
            DIN(),
            {"history": HISTORY, "item": FeatureConfig(table="film", column="item")},
            [
                "features.item.pooling: want sum, since model.target reads one vector, got none",
                "features.history.table: want film, the table of model.target, got item",
            ],
        ),
    ],
)
def test_din_says_what_it_misses(config: DIN, features: dict[str, FeatureConfig], problems: list[str]) -> None:
    assert config.problems(features) == problems


def test_din_wants_a_history() -> None:
    with pytest.raises(ValidationError, match=r"^1 validation error for DIN\nhistories\n"):
        DIN(histories=())
