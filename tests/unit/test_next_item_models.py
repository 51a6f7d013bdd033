"""What every next-item model promises, and the definition of each, written row by row without padding.

B  rows    S  events that have a successor    L  events of one row    D  dim    N  rows of the item table
"""

import bisect
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import CANDIDATES, Embedded, Jagged
from sharded_emb.embeddings.lookup import candidate_feature
from sharded_emb.layers.pointwise_attention import age_buckets, age_edges
from sharded_emb.models.base import NextItem, NextItemModel
from sharded_emb.models.compared import ComparedConfig
from sharded_emb.models.esasrec import ESASRec
from sharded_emb.models.gru4rec import GRU4Rec
from sharded_emb.models.hstu import HSTU
from sharded_emb.models.two_tower import TwoTower
from sharded_emb.pooling.none import NoPooling
from sharded_emb.tables import FeatureConfig, TableConfig
from tests.tables import make_feature, make_table
from tests.unit.test_models import HISTORIES, ITEMS, LONGEST, D, item_vectors, jagged

TIMED = {"_target_": "none", "times": "times"}
MODELS: dict[str, ComparedConfig] = {
    "hstu": HSTU(heads=2),
    "timed hstu": HSTU(heads=2, time_buckets=40, blocks=1),
    "esasrec": ESASRec(heads=2, hidden=16),
    "gru4rec": GRU4Rec(hidden=12, layers=2),
    "two_tower": TwoTower(hidden=16),
    "cosine": ESASRec(blocks=2, hidden=16, similarity="cosine", temperature=0.1),
}
every_model = pytest.mark.parametrize("name", MODELS)


def build(name: str, config: ComparedConfig | None = None) -> NextItemModel:
    torch.manual_seed(1)
    pooling = TIMED if name.startswith("timed") else "none"
    history = make_feature("history", "item", pooling=pooling, max_length=LONGEST)
    model = (config or MODELS[name]).build([make_table("item", ITEMS, D, history, candidate_feature("item"))]).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from zero biases and unit scales
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def seconds(rows: list[list[int]], start: float = 1.6e9) -> Tensor:
    """Times of events, one row after the other: the gaps depend on the row and the place alone."""
    return torch.tensor(
        [start + 40.0 * (len(row) + 1) ** 2 * place**3 for row in rows for place in range(len(row))],
        dtype=torch.float64,
    )


def events(rows: list[list[int]], table_ND: Tensor, padding: int = 0) -> Jagged:
    plain = jagged(rows, table_ND, padding)
    read = {"times": seconds(rows).numpy()}
    gaps_T = NoPooling(times="times").numbers(read, plain.lengths_B.numpy())
    return Jagged(plain.values_TD, plain.ids_T, plain.lengths_B, plain.extent, torch.from_numpy(gaps_T))


def next_item(model: NextItemModel, rows: list[list[int]], table_ND: Tensor, padding: int = 0) -> NextItem:
    candidates = jagged([[20, 21, 22], *[[] for _ in rows[1:]]], table_ND)
    return model(Embedded({}, {"history": events(rows, table_ND, padding), CANDIDATES: candidates}))


def states(model: NextItemModel, rows: list[list[int]], padding: int = 0) -> list[Tensor]:
    """By row the states after each of its events but the last."""
    output = next_item(model, rows, item_vectors(), padding)
    return [output.states_SD[output.row_S == row] for row in range(len(rows))]


@every_model
def test_a_state_depends_on_every_event_so_far_and_on_no_later_one(name: str) -> None:
    model = build(name)
    (before_SD,) = states(model, [[2, 3, 4, 5, 6, 7]])
    for changed in range(6):
        row = [2, 3, 4, 5, 6, 7]
        row[changed] = 30
        (after_SD,) = states(model, [row])
        difference_S = (before_SD - after_SD).abs().amax(1)
        assert difference_S[:changed].tolist() == pytest.approx([0] * changed, abs=1e-6)
        assert (difference_S[changed:] > 1e-4).all()


@every_model
def test_a_state_depends_on_no_other_row(name: str) -> None:
    model = build(name)
    before = states(model, HISTORIES)
    for changed in range(len(HISTORIES)):
        rows = [[31] * len(history) if row == changed else history for row, history in enumerate(HISTORIES)]
        for row, after_SD in enumerate(states(model, rows)):
            if row != changed:
                torch.testing.assert_close(after_SD, before[row], atol=1e-6, rtol=0)


@every_model
def test_padding_changes_no_state(name: str) -> None:
    model = build(name)
    together = states(model, HISTORIES)
    for row, history in enumerate(HISTORIES):
        for padding in range(LONGEST + 1 - max(len(history), 2)):
            (alone_SD,) = states(model, [history], padding)
            torch.testing.assert_close(alone_SD, together[row], atol=2e-6, rtol=0)


@every_model
def test_a_query_is_the_state_before_the_last_event(name: str) -> None:
    model, table_ND = build(name), item_vectors()
    rows = [history for history in HISTORIES if len(history) > 1]
    queries_BD = model.queries(Embedded({}, {"history": events(rows, table_ND)}))
    last_BD = torch.stack([of_row_SD[-1] for of_row_SD in states(model, rows)])
    torch.testing.assert_close(queries_BD, last_BD, atol=1e-6, rtol=0)


@every_model
@pytest.mark.parametrize("rows", [HISTORIES, [[], []], [[5], []], [[], [5, 6]]])
def test_gradients_reach_every_weight_and_the_rows_read_and_are_finite(name: str, rows: list[list[int]]) -> None:
    model, table_ND = build(name).train(), item_vectors()
    output = next_item(model, rows, table_ND)
    assert len(output.states_SD) == sum(max(len(row) - 1, 0) for row in rows)
    weights = [table_ND, *model.parameters()]
    loss = (output.states_SD @ output.candidates_KD.T).sum() + (output.states_SD * output.positives_SD).sum()
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    if rows is HISTORIES:
        read = {item for row in rows if len(row) > 1 for item in row} | {20, 21, 22}
        assert {*gradients[0].abs().sum(1).nonzero().flatten().tolist()} == read  # type: ignore[union-attr]
        assert all(gradient.any() for gradient in gradients)  # type: ignore[union-attr]


def one_row(model: NextItemModel, row: list[int], padding: int = 0) -> tuple[Tensor, Tensor]:
    """The vectors (L, D) that a row reads, and the states after them."""
    (found_LD,) = states(model, [[*row, 2]], padding)
    return item_vectors()[row], found_LD


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def slow_hstu(model: Any, x_LD: Tensor, times_L: Tensor | None) -> Tensor:
    """One query, one head, one event after the other, as Zhai et al. write it."""
    x_LD = x_LD + model.places_LD[: len(x_LD)]
    for unit in model.units:
        gate, value, query, key = (None,) * 4
        gate, query, key, value = silu(unit.project_in(unit.norm(x_LD))).chunk(4, 1)
        mixed_LD = torch.zeros_like(x_LD)
        for i in range(len(x_LD)):
            for head in range(unit.heads):
                part = slice(head * D // unit.heads, (head + 1) * D // unit.heads)
                for j in range(i + 1):
                    score = query[i, part] @ key[j, part] / math.sqrt(D / unit.heads) + unit.by_distance_LH[i - j, head]
                    if times_L is not None:
                        age = times_L[i].item() - times_L[j].item()
                        bucket = min(int(math.log(1 + age) / math.log(1.35)), len(unit.by_age.weight) - 1)
                        score = score + unit.by_age.weight[bucket, head]
                    mixed_LD[i, part] = mixed_LD[i, part] + silu(score) * value[j, part] / (i + 1)
        x_LD = x_LD + unit.project_out(unit.mixed_norm(mixed_LD) * gate)
    return model.norm(x_LD)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("name", ["hstu", "timed hstu"])
def test_hstu_is_pointwise_attention_with_a_bias_of_distance_and_age(name: str, padding: int) -> None:
    model, row = build(name), [4, 5, 6, 7]
    vectors_LD, found_LD = one_row(model, row, padding)
    times_L = seconds([[*row, 2]])[:-1] if name == "timed hstu" else None
    torch.testing.assert_close(found_LD, slow_hstu(model, vectors_LD, times_L), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("buckets", [1, 2, 64, 120])
def test_the_bucket_of_an_age_is_the_last_one_that_it_has_reached(buckets: int) -> None:
    edges_A = age_edges(buckets)
    ages = torch.cat([torch.arange(-3, 100_000), *(edges_A + around for around in (-1, 0, 1))])
    want = [bisect.bisect_right(edges_A.tolist(), max(age, 0)) - 1 for age in ages.tolist()]
    assert age_buckets(ages, edges_A).tolist() == want
    assert edges_A.tolist()[:5] == [0, 1, 1, 2, 3][:buckets]


def test_hstu_reads_times_where_the_history_has_them_and_only_differences() -> None:
    model, table_ND, row = build("timed hstu"), item_vectors(), [[4, 5, 6, 7, 8]]
    plain = jagged(row, table_ND)

    def query(times: list[float]) -> Tensor:
        gaps_T = NoPooling(times="times").numbers({"times": np.array(times)}, plain.lengths_B.numpy())
        history = Jagged(plain.values_TD, plain.ids_T, plain.lengths_B, plain.extent, torch.from_numpy(gaps_T))
        return model.queries(Embedded({}, {"history": history}))

    early = query([0, 10, 20, 5000, 6000])
    assert torch.equal(query([1.7e9 + t for t in (0, 10, 20, 5000, 6000)]), early)
    assert torch.equal(query([0, 10, 20, 5000, 9999]), early), "the time of what is asked for is not known"
    assert not torch.allclose(query([0, 10, 4000, 5000, 6000]), early, atol=1e-4)


def test_gaps_add_up_in_whole_seconds_however_many_come_before() -> None:
    model, table_ND = build("timed hstu"), item_vectors()

    def queries(rows: list[list[int]], gaps: list[float]) -> Tensor:
        return model.queries(Embedded({}, {"history": replace(jagged(rows, table_ND), numbers_T=torch.tensor(gaps))}))

    row, gaps = [4, 5, 6, 7, 8], [0.0, 1, 1, 1, 1]
    after = queries([[4, 5, 6], row], [0, 2.0**26, 0, *gaps])  # whose sums are 8 apart in float32
    torch.testing.assert_close(after[1:], queries([row], gaps))
    assert not torch.allclose(after[1:], queries([row], [0.0] * 5), atol=1e-4)


def test_gaps_begin_anew_in_each_row() -> None:
    times = {"times": np.array([1.5e9, 1.5e9 + 7, 3.0, 4.0, 4.5])}
    gaps_T = NoPooling(times="times").numbers(times, np.array([2, 0, 3]))
    assert gaps_T.dtype == np.float32
    assert gaps_T.tolist() == [0, 7, 0, 1, 0.5]
    assert NoPooling().numbers({}, np.array([2])) is None


def test_esasrec_gates_what_its_blocks_add() -> None:
    model: Any = build("esasrec")
    x_LD, found_LD = one_row(model, [4, 5, 6, 7])
    x_LD = x_LD + model.places_LD[: len(x_LD)]
    for block in model.blocks:
        query, key, value = block.project_in(block.attention_norm(x_LD)).chunk(3, 1)
        heads = []
        for head in range(2):
            part = slice(head * D // 2, (head + 1) * D // 2)
            scores_LL = query[:, part] @ key[:, part].T / math.sqrt(D / 2)
            later_LL = torch.ones_like(scores_LL).triu(1).bool()
            heads.append(scores_LL.masked_fill(later_LL, -torch.inf).softmax(1) @ value[:, part])
        x_LD = x_LD + torch.sigmoid(block.attention_gate(x_LD)) * block.project_out(torch.cat(heads, 1))
        gate, hidden = block.expand(block.feed_forward_norm(x_LD)).chunk(2, 1)
        x_LD = x_LD + torch.sigmoid(block.feed_forward_gate(x_LD)) * block.contract(silu(gate) * hidden)
    torch.testing.assert_close(found_LD, model.norm(x_LD), atol=1e-5, rtol=1e-5)


def test_gru4rec_is_cells_one_event_after_the_other() -> None:
    model: Any = build("gru4rec")
    x_LD, found_LD = one_row(model, [4, 5, 6, 7])
    for layer in range(2):
        cell = nn.GRUCell(x_LD.shape[1], 12)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        cell.load_state_dict({name: getattr(model.gru, f"{name}_l{layer}") for name in names})
        state_H, after = torch.zeros(12), []
        for event in x_LD:
            state_H = cell(event, state_H)
            after.append(state_H)
        x_LD = torch.stack(after)
    torch.testing.assert_close(found_LD, model.norm(model.project(x_LD)), atol=1e-5, rtol=1e-5)


def test_two_tower_pools_by_a_weight_of_distance() -> None:
    model: Any = build("two_tower")
    x_LD, found_LD = one_row(model, [4, 5, 6, 7])
    for place, found_D in enumerate(found_LD):
        weights = [model.weight_logits_L[place - event].exp() for event in range(place + 1)]
        pooled_D = sum(w * x_D for w, x_D in zip(weights, x_LD, strict=False)) / sum(weights)
        torch.testing.assert_close(found_D, pooled_D + model.user_tower(pooled_D), atol=1e-5, rtol=1e-5)


def test_the_item_tower_turns_positives_and_candidates_alike_and_may_be_left_out() -> None:
    table_ND = item_vectors()
    model: Any = build("two_tower")
    output = next_item(model, HISTORIES, table_ND)
    want_KD = table_ND[20:23] + model.item_tower(table_ND[20:23])
    torch.testing.assert_close(output.candidates_KD, want_KD)
    torch.testing.assert_close(output.positives_SD, model.items(table_ND[output.positive_ids_S]))
    assert build("two_tower", TwoTower(hidden=16, item_tower=False)).items(table_ND) is table_ND


def test_cosine_states_are_unit_vectors_over_the_temperature() -> None:
    output = next_item(build("cosine"), HISTORIES, item_vectors())
    torch.testing.assert_close(output.states_SD.norm(dim=1), torch.full((len(output.states_SD),), 10.0))
    torch.testing.assert_close(output.candidates_KD, F.normalize(item_vectors()[20:23], dim=1))


@pytest.mark.parametrize("config", [HSTU(), ESASRec(), TwoTower()], ids=lambda config: type(config).__name__)
def test_a_model_of_places_wants_a_longest_length(config: ComparedConfig) -> None:
    history = FeatureConfig(table="item", column="items")
    assert config.problems({"history": history}) == [
        f"features.history.max_length: want a number of events, since {type(config).__name__} has a vector a place"
    ]
    assert GRU4Rec().problems({"history": history}) == []


@pytest.mark.parametrize("config", [HSTU(heads=3), ESASRec(heads=3)])
def test_heads_divide_the_dim_of_the_items(config: ComparedConfig) -> None:
    history = FeatureConfig(table="item", column="items", max_length=5)
    assert config.table_problems({"history": history}, {"item": TableConfig(rows=ITEMS, dim=8)}) == [
        "model.heads: want a divisor of tables.item.dim (8), got 3"
    ]
