"""Models give the same for rows that lie one after the other as for padded ones: with a kernel written row by row in
place of that of a GPU, whose own tests are in tests/gpu.

T  events over all rows    H  heads    d  dim of a head    D  dim
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import CANDIDATES, Embedded, Extent, Jagged
from sharded_emb.layers import layout
from sharded_emb.layers.jagged import with_first
from sharded_emb.layers.pointwise_attention import Bias, JaggedRows, age_buckets
from sharded_emb.models import hstu
from sharded_emb.models.bert4rec import BERT4Rec
from sharded_emb.models.bst import BST
from sharded_emb.models.esasrec import ESASRec
from sharded_emb.models.sasrec import SASRec
from sharded_emb.pooling.none import NoPooling
from tests.tables import make_feature, make_table

DIM, ROWS, LONGEST = 8, 30, 40
LENGTHS = [0, 3, 1, 6, 0, 2]
FILLED = [1, 2, 2, 0, *[2] * 30]  # 65 events, filled up to 68 by rows of 2 and 1
MODELS: dict[str, Any] = {
    "sasrec": SASRec(heads=2, hidden=8, dropout=0.0),
    "esasrec": ESASRec(heads=2, hidden=8, dropout=0.0),
    "bert4rec": BERT4Rec(heads=2, hidden=8, dropout=0.0),
    "hstu": hstu.HSTU(heads=2, dropout=0.0),
    "timed hstu": hstu.HSTU(heads=2, dropout=0.0),
    "bst": BST(histories=("history",), target="item", heads=2, attention_hidden=8, dropout=0.0, hidden=(8,)),
}


def row_by_row(parts: Sequence[Tensor], queries: layout.Begins, keys: layout.Begins, causal: bool) -> Tensor:
    """What `packed_attention` gives."""
    rows = []
    for extents in (queries, keys, keys):
        assert extents.longest == int(extents.at_B1.diff().max())
        rows.append([slice(*ends) for ends in pairwise(extents.at_B1.tolist())])
    mixed = [
        F.scaled_dot_product_attention(
            *(part[row].transpose(0, 1) for part, row in zip(parts, of_parts, strict=True)), is_causal=causal
        )
        for of_parts in zip(*rows, strict=True)
    ]
    return torch.cat([each.transpose(0, 1) for each in mixed])


def pointwise_row_by_row(query: Tensor, key: Tensor, value: Tensor, bias: Bias, rows: JaggedRows) -> Tensor:
    """What `pointwise_attention` gives."""
    ends = zip(rows.offsets_B1.tolist(), rows.offsets_B1[1:].tolist(), strict=False)
    mixed = []
    for begin, place in ((first, place) for first, end in ends for place in range(end - first)):
        seen = slice(begin, begin + place + 1)
        scores_SH = (query[begin + place] * key[seen]).sum(-1) / query.shape[-1] ** 0.5
        scores_SH = scores_SH + bias.by_distance_LH[: place + 1].flip(0)
        if bias.ages is not None:
            when_T, by_age_AH, edges_A = bias.ages
            scores_SH = scores_SH + by_age_AH[age_buckets(when_T[begin + place] - when_T[seen], edges_A)]
        mixed.append((F.silu(scores_SH)[..., None] * value[seen]).sum(0) / (place + 1))
    return torch.stack(mixed) if mixed else value


def outputs(model: Any, lengths: list[int]) -> tuple[Tensor, ...]:
    """What it gives, and the gradient of the vectors that it read. Its numbers are which events are hidden, or seconds
    since the event before.
    """
    draw = torch.Generator().manual_seed(0)
    count, rows = sum(lengths), len(lengths)
    values_TD = torch.randn(count, DIM, generator=draw).requires_grad_()
    ids_T = torch.randint(2, ROWS, (count,), generator=draw)
    numbers_T = torch.rand(count, generator=draw)
    numbers_T = (numbers_T * 14).exp() if isinstance(model, hstu.HSTUModel) else (numbers_T < 0.5).float()
    extent = Extent(max(lengths), sum(map(bool, lengths)))
    history = Jagged(values_TD, ids_T, torch.tensor(lengths), extent, numbers_T)
    target_BD = torch.randn(rows, DIM, generator=draw)
    none = Jagged(torch.zeros(0, DIM), ids_T[:0], torch.zeros(rows, dtype=torch.int64), Extent(0, 0))
    found = model(Embedded({"item": target_BD}, {"history": history, CANDIDATES: none}))
    states = found if isinstance(found, Tensor) else found.states_SD
    (gradient,) = torch.autograd.grad(states.square().sum(), values_TD)
    return states, gradient


@pytest.mark.parametrize("lengths", [LENGTHS, [4], [0, 2, 0], FILLED], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_packed_rows_give_what_padded_ones_do(name: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    pooling: dict[str, Any] = {"pooling": NoPooling(times="times")} if name.startswith("timed") else {}
    features = [
        make_feature("history", "item", max_length=LONGEST, **pooling),
        make_feature("item", "item", pooling="sum"),
    ]
    model = MODELS[name].build([make_table("item", ROWS, DIM, *features[: 1 + (name == "bst")])])
    want = outputs(model, lengths)
    monkeypatch.setattr(layout, "packed_attention", row_by_row)
    monkeypatch.setattr(hstu, "pointwise_attention", pointwise_row_by_row)
    monkeypatch.setattr(layout, "PaddedRows", layout.Packed)
    for got, padded in zip(outputs(model, lengths), want, strict=True):
        torch.testing.assert_close(got, padded, rtol=0, atol=1e-5)


def launched(parts: Sequence[Tensor], queries: layout.Begins, keys: layout.Begins, causal: bool) -> Tensor:
    """What a kernel gives that is launched for some of the rows: of other events no numbers, and none as gradients."""
    assert len(queries.at_B1) - 1 <= 3
    own = [slice(int(each.at_B1[0]), int(each.at_B1[-1])) for each in (queries, keys, keys)]
    for part, events in zip(parts, own, strict=True):
        part.register_hook(lambda gradient, events=events: none_but(gradient, events))
    of_rows = [layout.Begins(each.at_B1 - each.at_B1[0], int(each.at_B1.diff().max())) for each in (queries, keys)]
    mixed = row_by_row([part[events] for part, events in zip(parts, own, strict=True)], *of_rows, causal)
    padded = F.pad(mixed, (0, 0, 0, 0, own[0].start, len(parts[0]) - own[0].stop))
    return none_but(padded, own[0])


def none_but(values: Tensor, kept: slice) -> Tensor:
    place = torch.arange(len(values))
    return values.where(((place >= kept.start) & (place < kept.stop))[:, None, None], torch.nan)


@pytest.mark.parametrize("one_each", [False, True], ids=["all", "one query a row"])
def test_more_rows_than_a_kernel_takes_attend_as_rows_do(one_each: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [2, 0, 3, 1, 4, 2, 0, 5, 1, 1] if not one_each else [2, 1, 3, 1, 4, 2, 1, 5, 1, 1]
    monkeypatch.setattr(layout, "_MOST_ROWS", 3)
    monkeypatch.setattr(layout, "_attended", launched)
    ends = [0, *accumulate(lengths)]
    keys = layout.Begins(torch.tensor(ends, dtype=torch.int32), max(lengths))
    queries = layout.Begins(torch.arange(len(ends), dtype=torch.int32), 1) if one_each else keys
    draw = torch.Generator().manual_seed(0)
    counts = (int(queries.at_B1[-1]), ends[-1], ends[-1])
    parts = [torch.randn(count, 2, 4, generator=draw, requires_grad=True) for count in counts]
    weights = torch.randn(counts[0], 2, 4, generator=draw)
    want, got = (attend(parts, queries, keys, not one_each) for attend in (row_by_row, layout.packed_attention))
    torch.testing.assert_close(got, want)
    wanted, found = (torch.autograd.grad((each * weights).sum(), parts) for each in (want, got))
    torch.testing.assert_close(found, wanted)


def test_a_vector_of_its_own_comes_before_the_events_of_each_row() -> None:
    values_TD, first_BD = torch.arange(6.0).view(3, 2), torch.full((3, 2), 9.0)
    jagged = Jagged(values_TD, torch.tensor([5, 6, 7]), torch.tensor([2, 0, 1]), Extent(2, 2))
    found = with_first(jagged, first_BD)
    assert found.values_TD[:, 0].tolist() == [9, 0, 2, 9, 9, 4]
    assert found.ids_T.tolist() == [-1, 5, 6, -1, -1, 7]
    assert found.lengths_B.tolist() == [3, 1, 2]
    assert found.extent == Extent(3, 3)


@pytest.mark.parametrize("longest", [0, 1])
def test_a_batch_without_an_event_attends_to_nothing(longest: int) -> None:
    """Rows of one event have no inputs, and are said to have a place."""
    lengths_B, ids_T = torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    nothing = Jagged(torch.zeros(0, 12), ids_T, lengths_B, Extent(longest, 0))
    for each in (layout.Packed(nothing, True), layout.PaddedRows(nothing, True), layout.PaddedRows(nothing, False)):
        attended = each.events(each.attend(each.values, 2))
        assert attended.shape == (0, 4)
