"""Where the time of a step goes, from ranges as TorchRec names them."""

import json
from pathlib import Path

import pytest
import torch
from torch.autograd.profiler import record_function

from sharded_emb.distributed.calibrate import _line
from sharded_emb.distributed.phases import DATA, EXCHANGE, PHASES, STEP, UPDATE, Phases, named, phases
from sharded_emb.distributed.process_group import Place
from sharded_emb.training.profile import Profile, ProfileConfig

HERE = Place(0, 1, 0, 1, torch.device("cpu"), None)


def work() -> None:
    torch.ones(64, 64) @ torch.ones(64, 64)


def within(*names: str) -> None:
    """Some work inside of nested ranges, the outermost first."""
    if not names:
        return work()
    with record_function(names[0]):
        return within(*names[1:])


def seen(*nested: tuple[str, ...]) -> Phases:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for names in nested:
            within(*names)
    return phases(profiler.events(), "cpu")


@pytest.mark.parametrize(
    ("names", "phase"),
    [
        (("[splits_dist]_[embeddings.pooled]_[row_wise]",), "id_exchange"),
        (("## KJTListSplitsAwaitable wait() ##", "[output_dist_wait]_[embeddings.pooled]_[row_wise]"), "id_exchange"),
        (("[lookup]_[embeddings.pooled]_[row_wise]",), "lookup"),
        (("torch::autograd::CppNode<SplitNoBagLookupFunction_rowwise_adagrad_Op_pt2>",), "lookup"),
        (("_SumsBackward",), "lookup"),
        ((UPDATE, "aten::add"), "lookup"),
        (("[output_dist]_[embeddings.pooled]_[row_wise]", "fbgemm::permute_2D_sparse_data"), "vector_exchange"),
        (("autograd::engine::evaluate_function: All2All_Seq_ReqBackward",), "vector_exchange"),
        (("ReduceScatterBase_WaitBackward",), "vector_exchange"),
        (("_SummedBackward",), "vector_exchange"),
        ((EXCHANGE,), "vector_exchange"),
        (("Optimizer.step#AdamW.step",), "optimizer"),
        (("DistributedDataParallel.forward", "AddmmBackward0"), "dense"),
    ],
)
def test_work_belongs_to_the_outermost_range_with_a_known_name(names: tuple[str, ...], phase: str) -> None:
    found = seen((STEP, *names))
    assert found.steps == 1
    assert {name for name in PHASES if found.seconds[name] > 0} == {phase, "idle"}


def test_what_is_no_step_is_left_out_and_the_mean_is_over_steps() -> None:
    found = seen((DATA,), (STEP,), ("[lookup]_of_an_evaluation",), (DATA,), (STEP, "Optimizer.step#SGD.step"))
    assert found.steps == 2
    assert {name for name in PHASES if found.seconds[name] > 0} == {"data", "dense", "optimizer", "idle"}
    assert found.step == pytest.approx(sum(found.seconds.values()))


def test_an_evaluation_is_not_watched() -> None:
    profile = Profile(ProfileConfig(after_steps=1, steps=3), HERE)
    profile.step_ended()
    profile.interrupt()  # before a step that is watched has ended
    assert profile.phases is None
    for _ in range(3):
        profile.step_ended()
        with record_function(STEP):
            torch.ones(3).sum()
    profile.interrupt()
    assert profile.phases is not None
    assert profile.phases.steps == 3
    profile.step_ended()
    assert profile.phases.steps == 3


def test_a_profile_watches_the_steps_it_is_asked_to_and_writes_a_trace(tmp_path: Path) -> None:
    trace = tmp_path / "profile" / "rank-0.json"
    profile = Profile(ProfileConfig(after_steps=2, steps=3, trace=True), HERE, trace)
    for step in range(8):
        assert (profile.phases is None) == (step < 5)
        with named(STEP):
            work()
        profile.step_ended()
    assert profile.phases is not None
    assert profile.phases.steps == 3
    assert sum(event.get("name") == STEP for event in json.loads(trace.read_text())["traceEvents"]) == 3


def test_a_run_that_ends_before_it_is_watched_has_no_phases(tmp_path: Path) -> None:
    for config in (ProfileConfig(after_steps=2), ProfileConfig(after_steps=0, steps=0), ProfileConfig(after_steps=1)):
        profile = Profile(config, HERE, tmp_path / "none.json")
        profile.step_ended()
        profile.close()
        assert profile.phases is None
    assert not (tmp_path / "none.json").exists()


def test_a_rate_and_a_latency_come_from_two_pairs_of_work_and_seconds() -> None:
    rate, latency = _line((10.0, 1.1), (110.0, 2.1))
    assert (rate, latency) == (pytest.approx(100.0), pytest.approx(1.0))
    assert _line((10.0, 2.0), (100.0, 1.0)) == (100.0, 1e-9)
