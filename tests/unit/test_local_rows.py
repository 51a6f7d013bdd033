"""Rows that are updated after the backward pass, against nn.Embedding, nn.EmbeddingBag and dictionaries of sums."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sharded_emb.distributed.kernels import Lookup
from sharded_emb.embeddings.local_rows import Cut, LocalRows, by_row, merged
from sharded_emb.embeddings.lookup import Embeddings, _of_whole
from sharded_emb.optim.adam import Adam
from sharded_emb.optim.base import TouchedRows
from sharded_emb.optim.sgd import SGD
from sharded_emb.tables import Table
from tests.tables import make_feature, make_table

ROWS, DIM = 11, 4
PROFILE = settings(derandomize=True, max_examples=60, deadline=None)
# extreme ids, duplicates and empty bags among them
BAGS = st.lists(st.lists(st.sampled_from([0, 1, 5, 5, ROWS - 1]) | st.integers(0, ROWS - 1), max_size=6), max_size=7)
MAX_NORMS = st.none() | st.floats(0.5, 3.0)


def weights() -> Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))


def local_rows(table: Table, weight_RD: Tensor) -> LocalRows:
    return LocalRows([Cut(table, range(table.rows))], weight_RD)


def flat(bags: list[list[int]]) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([each for bag in bags for each in bag], dtype=torch.int64)
    return ids, torch.tensor([0, *(len(bag) for bag in bags)]).cumsum(0)


@PROFILE
@given(BAGS, MAX_NORMS, st.sampled_from([1.0, 2.0]), st.booleans())
def test_sums_and_their_update_are_those_of_an_embedding_bag(
    bags: list[list[int]], max_norm: float | None, norm_type: float, by_frequency: bool
) -> None:
    config = {"max_norm": max_norm, "norm_type": norm_type, "scale_grad_by_freq": by_frequency, "padding_row": None}
    rows = local_rows(make_table("t", ROWS, DIM, **config), weights())
    ids, offsets = flat(bags)
    twin = torch.nn.EmbeddingBag.from_pretrained(
        weights(), freeze=False, mode="sum", include_last_offset=True, max_norm=max_norm, norm_type=norm_type
    )
    upstream = torch.randn(len(bags), DIM, generator=torch.Generator().manual_seed(1))
    found = rows.sums(ids, offsets)
    if not bags:
        assert found.shape == (0, DIM)
        return
    expected = twin(ids, offsets)
    torch.testing.assert_close(found, expected)
    found.backward(upstream)
    expected.backward(upstream)
    assert twin.weight.grad is not None
    gradients = rows.take_gradients()
    counts = torch.bincount(ids, minlength=ROWS)
    assert gradients.counts_R.tolist() == counts[gradients.rows_R].tolist()
    torch.testing.assert_close(gradients.gradient_RD, twin.weight.grad[gradients.rows_R])
    rows.update(gradients, 0.5, 1)
    torch.testing.assert_close(rows.weight_RD, twin.weight.detach() - 0.5 * twin.weight.grad)


@PROFILE
@given(st.lists(st.integers(0, ROWS - 1), max_size=12), MAX_NORMS)
def test_vectors_are_those_of_an_embedding(ids: list[int], max_norm: float | None) -> None:
    rows = local_rows(make_table("t", ROWS, DIM, max_norm=max_norm, padding_row=None), weights())
    asked = torch.tensor(ids, dtype=torch.int64)
    torch.testing.assert_close(rows.vectors(asked), F.embedding(asked, weights(), max_norm=max_norm))
    assert torch.equal(rows.weight_RD, weights()), "reading writes nothing"


@pytest.mark.parametrize("padding_row", [0, 3, 5, 9])
def test_only_the_padding_row_is_zero_after_a_gradient_wherever_a_part_begins(padding_row: int) -> None:
    first = 5
    rows = LocalRows([Cut(make_table("t", ROWS, DIM, padding_row=padding_row), range(first, ROWS))], weights()[first:])
    rows.vectors(torch.tensor([0, 3, 4])).sum().backward()
    rows.update(rows.take_gradients(), 0.5, 1)
    want = weights()
    want[[5, 8, 9]] -= 0.5
    if padding_row >= first:
        want[padding_row] = 0
    assert torch.equal(rows.weight_RD, want[first:])


@PROFILE
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, ROWS - 1)), max_size=12), MAX_NORMS, st.booleans())
def test_parts_of_tables_together_are_what_each_is_alone(
    read: list[tuple[int, int]], max_norm: float | None, dense: bool
) -> None:
    """Among them a table cut by rows, one without a padding row, and a part of no rows."""
    options = {"max_norm": max_norm, "update": "dense" if dense else "sparse", "optimizer": Adam(lr=0.1)}
    cuts = [
        Cut(make_table(name, ROWS, DIM, padding_row=padding, **options), rows)
        for name, padding, rows in (
            ("a", 0, range(ROWS)),
            ("b", 9, range(4, ROWS)),
            ("none", 0, range(ROWS, ROWS)),
            ("c", None, range(ROWS)),
        )
    ]
    values = [weights()[cut.rows.start : cut.rows.stop] for cut in cuts]
    together = LocalRows(cuts, torch.cat(values))
    alone = [LocalRows([cut], value.clone()) for cut, value in zip(cuts, values, strict=True)]
    for step in (1, 2):
        ids = [(which, row) for which, row in read if row < len(values[which])]
        vectors = together.vectors(torch.tensor([together.firsts[which] + row for which, row in ids]).long())
        vectors.square().sum().backward()
        for which, rows in enumerate(alone):
            mine = [place for place, (of, _) in enumerate(ids) if of == which]
            found = rows.vectors(torch.tensor([ids[place][1] for place in mine]).long())
            assert torch.equal(found, vectors[mine])
            found.square().sum().backward()
            rows.update(rows.take_gradients(), 0.1, step)
        together.update(together.take_gradients(), 0.1, step)
    for part, rows in zip(together.parts, alone, strict=True):
        assert torch.equal(part.weight_RD, rows.weight_RD)
        assert part.row == rows.parts[0].row
        assert {*part.state} == {*rows.state} == {*Adam(lr=0.1).states()}
        assert all(torch.equal(values, rows.state[name]) for name, values in part.state.items())


def test_an_id_beyond_its_table_is_an_error_and_no_row_of_the_next_one() -> None:
    tables = [
        make_table(name, rows, DIM, make_feature(name, name, pooling="sum"), padding_row=None)
        for name, rows in (("short", 4), ("long", 9))
    ]
    rows = LocalRows([Cut(table, range(table.rows)) for table in tables], torch.zeros(13, DIM))
    for pools in (True, False):
        lookup = Lookup(rows, [1, 1], pools)
        offsets = torch.tensor([0, 1, 2])
        assert lookup(torch.tensor([3, 8]), offsets).numel() == 2 * DIM
        for wrong in ([4, 0], [-1, 0], [0, 9]):
            with pytest.raises(IndexError, match="want ids of a table's own rows, got "):
                lookup(torch.tensor(wrong), offsets)
    whole = Embeddings(tables, frozenset({"short", "long"}), torch.device("cpu"))
    (both,) = whole.replicated
    for wrong in (4, -1):
        read = {"short": (torch.tensor([wrong]), torch.tensor([1])), "long": (torch.tensor([8]), torch.tensor([1]))}
        with pytest.raises(IndexError, match=f"got {wrong}"):
            _of_whole(both, read)


def test_tables_that_are_unlike_are_not_put_together() -> None:
    cuts = [Cut(make_table("t", ROWS, DIM, optimizer=SGD(lr=lr)), range(ROWS)) for lr in (0.1, 0.2)]
    with pytest.raises(AssertionError):
        LocalRows(cuts, torch.zeros(2 * ROWS, DIM))


@PROFILE
@given(st.lists(st.lists(st.integers(0, 2**62), max_size=8), min_size=1, max_size=4))
def test_gradients_by_row_are_sums_over_its_occurrences(passes: list[list[int]]) -> None:
    sums: dict[int, Tensor] = defaultdict(lambda: torch.zeros(DIM, dtype=torch.float64))
    counts: dict[int, int] = defaultdict(int)
    parts = []
    for number, ids in enumerate(passes):
        gradient = torch.randn(len(ids), DIM, generator=torch.Generator().manual_seed(number))
        for each, row in zip(gradient, ids, strict=True):
            sums[row] += each
            counts[row] += 1
        if ids:
            parts.append(by_row(torch.tensor(ids), torch.arange(len(ids)), gradient))
    if not parts:
        return
    found = merged(parts)
    assert found.rows_R.tolist() == sorted(sums)
    assert found.counts_R.tolist() == [counts[row] for row in sorted(sums)]
    expected = torch.stack([sums[row] for row in sorted(sums)]).float()
    torch.testing.assert_close(found.gradient_RD, expected, rtol=1e-4, atol=1e-5)


def test_rows_shrink_in_a_step_that_reads_none_of_them() -> None:
    decaying = SGD(lr=0.5, weight_decay=0.1, weight_decay_mode="all_decoupled")
    rows = local_rows(make_table("t", ROWS, DIM, optimizer=decaying, padding_row=None), weights())
    rows.update(rows.take_gradients(), 0.5, 1)
    assert torch.equal(rows.weight_RD, weights() * (1 - 0.5 * 0.1))


def test_vectors_and_sums_are_rounded_to_the_output_dtype() -> None:
    rows = local_rows(make_table("t", ROWS, DIM, output_dtype="fp16"), weights())
    ids = torch.tensor([1, 2, 5])
    assert torch.equal(rows.vectors(ids), weights()[ids].half())
    assert torch.equal(rows.sums(ids, torch.tensor([0, 3])), weights()[ids].sum(0, keepdim=True).half())


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that anything gives."""

    bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and not found._is_view() and found is not args[0]:
            self.bytes = max(self.bytes, found.numel() * found.element_size())
        return found


@pytest.mark.parametrize("read", [[], [2], [7, 2047, 2048, 4999, 7]])
def test_a_dense_update_moves_every_row_without_a_gradient_as_large_as_the_table(read: list[int]) -> None:
    many, adam = 5000, Adam(lr=0.1)
    table = make_table("t", many, DIM, optimizer=adam, update="dense", padding_row=None)
    values = torch.randn(many, DIM, generator=torch.Generator().manual_seed(0))
    rows = local_rows(table, values.clone())
    state = {name: torch.zeros(many, DIM) for name in adam.states()}
    for step, ids in ((1, [1, 3000]), (2, read)):
        asked = torch.tensor(ids, dtype=torch.int64)
        rows.vectors(asked).square().sum().backward()
        gradients, whole = rows.take_gradients(), torch.zeros(many, DIM)
        whole.index_add_(0, asked, 2 * values[asked])
        adam.update(TouchedRows(values, whole, state), 0.1, step)
        with Largest() as largest:
            rows.update(gradients, 0.1, step)
        assert torch.equal(rows.weight_RD, values)
        assert largest.bytes <= 2048 * max(DIM * 4, 8)
