"""Ranks of targets among all items, and the metrics made of them.

B  rows    N  rows of the item table    P  seen pairs
"""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sharded_emb.metrics.ranking import means, protocol, ranks_of_target, sums

INF = math.inf


def slow_rank(scores: Sequence[float], target: int, removed: set[int]) -> float:
    """The slow twin: 1 plus the items that score higher plus half of the others that score the same."""
    if scores[target] == -INF:
        return INF
    others = [score for item, score in enumerate(scores) if item != target and item not in removed]
    return 1 + sum(score > scores[target] for score in others) + sum(score == scores[target] for score in others) / 2


def ranks(
    scores: list[list[float]] | Tensor, targets: list[int], seen: list[tuple[int, int]] | None = None
) -> tuple[list[float], list[float]]:
    pairs_P2 = torch.tensor(seen or [], dtype=torch.int64).reshape(-1, 2)
    scores_BN = scores if isinstance(scores, Tensor) else torch.tensor(scores)
    found = ranks_of_target(scores_BN, torch.tensor(targets), pairs_P2[:, 0], pairs_P2[:, 1])
    return found[0].tolist(), found[1].tolist()


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_the_slow_twin(levels: int, seed: int) -> None:
    """Few levels of scores tie many items; two rows of the table must never be recommended."""
    draw = torch.Generator().manual_seed(seed)
    rows, items = 12, 30
    scores_BN = torch.randint(levels, (rows, items), generator=draw).float() / 7 - 1
    scores_BN[:, :2] = -INF
    targets = torch.randint(items, (rows,), generator=draw).tolist()
    # seen items may be the target, and one of those that must not be recommended
    seen = (torch.rand(rows, items, generator=draw) < 0.3).nonzero().tolist()
    unfiltered, filtered = ranks(scores_BN, targets, [(row, item) for row, item in seen])
    for row, scores in enumerate(scores_BN.tolist()):
        mine = {item for r, item in seen if r == row}
        assert unfiltered[row] == slow_rank(scores, targets[row], set())
        assert filtered[row] == slow_rank(scores, targets[row], mine)


def test_a_rank_by_hand() -> None:
    scores = [[-INF, -INF, 5.0, 3.0, 4.0, 3.0, 3.0, 1.0]]
    assert ranks(scores, [2]) == ([1], [1])
    assert ranks(scores, [7]) == ([6], [6])
    assert ranks(scores, [3]) == ([4], [4])  # two above, two beside
    assert ranks(scores, [3], [(0, 4)]) == ([4], [3])
    assert ranks(scores, [3], [(0, 5)]) == ([4], [3.5])
    assert ranks(scores, [3], [(0, 7)]) == ([4], [4])


def test_the_target_counts_even_where_it_was_seen() -> None:
    assert ranks([[3.0, 2.0, 1.0]], [1], [(0, 1)]) == ([2], [2])
    assert ranks([[3.0, 2.0, 1.0]], [1], [(0, 0), (0, 1), (0, 2)]) == ([2], [1])


def test_an_item_of_no_score_that_was_seen_is_not_removed_twice() -> None:
    assert ranks([[-INF, -INF, 2.0, 1.0]], [3], [(0, 0), (0, 1)]) == ([2], [2])


def test_a_seen_item_is_removed_for_its_own_row_alone() -> None:
    assert ranks([[3.0, 2.0, 1.0]] * 2, [2, 2], [(1, 0)]) == ([3, 3], [3, 2])


@pytest.mark.parametrize("target", [0, 1])
def test_an_unknown_target_is_a_miss_of_infinite_rank(target: int) -> None:
    assert ranks([[-INF, -INF, 2.0, 1.0]], [target], [(0, 2), (0, target)]) == ([INF], [INF])
    summed = sums(torch.tensor([INF]))
    assert set(summed.values()) == {0.0}


def test_equal_scores_everywhere_give_the_middle_rank() -> None:
    assert ranks([[0.5] * 9], [4]) == ([5], [5])


def test_ranks_are_exact_in_large_tables() -> None:
    """Every item but the target is higher, in more places than a float32 sum could count one by one in bfloat16."""
    scores_BN = torch.ones(2, 300_001)
    scores_BN[0, 7] = 0
    assert ranks(scores_BN, [7, 7]) == ([300_001, 150_001], [300_001, 150_001])


@pytest.mark.parametrize("where", [(0, 2), (0, 3), (1, 2), (1, 3)])
@pytest.mark.parametrize("wrong", [math.nan, INF])
def test_a_score_that_is_not_finite_is_an_error(where: tuple[int, int], wrong: float) -> None:
    """Of the target and of any other item."""
    scores_BN = torch.tensor([[-INF, -INF, 2.0, 1.0], [-INF, -INF, 4.0, 8.0]])
    scores_BN[where] = wrong
    with pytest.raises(FloatingPointError, match=r"^ranking: a score is not a finite number$"):
        ranks(scores_BN, [2, 2])


def test_not_a_number_is_an_error_even_where_no_target_is_known() -> None:
    with pytest.raises(FloatingPointError, match=r"^ranking: "):
        ranks([[-INF, -INF, math.nan, math.nan]], [1])


def test_metrics_by_hand() -> None:
    found = sums(torch.tensor([1.0, 3.0, 5.5, 10.0, 11.0, INF], dtype=torch.float64))
    assert found == pytest.approx(
        {
            "hit_rate@5": 2,
            "recall@5": 2,
            "ndcg@5": 1 + 1 / 2,
            "hit_rate@10": 4,
            "recall@10": 4,
            "ndcg@10": 1 + 1 / 2 + 1 / math.log2(6.5) + 1 / math.log2(11),
            "hit_rate@20": 5,
            "recall@20": 5,
            "ndcg@20": 1 + 1 / 2 + 1 / math.log2(6.5) + 1 / math.log2(11) + 1 / math.log2(12),
            "mrr": 1 + 1 / 3 + 1 / 5.5 + 1 / 10 + 1 / 11,
        },
        rel=1e-12,
    )


def test_a_rank_just_behind_the_cutoff_is_a_miss() -> None:
    found = sums(torch.tensor([5.5, 10.5, 20.5], dtype=torch.float64))
    assert [found[f"hit_rate@{k}"] for k in (5, 10, 20)] == [0, 1, 2]


def test_other_cutoffs() -> None:
    found = sums(torch.tensor([1.0, 2.0], dtype=torch.float64), cutoffs=(1,))
    assert found == {"hit_rate@1": 1, "recall@1": 1, "ndcg@1": 1, "mrr": 1.5}


def test_means_are_over_the_rows_of_all_ranks() -> None:
    parts = [torch.tensor([1.0, INF, 3.0], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)]
    summed = [{"rows": len(part), **sums(part)} for part in parts]
    others = [*summed[1].values()]

    def add_up(mine: list[float]) -> list[float]:
        return [a + b for a, b in zip(mine, others, strict=True)]

    whole = sums(torch.cat(parts))
    assert means(summed[0], add_up) == pytest.approx({name: value / 4 for name, value in whole.items()})


def test_a_rank_without_a_row_adds_nothing_and_none_at_all_have_no_mean() -> None:
    whole = {"rows": 2, **sums(torch.tensor([1.0, 4.0], dtype=torch.float64))}
    added = means({}, lambda zeros: [zero + value for zero, value in zip(zeros, whole.values(), strict=True)])
    assert added["mrr"] == 0.625
    assert means({}, lambda values: values) == {}


def test_the_protocol_says_whether_seen_items_are_removed() -> None:
    assert protocol("test", removed_of="user") == {
        "split": "test",
        "ranked": "all items",
        "seen_items": "removed: all the user had, never the target",
        "ties": "count half",
    }
    assert protocol("test")["seen_items"] == "kept"
    # items that the same user had in other sessions stay
    assert protocol("test", removed_of="session")["seen_items"] == "removed: all the session had, never the target"
