"""Models of click-through rates against their definitions, one row and one event after the other.

B  rows    D  dim    F  features    L  events of one row
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import Embedded, Extent, Jagged
from sharded_emb.models.base import ModelConfig
from sharded_emb.models.bst import BST
from sharded_emb.models.dcn import DCN
from sharded_emb.models.deepfm import DeepFM
from sharded_emb.models.dien import DIEN
from sharded_emb.models.dlrm import DLRM
from sharded_emb.models.factorization_machine import FactorizationMachine
from sharded_emb.models.sim import SIM, search
from sharded_emb.tables import FeatureConfig, TableConfig
from tests.tables import make_feature, make_table

D, ITEMS, LONGEST = 8, 40, 7
LIKED = [[2, 3, 4, 5, 6], [], [7], [8, 9, 10, 8, 11, 12, 13], [], [14, 15]]
DISLIKED = [[], [3], [], [4, 5], [], [6]]
POOLED = ["genres", "item", "user"]
TWO: dict[str, Any] = {"histories": ("liked", "disliked"), "hidden": (16, 8)}
MODELS: dict[str, ModelConfig] = {
    "fm": FactorizationMachine(),
    "deepfm": DeepFM(hidden=(16, 8)),
    "dlrm": DLRM(hidden=(16, 8)),
    "dcn": DCN(hidden=(16, 8), cross_layers=3),
    "dcn of low rank": DCN(hidden=(16, 8), rank=3),
    "bst": BST(**TWO, heads=2, attention_hidden=16, blocks=2),
    "dien": DIEN(**TWO),
    "sim": SIM(**TWO, found=3, attention_hidden=(8,)),
}
every_model = pytest.mark.parametrize("name", MODELS)


def build(name: str) -> Any:
    torch.manual_seed(1)
    sequences = [make_feature(each, "item", max_length=LONGEST) for each in ("liked", "disliked")]
    item = make_table("item", ITEMS, D, *sequences, make_feature("item", "item", pooling="sum"))
    others = [
        make_table(table, ITEMS, D, make_feature(feature, table, pooling="sum"))
        for feature, table in (("user", "user"), ("genres", "genre"))
    ]
    model = MODELS[name].build([others[0], item, others[1]]).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from zero biases and unit scales
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def jagged(rows: list[list[int]], padding: int = 0) -> Jagged:
    """With more padding the extent claims that a row elsewhere in the batch is longer."""
    table_ND = torch.randn(ITEMS, D, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ids_T = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    extent = Extent(max(map(len, rows)) + padding, sum(map(bool, rows)))
    return Jagged(table_ND[ids_T], ids_T, torch.tensor([len(row) for row in rows]), extent)


def clicks(liked: list[list[int]], disliked: list[list[int]]) -> Embedded:
    draw = torch.Generator().manual_seed(5)
    pooled = {name: torch.randn(len(liked), D, generator=draw).requires_grad_() for name in POOLED}
    return Embedded(pooled, {"liked": jagged(liked), "disliked": jagged(disliked)})


@every_model
def test_a_row_alone_has_the_logit_it_has_beside_others(name: str) -> None:
    model, whole = build(name), clicks(LIKED, DISLIKED)
    logit_B = model(whole)
    assert logit_B.shape == (len(LIKED),)
    for row in range(len(LIKED)):
        pooled = {each: vectors[row : row + 1] for each, vectors in whole.pooled.items()}
        for padding in range(LONGEST + 1 - len(LIKED[row])):
            sequences = {"liked": jagged([LIKED[row]], padding), "disliked": jagged([DISLIKED[row]])}
            torch.testing.assert_close(model(Embedded(pooled, sequences))[0], logit_B[row], atol=2e-6, rtol=0)


@every_model
def test_every_feature_moves_its_own_row_alone(name: str) -> None:
    model, whole = build(name), clicks(LIKED, DISLIKED)
    logit_B = model(whole)
    for row in range(len(LIKED)):
        inputs = {**whole.pooled, **{each: events.values_TD for each, events in whole.sequences.items()}}
        gradients = dict(
            zip(inputs, torch.autograd.grad(logit_B[row], inputs.values(), retain_graph=True), strict=True)
        )
        for feature in POOLED:
            assert [bool(of_row.any()) for of_row in gradients[feature]] == [each == row for each in range(len(LIKED))]
        for feature, rows in (("liked", LIKED), ("disliked", DISLIKED)):
            moved = [bool(part.any()) for part in gradients[feature].split([len(each) for each in rows])]
            assert moved == [each == row and bool(events) for each, events in enumerate(rows)]


@every_model
@pytest.mark.parametrize("rows", [LIKED, [[], []], [[5], []]])
def test_empty_histories_give_finite_gradients(name: str, rows: list[list[int]]) -> None:
    model, whole = build(name).train(), clicks(rows, [[] for _ in rows])
    logit_B = model(whole)
    weights = [*whole.pooled.values(), whole.sequences["liked"].values_TD, *model.parameters()]
    gradients = torch.autograd.grad(logit_B.sum(), weights, allow_unused=True)
    assert torch.isfinite(logit_B).all()
    assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)


def row_of(whole: Embedded, row: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Pooled vectors (D) and events (L, D) of one row."""
    pooled = {name: vectors[row] for name, vectors in whole.pooled.items()}
    events = {name: each.values_TD.split(each.lengths_B.tolist())[row] for name, each in whole.sequences.items()}
    return pooled, events


def fields(pooled: dict[str, Tensor], events: dict[str, Tensor]) -> list[Tensor]:
    """In the order of names; the mean of a sequence, zeros for none."""
    means = {name: each.mean(0) if len(each) else torch.zeros(D) for name, each in events.items()}
    return [vector for _, vector in sorted({**pooled, **means}.items())]


def slow_fm(vectors: list[Tensor]) -> Tensor:
    total = sum((vector[0] for vector in vectors), torch.zeros(()))
    for first in range(len(vectors)):
        for second in range(first + 1, len(vectors)):
            total = total + vectors[first][1:] @ vectors[second][1:]
    return total


def slow_dlrm(model: Any, vectors: list[Tensor]) -> Tensor:
    count = len(vectors)
    products = [vectors[a] @ vectors[b] for a in range(count) for b in range(a + 1, count)]
    return model.net(torch.cat([*vectors, torch.stack(products)]))[0]


def slow_dcn(model: Any, vectors: list[Tensor]) -> Tensor:
    inputs = torch.cat(vectors)
    crossed = inputs
    for matrix in model.cross:
        crossed = inputs * matrix(crossed) + crossed
    return (model.crossed(crossed) + model.net(inputs))[0]


def attended(block: Any, x_LD: Tensor) -> Tensor:
    """A transformer block on one row: everything looks at everything."""
    query, key, value = block.project_in(block.attention_norm(x_LD)).chunk(3, 1)
    heads = []
    for part in (slice(0, D // 2), slice(D // 2, D)):
        weights_LL = (query[:, part] @ key[:, part].T / math.sqrt(D / 2)).softmax(1)
        heads.append(weights_LL @ value[:, part])
    x_LD = x_LD + block.project_out(torch.cat(heads, 1))
    return x_LD + block.contract(F.gelu(block.expand(block.feed_forward_norm(x_LD))))


def slow_bst(model: Any, pooled: dict[str, Tensor], events: dict[str, Tensor]) -> Tensor:
    parts = [pooled[name] for name in sorted(pooled)]
    for name, seen_LD in events.items():
        reader = model.readers[name]
        x_LD = torch.cat([pooled["item"][None], seen_LD])
        back = [0, *range(len(seen_LD), 0, -1)]
        x_LD = x_LD + reader.places_LD[back]
        for block in reader.blocks:
            x_LD = attended(block, x_LD)
        parts.append(reader.norm(x_LD[0]))
    return model.net(torch.cat(parts))[0]


def slow_dien(model: Any, pooled: dict[str, Tensor], events: dict[str, Tensor]) -> Tensor:
    parts = [pooled[name] for name in sorted(pooled)]
    for name, seen_LD in events.items():
        net, state_D = model.readers[name], torch.zeros(D)
        if len(seen_LD):
            cell, state, found = nn.GRUCell(D, D), torch.zeros(D), []
            cell.load_state_dict({f"{w}": getattr(net.extract, f"{w}_l0") for w in cell.state_dict()})
            for event in seen_LD:
                state = cell(event, state)
                found.append(state)
            weights_L = torch.stack([net.attend(each) @ pooled["item"] for each in found]).softmax(0)
            for each, weight in zip(found, weights_L, strict=True):
                (update, reset, new), (u, r, n) = net.inputs(each).chunk(3), net.states(state_D).chunk(3)
                candidate = torch.tanh(new + torch.sigmoid(reset + r) * n)
                gate = weight * torch.sigmoid(update + u)
                state_D = (1 - gate) * state_D + gate * candidate
        parts += [state_D, state_D * pooled["item"]]
    return model.net(torch.cat(parts))[0]


def slow_sim(model: Any, pooled: dict[str, Tensor], events: dict[str, Tensor]) -> Tensor:
    target_D = pooled["item"]
    parts = [pooled[name] for name in sorted(pooled)]
    for name, seen_LD in events.items():
        best = sorted(seen_LD, key=lambda event: -float((event @ target_D).detach()))[:3]
        interest_D = torch.zeros(D)
        for seen_D in best:
            pair = torch.cat([seen_D, target_D, seen_D - target_D, seen_D * target_D])
            interest_D = interest_D + torch.sigmoid(model.readers[name].net(pair)) * seen_D / len(best)
        interest_D = F.layer_norm(interest_D, (D,))
        parts += [interest_D, interest_D * target_D]
    return model.net(torch.cat(parts))[0]


SLOW = {
    "fm": lambda model, pooled, events: slow_fm(fields(pooled, events)) + model.bias,
    "deepfm": lambda model, pooled, events: (
        slow_fm(fields(pooled, events)) + model.net(torch.cat(fields(pooled, events)))[0]
    ),
    "dlrm": lambda model, pooled, events: slow_dlrm(model, fields(pooled, events)),
    "dcn": lambda model, pooled, events: slow_dcn(model, fields(pooled, events)),
    "dcn of low rank": lambda model, pooled, events: slow_dcn(model, fields(pooled, events)),
    "bst": slow_bst,
    "dien": slow_dien,
    "sim": slow_sim,
}


@every_model
def test_a_model_equals_its_definition(name: str) -> None:
    model, whole = build(name), clicks(LIKED, DISLIKED)
    logit_B = model(whole)
    for row in range(len(LIKED)):
        torch.testing.assert_close(logit_B[row], SLOW[name](model, *row_of(whole, row)), atol=5e-6, rtol=1e-5)


def test_a_search_finds_the_events_most_like_the_target_and_nothing_else_matters() -> None:
    model, whole = build("sim"), clicks(LIKED, DISLIKED)
    logit_B = model(whole)
    events = whole.sequences["liked"]
    (gradient_TD,) = torch.autograd.grad(logit_B[3], events.values_TD)
    of_row_LD, moved_L = events.values_TD.split(events.lengths_B.tolist())[3], gradient_TD.abs().sum(1) > 0
    likeness_L = (of_row_LD @ whole.pooled["item"][3]).detach()
    best = {*likeness_L.topk(3).indices.tolist()}
    assert {*moved_L.split(events.lengths_B.tolist())[3].nonzero().flatten().tolist()} == best


def test_the_order_of_events_matters_to_bst_and_dien_alone() -> None:
    for name in MODELS:
        whole, turned = clicks(LIKED, DISLIKED), clicks([row[::-1] for row in LIKED], DISLIKED)
        model = build(name)
        moved_B = (model(whole) - model(turned)).abs() > 1e-5
        assert moved_B.tolist() == [name in ("bst", "dien") and row != row[::-1] for row in LIKED], name


HISTORY = FeatureConfig(table="item", column="items", max_length=5)
ITEM = FeatureConfig(table="item", column="item", pooling="sum")  # type: ignore[arg-type]
USER = FeatureConfig(table="user", column="user", pooling="sum")  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [FactorizationMachine(), DeepFM(), DLRM()], ids=lambda config: type(config).__name__)
def test_models_that_multiply_vectors_want_one_dim(config: ModelConfig) -> None:
    tables = {"item": TableConfig(rows=ITEMS, dim=8), "user": TableConfig(rows=ITEMS, dim=4)}
    assert config.problems({"item": ITEM}) == []
    assert config.table_problems({"item": ITEM, "history": HISTORY}, tables) == []
    assert config.table_problems({"item": ITEM, "user": USER}, tables) == [
        f"tables.user.dim: want 8, as tables.item has it, since {type(config).__name__} multiplies vectors with each "
        "other, got 4"
    ]
    assert DCN().table_problems({"item": ITEM, "user": USER}, tables) == []
    assert DCN().problems({}) == ["features: want at least one, got none"]


def test_bst_says_what_it_misses() -> None:
    endless = HISTORY.model_copy(update={"max_length": None})
    assert BST().problems({"history": endless, "item": ITEM}) == [
        "features.history.max_length: want a number of events, since BST has a vector a place"
    ]
    tables = {"item": TableConfig(rows=ITEMS, dim=8)}
    assert BST(heads=3).table_problems({"history": HISTORY, "item": ITEM}, tables) == [
        "model.heads: want a divisor of tables.item.dim (8), got 3"
    ]
    assert SIM(target="itme").problems({"history": HISTORY, "item": ITEM}) == [
        "model.target: want a feature, got 'itme'; did you mean item?"
    ]


def beside(events_TD: Tensor, others_TD: Tensor) -> Jagged:
    """Two rows."""
    lengths = [len(events_TD), len(others_TD)]
    extent = Extent(max(lengths), sum(map(bool, lengths)))
    return Jagged(torch.cat([events_TD, others_TD]), torch.arange(sum(lengths)), torch.tensor(lengths), extent)


def test_of_events_that_are_equally_alike_sim_finds_the_first_whatever_else_is_in_the_batch() -> None:
    draw = torch.Generator().manual_seed(0)
    row, target = torch.randn(40, 4, generator=draw), torch.randn(1, 4, generator=draw)
    for events, asked, want in (
        (row, torch.zeros(1, 4), [0, 1, 2]),  # of an item that was dropped, or is padding
        (row[torch.arange(40) % 4], target, None),
        (row[:2], target, [0, 1]),
    ):
        found = [
            search(beside(events, torch.randn(other, 4, generator=draw)), asked.repeat(2, 1), 3)
            for other in (0, 30, 60, 500, 2000)
        ]
        first, there = found[0]
        if want is not None:
            assert torch.equal(first[0, : len(want)], events[want])
        else:
            likeness = events @ target[0]
            best = likeness == likeness.max()
            assert torch.equal(first[0], events[best][:3])
        for other, others_there in found:
            assert torch.equal(other[0][: there[0].sum()], first[0][: there[0].sum()])
            assert int(others_there[0].sum()) == int(there[0].sum()) == min(3, len(events))
