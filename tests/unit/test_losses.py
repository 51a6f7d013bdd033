"""Losses against torch's own and against loops: sums over events or rows, those of no weight left out.

B  rows    S  events with a successor    K  candidates    D  dim
"""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.batch import Batch
from sharded_emb.losses.base import NextItemLossConfig, Seen
from sharded_emb.losses.binary_cross_entropy import BinaryCrossEntropy
from sharded_emb.losses.bpr import BPR
from sharded_emb.losses.chunked_cross_entropy import Chunks, Target, chunked_cross_entropy
from sharded_emb.losses.negatives import SampledConfig
from sharded_emb.losses.sampled_binary import SampledBinary
from sharded_emb.losses.sampled_softmax import SampledSoftmax
from sharded_emb.losses.softmax import Softmax
from sharded_emb.models.base import NextItem

ROWS, D = 11, 4  # of the item table
POSITIVES = [2, 10, 5, 1, 5, 0, 7]  # 0 is padding and 1 is out of vocabulary
ROW_S = [0, 0, 1, 1, 3, 3, 3]
WEIGHTS = [1.0, 1.0, 0.0, 1.0]
KNOWN = [place for place, item in enumerate(POSITIVES) if item >= 2]


def batch(weights: list[float], labels: list[float] | None = None) -> Batch:
    return Batch(
        ids=KeyedJaggedTensor(keys=[], values=torch.zeros(0, dtype=torch.int64), lengths=torch.zeros(0)),
        weight_B=torch.tensor(weights, dtype=torch.float32),
        label_B=None if labels is None else torch.tensor(labels, dtype=torch.float32),
        extents={},
        loss_weight=0.0,
        samples=len(weights),
    )


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


class Scored:
    """A next-item output in which every vector is a row of one item table."""

    def __init__(self, candidate_ids: Tensor, positives: list[int] | None = None, row_S: list[int] | None = None):
        positive_ids = torch.tensor(POSITIVES if positives is None else positives, dtype=torch.int64)
        self.states_SD, self.table_ND = random(len(positive_ids), D), random(ROWS, D, seed=1)
        self.output = NextItem(
            states_SD=self.states_SD,
            positives_SD=self.table_ND[positive_ids],
            positive_ids_S=positive_ids,
            row_S=torch.tensor(ROW_S if row_S is None else row_S, dtype=torch.int64),
            candidates_KD=self.table_ND[candidate_ids],
            candidate_ids_K=candidate_ids,
        )

    def loss(self, config: NextItemLossConfig, weights: list[float]) -> Tensor:
        return config.build(ROWS)(self.output, batch(weights))

    def score(self, event: int, item: int) -> float:
        return (self.states_SD[event] @ self.table_ND[item]).item()

    def gradients(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        states, table = torch.autograd.grad(loss, [self.states_SD, self.table_ND])
        assert torch.isfinite(states).all()
        assert torch.isfinite(table).all()
        return states, table


def full(config: Softmax) -> Tensor:
    return config.candidates(ROWS, seed=0, step=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_is_the_cross_entropy_over_all_items(smoothing: float) -> None:
    config = Softmax(label_smoothing=smoothing)
    scored = Scored(full(config))
    logits_SN = scored.states_SD[KNOWN] @ scored.table_ND[2:].T
    targets_S = torch.tensor([POSITIVES[event] - 2 for event in KNOWN])
    plain = F.cross_entropy(logits_SN, targets_S, reduction="sum", label_smoothing=smoothing)
    loss = scored.loss(config, [1.0] * 4)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(scored.gradients(loss), scored.gradients(plain))


def test_candidates_of_softmax_are_all_rows_that_can_be_recommended() -> None:
    assert full(Softmax()).tolist() == list(range(2, ROWS))


def slow_sampled(scored: Scored, negatives: list[int], shift: float) -> list[float]:
    """The slow twin, one loss an event: the target against every negative that is another item."""
    losses = []
    for event, target in enumerate(POSITIVES):
        others = [scored.score(event, item) + shift for item in negatives if item != target]
        own = scored.score(event, target)
        losses.append(math.log(sum(map(math.exp, [own, *others]))) - own if target >= 2 else 0.0)
    return losses


@pytest.mark.parametrize("correction", [True, False])
@pytest.mark.parametrize("negatives", [[3], [5, 5, 2, 9], [2, 10, 5, 7], [5] * 4, list(range(2, ROWS))])
def test_sampled_softmax_equals_a_loop_without_collisions(negatives: list[int], correction: bool) -> None:
    """With correction, a negative stands for as many items as there are for each draw."""
    config = SampledSoftmax(negatives=len(negatives), correction=correction)
    shift = math.log((ROWS - 2) / len(negatives)) if correction else 0.0
    scored = Scored(torch.tensor(negatives))
    slow = slow_sampled(scored, negatives, shift)
    assert scored.loss(config, [1.0] * 4).item() == pytest.approx(sum(slow), rel=1e-5)
    weighted = sum(loss * WEIGHTS[row] for loss, row in zip(slow, ROW_S, strict=True))
    assert scored.loss(config, WEIGHTS).item() == pytest.approx(weighted, rel=1e-5)


def test_an_event_whose_negatives_all_collide_loses_nothing() -> None:
    scored = Scored(torch.tensor([5, 5]), positives=[5], row_S=[0])
    loss = scored.loss(SampledSoftmax(negatives=2), [1.0])
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in scored.gradients(loss))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_sampled_softmax_over_every_item_once_is_the_full_one(smoothing: float) -> None:
    everything = full(Softmax())
    config = SampledSoftmax(negatives=len(everything), label_smoothing=smoothing)
    sampled = Scored(everything).loss(config, WEIGHTS)
    torch.testing.assert_close(sampled, Scored(everything).loss(Softmax(label_smoothing=smoothing), WEIGHTS))


def test_the_correction_estimates_the_sum_over_all_items() -> None:
    """The mean over many draws of the sum over negatives, against the sum over all other items."""
    scores_N = torch.randn(ROWS, generator=torch.Generator().manual_seed(3)).double()
    config = SampledSoftmax(negatives=20_000)
    (shift,) = {config.build(ROWS).unexpected}  # type: ignore[attr-defined]
    drawn = config.candidates(ROWS, seed=0, step=0)
    estimate = (scores_N[drawn] + shift).exp().sum()
    assert estimate.item() == pytest.approx(scores_N[2:].exp().sum().item(), rel=0.03)


next_item_losses = pytest.mark.parametrize(
    "config", [Softmax(), SampledSoftmax(negatives=ROWS - 2)], ids=["softmax", "sampled"]
)


@next_item_losses
def test_a_target_out_of_vocabulary_counts_nothing(config: NextItemLossConfig) -> None:
    scored = Scored(full(Softmax()), positives=[0, 1], row_S=[0, 1])
    loss = scored.loss(config, [1.0, 1.0])
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in scored.gradients(loss))


@next_item_losses
def test_a_row_of_weight_zero_counts_nothing(config: NextItemLossConfig) -> None:
    scored = Scored(full(Softmax()))
    of_two_rows = scored.loss(config, [1.0, 0, 0, 0]) + scored.loss(config, [0, 0, 0, 1.0])
    torch.testing.assert_close(scored.loss(config, [1.0, 0, 0, 1.0]), of_two_rows)
    states, _ = scored.gradients(scored.loss(config, [1.0, 0, 0, 0]))
    assert [bool(gradient.any()) for gradient in states] == [row == 0 for row in ROW_S]


@next_item_losses
def test_a_rank_without_any_event_has_a_loss_of_zero_and_gradients(config: NextItemLossConfig) -> None:
    scored = Scored(full(Softmax()), positives=[], row_S=[])
    loss = scored.loss(config, [0.0, 0.0])
    assert loss.item() == 0
    assert not scored.gradients(loss)[1].any()


def test_candidates_are_a_function_of_seed_and_step_alone() -> None:
    config = SampledSoftmax(negatives=50)
    drawn = config.candidates(1000, seed=1, step=7)
    torch.manual_seed(123)
    torch.rand(5)
    assert torch.equal(config.candidates(1000, seed=1, step=7), drawn)
    for seed, step in [(1, 8), (2, 7), (7, 1), (11, 7)]:
        assert not torch.equal(config.candidates(1000, seed=seed, step=step), drawn)


def test_candidates_leave_the_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    SampledSoftmax().candidates(1000, seed=1, step=7)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("rows", [3, 4, 50])
def test_candidates_are_items_all_as_likely(rows: int) -> None:
    draws = 20_000
    ids_K = SampledSoftmax(negatives=draws).candidates(rows, seed=0, step=0)
    counts_N = torch.bincount(ids_K, minlength=rows)
    assert (len(ids_K), ids_K.dtype, len(counts_N)) == (draws, torch.int64, rows)
    assert counts_N[:2].tolist() == [0, 0]
    expected = draws / (rows - 2)
    assert (counts_N[2:] - expected).abs().max() < 5 * math.sqrt(expected)


def test_binary_cross_entropy_is_torchs_weighted_sum() -> None:
    logits_B = random(5)
    found = BinaryCrossEntropy().build(None)(logits_B, batch([1, 1, 0, 1, 0], labels=[0, 1, 1, 1, 0]))
    rows = torch.tensor([0, 1, 3])
    plain = F.binary_cross_entropy(torch.sigmoid(logits_B[rows]), torch.tensor([0.0, 1, 1]), reduction="sum")
    torch.testing.assert_close(found, plain)
    (gradient_B,) = torch.autograd.grad(found, logits_B)
    assert gradient_B[[2, 4]].tolist() == [0, 0]


def test_binary_cross_entropy_of_huge_logits_is_finite() -> None:
    logits_B = torch.tensor([1e4, -1e4]).requires_grad_()
    found = BinaryCrossEntropy().build(None)(logits_B, batch([1, 1], labels=[0, 1]))
    assert found.item() == pytest.approx(2e4)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"negatives\n.*greater than 0"):
        SampledSoftmax(negatives=0)
    with pytest.raises(ValidationError, match=r"label_smoothing\n.*less than 1"):
        Softmax(label_smoothing=1)


@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_chunks_change_neither_the_cross_entropy_nor_its_gradients(at_once: int, smoothing: float) -> None:
    states_SD, classes_KD, weight_S = random(7, D), random(ROWS, D, seed=1), torch.tensor([1.0, 0, 2, 1, 0.5, 1, 1])
    at_S = torch.tensor([0, 10, 3, 3, 9, 1, 2])
    each_S = F.cross_entropy(states_SD @ classes_KD.T, at_S, reduction="none", label_smoothing=smoothing)
    plain = 3 * (each_S * weight_S).sum()
    target = Target(at_S, weight_S, smoothing)
    chunked = 3 * chunked_cross_entropy(states_SD, classes_KD, target, Chunks(events=at_once))
    torch.testing.assert_close(chunked, plain)
    found = torch.autograd.grad(chunked, [states_SD, classes_KD])
    torch.testing.assert_close(found, torch.autograd.grad(plain, [states_SD, classes_KD]))


def test_no_tensor_of_all_events_times_all_classes_is_made() -> None:
    states_SD, classes_KD = random(400, D), random(300, D, seed=1)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, Tensor) else 0)
            return out

    with Watch():
        target = Target(torch.zeros(400, dtype=torch.int64), torch.ones(400))
        chunked_cross_entropy(states_SD, classes_KD, target, Chunks(events=16)).backward()
    assert largest == 16 * 300


def test_scores_of_huge_size_are_no_trouble_and_bf16_rounds_a_little() -> None:
    states_SD, classes_KD = random(50, 16), random(ROWS, 16, seed=1)
    target = Target(torch.randint(0, ROWS, (50,), generator=torch.Generator().manual_seed(2)), torch.ones(50))
    exact = chunked_cross_entropy(states_SD, classes_KD, target, Chunks())
    rounded = chunked_cross_entropy(states_SD, classes_KD, target, Chunks(torch.bfloat16))
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    assert rounded.item() != exact.item()
    huge = chunked_cross_entropy(1e4 * states_SD, 1e4 * classes_KD, target, Chunks())
    assert torch.isfinite(huge)


def slow_sampled_binary(scored: Scored, negatives: list[int], power: float) -> list[float]:
    """One loss an event, as Petrov and Macdonald write it: the mean over the positive and its negatives."""
    losses = []
    for event, target in enumerate(POSITIVES):
        own = power * math.log(1 + math.exp(-scored.score(event, target)))
        others = [math.log(1 + math.exp(scored.score(event, item))) for item in negatives if item != target]
        losses.append((own + sum(others)) / (len(others) + 1) if target >= 2 else 0.0)
    return losses


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_sampled_binary_cross_entropy_equals_a_loop(calibration: float) -> None:
    negatives = [5, 5, 2, 9]
    config = SampledBinary(negatives=4, calibration=calibration)
    share = 4 / (ROWS - 2 - 1)
    power = share * (calibration * (1 - 1 / share) + 1 / share)
    assert config.power(ROWS) == pytest.approx({0.0: 1.0, 1.0: share}.get(calibration, power))
    scored = Scored(torch.tensor(negatives))
    weighted = zip(slow_sampled_binary(scored, negatives, power), ROW_S, strict=True)
    want = sum(loss * WEIGHTS[row] for loss, row in weighted)
    assert scored.loss(config, WEIGHTS).item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("negatives", [[5, 5, 2, 9], [5]], ids=str)
def test_bpr_is_the_mean_over_pairs_without_collisions(negatives: list[int]) -> None:
    want = 0.0
    scored = Scored(torch.tensor(negatives))
    for event, target in enumerate(POSITIVES):
        others = [item for item in negatives if item != target]
        margins = [scored.score(event, target) - scored.score(event, item) for item in others]
        mean = sum(math.log(1 + math.exp(-margin)) for margin in margins) / max(1, len(margins))
        want += mean * WEIGHTS[ROW_S[event]] * (target >= 2)
    assert scored.loss(BPR(negatives=len(negatives)), WEIGHTS).item() == pytest.approx(want, rel=1e-5)


COUNTS = torch.tensor([3.0, 5, 10, 0, 1, 4, 0, 0, 5, 20, 0], dtype=torch.float64)
sampled_losses = [SampledSoftmax, SampledBinary, BPR]


def test_draws_by_popularity_are_as_frequent_as_train_events() -> None:
    config = SampledSoftmax(negatives=40_000, drawn="popularity")
    drawn = config.candidates(ROWS, seed=0, step=0, seen=Seen(COUNTS))
    share_N = torch.bincount(drawn, minlength=ROWS) / len(drawn)
    assert drawn.min() >= 2
    torch.testing.assert_close(share_N[2:], (COUNTS[2:] / COUNTS[2:].sum()).float(), atol=0.01, rtol=0)


@pytest.mark.parametrize("correction", [True, False])
def test_smoothing_spreads_over_items_alike_however_they_are_drawn(correction: bool) -> None:
    """All that train events have, which is all that can be drawn."""
    config = SampledSoftmax(negatives=40_000, drawn="popularity", correction=correction)
    seen = Seen(COUNTS)
    scored = Scored(config.candidates(ROWS, seed=0, step=0, seen=seen), positives=[5], row_S=[0])
    plain, smooth = (
        each.build(ROWS, seen)(scored.output, batch([1.0]))
        for each in (config, config.model_copy(update={"label_smoothing": 0.5}))
    )
    mean = (scored.states_SD @ scored.table_ND[[2, 4, 5, 8, 9]].T).mean()
    torch.testing.assert_close(smooth - plain, 0.5 * (scored.score(0, 5) - mean), atol=0.02, rtol=0)


def test_draws_from_the_batch_are_its_events() -> None:
    config = SampledSoftmax(negatives=3000, drawn="in_batch")
    drawn = config.candidates(ROWS, seed=0, step=0, seen=Seen(COUNTS, torch.tensor([4, 9, 9])))
    assert torch.bincount(drawn)[9] / 3000 == pytest.approx(2 / 3, abs=0.05)
    assert {*drawn.tolist()} == {4, 9}
    nothing = config.candidates(ROWS, seed=0, step=0, seen=Seen(COUNTS, torch.zeros(0, dtype=torch.int64)))
    assert (len(nothing), int(nothing.min()) >= 2) == (3000, True)


@pytest.mark.parametrize("drawn", ["popularity", "in_batch"])
def test_log_q_subtracts_the_log_of_how_often_a_negative_is_expected(drawn: str) -> None:
    negatives = [9, 2, 5, 9]
    config = SampledSoftmax(negatives=4, drawn=drawn)
    scored = Scored(torch.tensor(negatives))
    want = 0.0
    for event, target in enumerate(POSITIVES):
        others = [
            scored.score(event, item) - math.log(4 * COUNTS[item].item() / COUNTS[2:].sum().item())
            for item in negatives
            if item != target
        ]
        own = scored.score(event, target)
        want += (math.log(sum(map(math.exp, [own, *others]))) - own) * (target >= 2)
    loss = config.build(ROWS, Seen(COUNTS))(scored.output, batch([1.0] * 4))
    assert loss.item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("kind", sampled_losses)
def test_every_sampled_loss_says_what_it_asks_for_and_how_many_it_draws(kind: type[SampledConfig]) -> None:
    assert kind().asks_for == frozenset()
    assert kind(drawn="popularity").asks_for == {"counts_N"}
    assert kind(drawn="in_batch").asks_for == {"counts_N", "batch_E"}
    assert kind(negatives=7, drawn="popularity").candidate_count(100) == 7


@pytest.mark.parametrize("kind", [SampledBinary, BPR])
def test_other_losses_leave_out_targets_out_of_vocabulary_and_ranks_without_events(kind: type[SampledConfig]) -> None:
    candidates = torch.tensor([2, 5])
    for positives, rows, weights in (([0, 1], [0, 1], [1.0, 1.0]), ([], [], [0.0]), ([5, 7], [0, 0], [0.0])):
        scored = Scored(candidates, positives, rows)
        loss = scored.loss(kind(negatives=2), weights)
        assert loss.item() == 0
        assert all(not gradient.any() for gradient in scored.gradients(loss))


def slow_loss(
    kind: type[SampledConfig], scored: Scored, event: int, shared: list[tuple[int, float]], own: list[int]
) -> float:
    """Of one event, in a loop over its negatives: those that all share, each with what is added to its score, and its
    own. What followed is no negative, wherever it was drawn from.
    """
    target = POSITIVES[event]
    positive = scored.score(event, target)
    others = [scored.score(event, item) + shift for item, shift in shared if item != target]
    others += [scored.score(event, item) for item in own if item not in (target, 0)]
    if kind is SampledSoftmax:
        return math.log(sum(map(math.exp, [positive, *others]))) - positive
    if kind is BPR:
        return sum(math.log(1 + math.exp(other - positive)) for other in others) / max(1, len(others))
    against = sum(math.log(1 + math.exp(other)) for other in others)
    return (math.log(1 + math.exp(-positive)) + against) / (1 + len(others))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("drawn", ["uniform", "popularity", "in_batch"])
@pytest.mark.parametrize("kind", sampled_losses)
def test_a_negative_that_followed_is_none_whoever_drew_it(kind: type[SampledConfig], drawn: str, hard: bool) -> None:
    """Forty draws of nine items, so that every target is among them; own negatives with what followed, and too few."""
    config = kind(negatives=40, drawn=drawn, hard={"path": "x.parquet", "per_event": 3} if hard else None)
    events = torch.tensor([item for item in POSITIVES if item >= 2])
    negatives = config.candidates(ROWS, seed=0, step=0, seen=Seen(COUNTS, events)).tolist()
    own = [[item, 3, 0] if item >= 2 else [0, 0, 0] for item in POSITIVES] if hard else [[] for _ in POSITIVES]
    assert {item for item in POSITIVES if item >= 2 and (drawn != "popularity" or COUNTS[item])} <= {*negatives}
    scored = Scored(torch.tensor([*negatives, *(item for each in own for item in each)]))
    share = COUNTS.clamp(min=1) / COUNTS[2:].sum()
    expected = {item: 40 / (ROWS - 2) if drawn == "uniform" else 40 * share[item].item() for item in range(2, ROWS)}
    shared = [(item, -math.log(expected[item]) if kind is SampledSoftmax else 0.0) for item in negatives]
    want = sum(slow_loss(kind, scored, event, shared, own[event]) * WEIGHTS[ROW_S[event]] for event in KNOWN)
    loss = config.build(ROWS, Seen(COUNTS))(scored.output, batch(WEIGHTS))
    assert loss.item() == pytest.approx(want, rel=1e-5)
    states, table = scored.gradients(loss)
    assert not table[0].any()
    assert states.any()
