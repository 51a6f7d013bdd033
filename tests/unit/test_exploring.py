"""What `explore` makes of vectors, reads and names."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharded_emb.errors import InputError
from sharded_emb.exploring.explore import _greatest
from sharded_emb.exploring.figures import by_reads, measure, quantiles
from sharded_emb.exploring.maps import placed
from sharded_emb.exploring.names import Names, Owners
from sharded_emb.exploring.page import _norms
from sharded_emb.exploring.vectors import Piece, nearest_rows
from sharded_emb.ids.hash import mixed


def pieces(vectors_RD: torch.Tensor, at_once: int, moved_R: torch.Tensor | None = None):
    for at in range(0, len(vectors_RD), at_once):
        moved_N = None if moved_R is None else moved_R[at : at + at_once]
        yield Piece(at, vectors_RD[at : at + at_once], moved_N)


@given(at_once=st.integers(1, 40), top_k=st.integers(1, 40), seed=st.integers(0, 9))
def test_nearest_rows_are_those_of_all_cosines_at_once(at_once: int, top_k: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    # of whole numbers, so that many are equally near
    vectors_RD = torch.from_numpy(draw.integers(-2, 3, (30, 4)).astype(np.float32))
    candidates_R = draw.random(30) < 0.8
    rows_P = np.array([0, 7, 29])
    found_PK, cosine_PK = nearest_rows(pieces(vectors_RD, at_once), (rows_P, vectors_RD[rows_P]), candidates_R, top_k)
    units_RD = torch.nn.functional.normalize(vectors_RD, dim=1)
    for row, found_K, cosine_K in zip(rows_P.tolist(), found_PK, cosine_PK, strict=True):
        cosine_R = (units_RD @ units_RD[row]).numpy().copy()
        cosine_R[~candidates_R] = cosine_R[row] = -np.inf
        np.testing.assert_allclose(cosine_K, np.sort(cosine_R)[::-1][:top_k], atol=1e-6)
        there = np.isfinite(cosine_K)
        assert len({*found_K[there].tolist()}) == there.sum()
        np.testing.assert_allclose(cosine_R[found_K[there]], cosine_K[there], atol=1e-6)


def test_many_queries_are_asked_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_RD = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    queries = np.arange(50), vectors_RD
    whole = nearest_rows(pieces(vectors_RD, 20), queries, np.ones(50, bool), top_k=3)
    monkeypatch.setattr("sharded_emb.exploring.vectors._COSINES", 70)
    some = nearest_rows(pieces(vectors_RD, 20), queries, np.ones(50, bool), top_k=3)
    for one, other in zip(whole, some, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_norms_that_differ_by_rounding_alone_are_one_bar() -> None:
    norms = np.full(1000, 0.02, np.float32)
    norms[::3] = np.nextafter(np.float32(0.02), np.float32(1))
    assert _norms(norms) == (["0.02"], [1000])
    assert sum(_norms(np.linspace(0, 1, 77, dtype=np.float32))[1]) == 77
    assert _norms(np.zeros(3, np.float32))[1] == [3]


def test_rows_that_are_not_finite_are_counted_and_left_out() -> None:
    vectors_RD = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    vectors_RD[3, 1], vectors_RD[5, 0] = torch.nan, torch.inf
    stands_R = np.arange(12) >= 2
    figures = measure(pieces(vectors_RD, 5), stands_R, 4, np.array([2, 9, 11]))
    assert np.flatnonzero(~figures.finite_R).tolist() == [3, 5]
    assert figures.moved_R is None
    assert figures.spread.rows == 8
    assert np.isfinite(figures.spread.effective_rank)
    assert torch.equal(figures.picked_PD, vectors_RD[[2, 9, 11]])
    kept = [2, 4, *range(6, 12)]
    torch.testing.assert_close(figures.spread.mean_D, vectors_RD[kept].double().mean(0))


def test_spread_is_of_rows_that_moved_where_some_did() -> None:
    vectors_RD = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    moved_R = (torch.arange(20) % 4 == 0).float()
    stands_R = np.ones(20, bool)
    figures = measure(pieces(vectors_RD, 6, moved_R), stands_R, 4, np.array([], np.int64))
    torch.testing.assert_close(figures.spread.mean_D, vectors_RD[::4].double().mean(0))
    still = measure(pieces(vectors_RD, 6, torch.zeros(20)), stands_R, 4, np.array([], np.int64))
    torch.testing.assert_close(still.spread.mean_D, vectors_RD.double().mean(0))
    assert still.moved_R is not None
    assert not still.moved_R.any()


@pytest.mark.parametrize(("rows", "rank"), [(torch.eye(8), 7.0), (torch.ones(9, 8), 0.0), (torch.zeros(0, 8), 0.0)])
def test_effective_rank_is_the_number_of_directions_that_are_used_alike(rows: torch.Tensor, rank: float) -> None:
    figures = measure(pieces(rows, 4), np.ones(len(rows), bool), 8, np.array([], np.int64))
    assert figures.spread.effective_rank == pytest.approx(rank, rel=1e-6)


def test_rows_along_a_line_have_one_direction() -> None:
    line_RD = torch.arange(50.0)[:, None] * torch.tensor([[1.0, 2.0, -1.0, 0.5]]) + 3
    figures = measure(pieces(line_RD, 7), np.ones(50, bool), 4, np.arange(50))
    assert figures.spread.effective_rank == pytest.approx(1, abs=1e-3)
    at_P2 = placed(figures.picked_PD, figures.spread, "pca", seed=0)
    steps = at_P2[:, 0].diff()
    torch.testing.assert_close(steps, steps[:1].expand(49))
    assert at_P2[:, 1].abs().max() < 1e-5


def test_few_rows_have_a_map_and_tsne_draws_by_the_seed() -> None:
    vectors_RD = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 3, 4, 5, 40):
        figures = measure(pieces(vectors_RD[:count], 7), np.ones(count, bool), 8, np.arange(count))
        for kind in ("pca", "tsne"):
            at_P2 = placed(figures.picked_PD, figures.spread, kind, seed=0)
            assert at_P2.shape == (count, 2)
            assert at_P2.isfinite().all()
            assert torch.equal(at_P2, placed(figures.picked_PD, figures.spread, kind, seed=0))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_the_greatest_come_first_and_the_lower_row_among_equals(values: list[int]) -> None:
    wanted = sorted(range(len(values)), key=lambda row: -values[row])[:10]
    assert _greatest(np.array(values), np.ones(len(values), bool)).tolist() == wanted


def test_bands_double_and_have_all_reads() -> None:
    reads_R = np.array([9, 9, 0, 1, 1, 2, 3, 4, 7, 8])
    stands_R = np.arange(10) >= 2
    figures = measure(pieces(torch.ones(10, 4), 3), stands_R, 4, np.array([], np.int64))
    lines = by_reads(reads_R, figures, stands_R)
    assert [(line["from"], line["to"], line["rows"]) for line in lines] == [
        *((0, 0, 1), (1, 1, 2), (2, 3, 2), (4, 7, 2), (8, 15, 1))
    ]
    assert sum(line["share_of_reads"] for line in lines) == pytest.approx(1)
    assert lines[0]["norm"] == 2
    assert quantiles(np.zeros(0, np.float32))["median"] is None


def names(raw: list[int] | list[str] | None, rows: list[int]) -> Names:
    return Names("item", 9, None if raw is None else pa.array(raw), np.array(rows, np.int64), special=True)


def test_a_row_has_the_name_of_who_reads_it() -> None:
    shared = names(["a", "b", "c", "1"], [3, 5, 3, 8])
    assert [shared.label(row) for row in (0, 1, 2, 3, 5, 8)] == ["padding", "unknown ids", "row 2", "a (+1)", "b", "1"]
    assert np.flatnonzero(shared.read_R).tolist() == [3, 5, 8]
    assert shared.rows_of(["c", 1, "b"]) == [3, 8, 5]
    with pytest.raises(InputError, match=r"^ids: want raw ids of table item, got d, .*\nids: .* got 2, "):
        shared.rows_of(["a", "d", 2])
    numbers = names([7, -(2**63), 2**63 - 1], [2, 3, 4])
    assert numbers.rows_of(["7", str(-(2**63)), 2**63 - 1]) == [2, 3, 4]
    for wrong in ("007", "7.0", str(2**63), "9" * 30, "seven"):
        with pytest.raises(InputError, match=r"^ids: want raw ids of table item, got "):
            numbers.rows_of([wrong])
    nobody = names(None, [])
    assert nobody.label(4) == "row 4"
    assert np.flatnonzero(nobody.read_R).tolist() == [*range(2, 9)]
    with pytest.raises(InputError, match="ids: want none for a table whose ids have no vocabulary, got item"):
        nobody.rows_of([4])


def test_ids_without_a_row_share_the_last_of_their_bucket() -> None:
    owners = Owners(np.array([-5, 3, 10]), np.array([4, 2, 7]), np.array([2, 5, 8]), raw=True)
    ids_N = np.array([10, -5, 3, 4, 2**62])
    bucket_N = (mixed(ids_N) & np.uint64(2**63 - 1)) % np.uint64(2)
    wanted = [7, 4, 2, *(4 if bucket == 0 else 7 for bucket in bucket_N[3:].tolist())]
    assert owners.rows(ids_N).tolist() == wanted
    with_vocabulary = Owners(owners.ids_K, owners.rows_K, owners.bounds, raw=False)
    assert with_vocabulary.rows(np.array([0, 1, 3, 10])).tolist() == [0, 1, 2, 7]
    nobody = Owners(np.zeros(0, np.int64), np.zeros(0, np.int64), np.array([2, 5, 8]), raw=True)
    assert set(nobody.rows(ids_N).tolist()) <= {4, 7}
