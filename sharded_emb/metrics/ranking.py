"""Ranks of targets among all items, and what is made of them.

B  rows    N  rows of the item table
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

CUTOFFS = (5, 10, 20)


_EXACT_FLOAT32 = 1 << 24  # up to here a float32 sum of ones is exact


def ranks_of_target(scores_BN: Tensor, target_B: Tensor, row_P: Tensor, item_P: Tensor) -> tuple[Tensor, Tensor]:
    """The rank of each row's target among all items, and among those that are not seen: two float64 (B).

    (row, item) are P distinct pairs of seen items; the target counts even where it is one of them. A rank is 1 plus
    the items that score higher plus half of the others that score the same. Items that must not be recommended have a
    score of -inf; a target among them is a miss, of infinite rank. Scores that are not a number would look like ties or
    misses, so they raise FloatingPointError, and so does an infinite one.
    """
    if not (scores_BN.amax(1) < torch.inf).all():  # not-a-number comes through a maximum, and is not below
        raise FloatingPointError("ranking: a score is not a finite number")
    target_score_B = scores_BN.gather(1, target_B[:, None])[:, 0]
    # 1 for each higher item, -1 for each lower one
    signs_BN = (scores_BN - target_score_B[:, None]).sign_()
    known_B = target_score_B > -torch.inf
    wide = torch.float64 if signs_BN.shape[1] > _EXACT_FLOAT32 else signs_BN.dtype
    balance_B = signs_BN.sum(1, dtype=wide).double()
    removed_P = (signs_BN[row_P, item_P].double() + 1) * (item_P != target_B[row_P])  # a removed item counts as lower
    without_seen_B = balance_B.index_add(0, row_P, removed_P, alpha=-1)
    middle = (scores_BN.shape[1] + 1) / 2
    ranks = [(middle + balance / 2).masked_fill(~known_B, torch.inf) for balance in (balance_B, without_seen_B)]
    return ranks[0], ranks[1]


def without_seen(scores_BN: Tensor, target_B: Tensor, row_P: Tensor, item_P: Tensor) -> Tensor:
    """The scores, in their place, with -inf for what the user had, but never for the target."""
    target_scores_B1 = scores_BN.gather(1, target_B[:, None])
    scores_BN[row_P, item_P] = -torch.inf
    return scores_BN.scatter_(1, target_B[:, None], target_scores_B1)


def values(rank_B: Tensor, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, Tensor]:
    """hit_rate@k, recall@k, ndcg@k and mrr of each row, float64 (B). Recall is hit rate: there is one target a row."""
    found: dict[str, Tensor] = {}
    for k in cutoffs:
        hit_B = rank_B <= k
        found[f"hit_rate@{k}"] = found[f"recall@{k}"] = hit_B.double()
        found[f"ndcg@{k}"] = hit_B / torch.log2(rank_B.double() + 1)
    found["mrr"] = 1 / rank_B.double()
    return found


def sums(rank_B: Tensor, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """The sums of `values` over rows."""
    found = values(rank_B, cutoffs)
    return dict(zip(found, torch.stack([value_B.sum() for value_B in found.values()]).tolist(), strict=True))


def means(summed: Mapping[str, float], add_up: Callable[[list[float]], list[float]]) -> dict[str, float]:
    """Means over all rows from one rank's sums, with their number as `rows`; add_up sums values over ranks.

    Without any row there is no mean: nothing is returned.
    """
    names = ["rows", *sums(torch.ones(0))]
    totals = dict(zip(names, add_up([summed.get(name, 0.0) for name in names]), strict=True))
    rows = totals.pop("rows")
    return {name: total / rows for name, total in totals.items()} if rows else {}


def protocol(split: str, removed_of: str | None = None) -> dict[str, object]:
    """What makes these numbers comparable with others. removed_of: whose items are removed, if any are."""
    return {
        "split": split,
        "ranked": "all items",
        "seen_items": "kept" if removed_of is None else f"removed: all the {removed_of} had, never the target",
        "ties": "count half",
    }
