"""A world of users who move between clusters of items, whose best possible ranking is known.

Shapes: U users, S steps (the longest sequence), C clusters, M items a cluster, I = C * M items; item i is member i % M
of cluster i // M.

A user's next cluster depends on those of the last **two** events: with `stay` it is the last one, with `back` the one
before it, with `onward` one of three successors of the last, and otherwise any, by popularity. The item is drawn
from those of the cluster that the user has not had, by Zipf weights. So the chance of each item is known exactly,
and ranking by it is the best that any ranker can do in expectation.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SUCCESSORS = (0.6, 0.3, 0.1)
"""How likely each of a cluster's three successors is."""
_USERS_PER_CHUNK = 512


@dataclass(frozen=True)
class Habits:
    """Chances of the next cluster; what is left of 1 is for any cluster by popularity."""

    stay: float
    back: float
    onward: float


@dataclass(frozen=True)
class World:
    """What the generator knows: popularity_C sums to 1, onward_CC's rows do, weights_M are those within a cluster."""

    habits: Habits
    popularity_C: Floats
    onward_CC: Floats
    weights_M: Floats

    @property
    def items(self) -> int:
        """I."""
        return len(self.popularity_C) * len(self.weights_M)

    def next_clusters(self, last_U: Ints, before_U: Ints) -> Floats:
        """(U, C) chances of the next cluster after `before_U`, `last_U`."""
        habits, users = self.habits, np.arange(len(last_U))
        roam = 1.0 - habits.stay - habits.back - habits.onward
        chances_UC = roam * self.popularity_C + habits.onward * self.onward_CC[last_U]
        chances_UC[users, last_U] += habits.stay
        chances_UC[users, before_U] += habits.back
        return chances_UC


def make_world(items: int, clusters: int, zipf: float, habits: Habits, rng: np.random.Generator) -> World:
    """A world whose clusters and members are popular by Zipf's law; `items` is a multiple of `clusters`."""
    popularity = 1.0 / np.arange(1, clusters + 1) ** (zipf / 2)
    onward = np.zeros((clusters, clusters))
    for cluster in range(clusters):
        others = rng.permutation(np.delete(np.arange(clusters), cluster))[: len(SUCCESSORS)]
        onward[cluster, others] = SUCCESSORS
    weights: Floats = 1.0 / np.arange(1, items // clusters + 1, dtype=np.float64) ** zipf
    return World(habits, popularity / popularity.sum(), onward, weights)


def walk(world: World, lengths_U: Ints, rng: np.random.Generator) -> Ints:
    """(U, S) items of each user in order; -1 after the end. No item comes twice, no length may exceed M."""
    users, steps, members = len(lengths_U), int(lengths_U.max()), len(world.weights_M)
    items_US = np.full((users, steps), -1, dtype=np.int64)
    seen_UI = np.zeros((users, world.items), dtype=bool)
    every = np.arange(users)
    last_U = before_U = np.zeros(users, dtype=np.int64)
    for step in range(steps):
        chances_UC = world.next_clusters(last_U, before_U) if step else np.tile(world.popularity_C, (users, 1))
        cluster_U = _draw(chances_UC, rng)
        # the largest of log weight + Gumbel noise is a draw by weight; what was seen cannot be the largest
        noisy_UM = np.log(world.weights_M) + rng.gumbel(size=(users, members))
        seen_UM = seen_UI.reshape(users, -1, members)[every, cluster_U]
        item_U = cluster_U * members + np.where(seen_UM, -np.inf, noisy_UM).argmax(1)
        seen_UI[every, item_U] = True
        active_U = step < lengths_U
        items_US[active_U, step] = item_U[active_U]
        before_U, last_U = (last_U if step else cluster_U), cluster_U
    return items_US


def _draw(chances_UC: Floats, rng: np.random.Generator) -> Ints:
    below_UC = chances_UC.cumsum(1) < rng.random((len(chances_UC), 1))
    # rounding may leave the last sum a hair below 1
    return np.minimum(below_UC.sum(1), chances_UC.shape[1] - 1)


def best_scores(world: World, history: Ints, offsets: Ints) -> Floats:
    """(U, I) the chance of each item to come next; 0 for those in the history, which has at least one item each.

    history: items of the U users one after the other, oldest first; offsets: (U + 1,) where each begins.
    """
    users, members = len(offsets) - 1, len(world.weights_M)
    last_U = history[offsets[1:] - 1] // members
    before_U = history[np.maximum(offsets[1:] - 2, offsets[:-1])] // members
    left_UCM = np.tile(world.weights_M, (users, len(world.popularity_C), 1))
    owner = np.repeat(np.arange(users), np.diff(offsets))
    left_UCM[owner, history // members, history % members] = 0.0
    by_cluster_UC = world.next_clusters(last_U, before_U) / left_UCM.sum(2)
    return (by_cluster_UC[:, :, None] * left_UCM).reshape(users, -1)


def best_metrics(world: World, sequences: Ints, offsets: Ints, exists_I: npt.NDArray[np.bool_]) -> dict[str, float]:
    """hit_rate@10, ndcg@10 and mrr that the best ranker reached on the last item of each sequence.

    Items of the history are filtered and those that do not exist in the log are no candidates, as for any model.
    """
    ranks = []
    for first in range(0, len(offsets) - 1, _USERS_PER_CHUNK):
        ends = offsets[first : first + _USERS_PER_CHUNK + 1]
        inputs = np.delete(sequences[ends[0] : ends[-1]], ends[1:] - 1 - ends[0])
        starts = np.concatenate([[0], np.cumsum(np.diff(ends) - 1)])
        scores_UI = np.where(exists_I, best_scores(world, inputs, starts), 0.0)
        target_U = sequences[ends[1:] - 1]
        own_U1 = scores_UI[np.arange(len(target_U)), target_U][:, None]
        equal_U = (scores_UI == own_U1).sum(1) - 1
        ranks.append(1 + (scores_UI > own_U1).sum(1) + equal_U / 2)
    rank = np.concatenate(ranks)
    hit = rank <= 10
    return {
        "hit_rate@10": float(hit.mean()),
        "ndcg@10": float((hit / np.log2(rank + 1)).mean()),
        "mrr": float((1 / rank).mean()),
    }
