"""What the tests of resuming run on every rank: runs that are cut off at some steps and go on, and straight ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharded_emb.config.build import Built
from sharded_emb.config.run import RunConfig
from sharded_emb.config.session import make_trainer
from sharded_emb.distributed.process_group import Place
from sharded_emb.training import checkpoint_entries as entries
from sharded_emb.training import checkpoint_files as files
from sharded_emb.training.loop import Trainer
from sharded_emb.training.progress import MEASURED
from sharded_emb.training.run_folder import RunFolder
from tests.distributed.next_item_config import config
from tests.distributed.plan_checkpoint_cases import numbers

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adagrad": {"_target_": "adagrad", "lr": 0.1},
    "rowwise_adagrad": {"_target_": "rowwise_adagrad", "lr": 0.1},
    "adam": {"_target_": "adam", "lr": 0.01},
    # from zero, rounding decides the sign of an element's first step
    "steady adagrad": {"_target_": "adagrad", "lr": 0.1, "initial_accumulator": 0.1},
}
MODEL = {"_target_": "sharded_emb.models.sasrec.SASRec", "blocks": 1, "hidden": 8, "dropout": 0.3}

NEVER = 1000  # steps


class CutOffError(Exception):
    """In place of a kill."""


@dataclass(frozen=True)
class Case:
    """cuts: each is where a process ends: before a step, or in the evaluation after one (as a negative number). stops:
    before these, a step and what the run is at after it when its last rank hears a signal.
    """

    every_steps: int
    cuts: tuple[int, ...]
    optimizer: str = "adagrad"
    sharding: str = "row_wise"
    more: dict[str, Any] = field(default_factory=dict)
    asynchronous: bool = False
    stops: tuple[tuple[int, str], ...] = ()

    def config(self, data: Path) -> RunConfig:
        more = {"model": MODEL, "early_stopping": {"metric": "ndcg@10", "patience": 2}, "log_every_steps": 1}
        optimizer = OPTIMIZERS[self.optimizer]
        saving = {"every_steps": self.every_steps, "every_minutes": None, "asynchronous": self.asynchronous}
        tree = {**more, "embedding_optimizer": optimizer, "checkpoint": saving, **self.more}
        return config(data, self.sharding, **tree)

    def straight(self) -> "Case":
        """The same run, neither watched nor cut off nor saved but at its evaluations; many cases have the same."""
        more = {key: value for key, value in self.more.items() if key != "profile"}
        return replace(self, every_steps=NEVER, cuts=(), stops=(), asynchronous=False, more=more)


# seven steps an epoch, three epochs
CASES = [
    Case(1, (4,)),  # within an epoch
    Case(1, (8,), more={"profile": {"steps": 5}}),  # between two, after the evaluation; watched, as runs are
    Case(3, (-7,)),  # between two, in the evaluation
    Case(3, (5, 7, 9, 21, -21)),  # again and again, twice in an epoch
    Case(2, (6,), "rowwise_adagrad", "table_wise"),
    Case(2, (6, 13), "adam", "data_parallel", {"accumulation": 2, "clip_norm": 0.5}),
    Case(2, (4, 9), "adam", "column_wise"),
    Case(5, (2,)),  # before there is any checkpoint
    Case(1, (4, 9), asynchronous=True),
    Case(2, (6, -14), "adam", "data_parallel", asynchronous=True),
    Case(3, (), stops=((7, "evaluating"), (21, "evaluating test"))),
]

# weights that hardly move are never better than after the first epoch, so three end it; cut in the last of them
UNCHANGED = {"epochs": 6, "schedule": {"_target_": "sharded_emb.optim.schedule.Warmup", "warmup_steps": 10**9}}
IMPATIENT = Case(1, (16,), more=UNCHANGED)


def new_trainer(place: Place, run_config: RunConfig, run: Path) -> Trainer:
    """As the command makes it, in a folder that is there or is made."""
    tree = run_config.model_dump(mode="json", exclude={"resume"})
    folder = RunFolder.reopen(run, tree, place)
    built = Built(run_config, place, draw=folder is None or not files.steps(run / "checkpoints"))
    return make_trainer(built, folder or RunFolder.create(run, "resume", tree, place))


def _stopped(place: Place, run_config: RunConfig, run: Path, when: tuple[int, str]) -> bool:
    """Whether a run ends, without metrics, once its last rank hears a signal."""
    trainer = new_trainer(place, run_config, run)

    def hear(step: int, phase: str) -> None:
        if (step, phase) == when and place.rank == place.world_size - 1:
            trainer.signals.heard = 15

    trainer.tell = hear
    metrics = trainer.train()
    trainer.parts.folder.close()
    return not metrics and trainer.stop_signal == 15 and trainer.progress.step == when[0]


def train_once(place: Place, run_config: RunConfig, run: Path, cut: int | None) -> Trainer | None:
    """As the command does, to the end or to where it is cut off; None then."""
    trainer = new_trainer(place, run_config, run)
    folder = trainer.parts.folder
    collate, evaluator = trainer.parts.collate, trainer.parts.evaluator

    class Cut:
        unknown, read = collate.unknown, collate.read

        def batch(self, read: Any, rows: Any, size: int, step: int, everyone: Any) -> Any:
            if step == cut:
                raise CutOffError
            return collate.batch(read, rows, size, step, everyone)

        def policy(self, feature: str) -> str:
            return collate.policy(feature)

    class CutEvaluator:
        unknown, protocol = evaluator.unknown, evaluator.protocol

        def __call__(self, split: str, lists: bool = False) -> Any:
            if cut is not None and -trainer.progress.step == cut:
                raise CutOffError
            return evaluator(split, lists)

    parts: Any = {"collate": Cut(), "evaluator": CutEvaluator()}
    trainer.parts = replace(trainer.parts, **parts)
    try:
        folder.write_result("finished", trainer.result(trainer.train()))
    except CutOffError:
        return None
    finally:
        trainer.parts.checkpoints.wait()  # a process that is killed waits for nothing; this one goes on
        folder.close()
    return trainer


def everything(trainer: Trainer) -> dict[str, Any]:
    """All numbers of a run that has ended."""
    sharded, dense = trainer.parts.sharded, trainer.parts.dense
    whole = numbers(sharded)  # of all ranks, so that the first one has written its files by now
    folder = trainer.parts.folder.path
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", *MEASURED}
    result = json.loads((folder / "result.json").read_text())
    return {
        "tensors": {
            **whole,
            **{name: w.detach() for name, w in nn.ModuleDict(sharded.dense()).named_parameters()},
            **entries.dense_states(sharded, dense),
            "random": torch.get_rng_state(),
        },
        "lines": [{key: value for key, value in line.items() if key not in timed} for line in lines],
        "result": {key: result.get(key) for key in ("steps", "epochs", "metrics", "unknown_ids", "managed_tables")},
        "links": [(folder / "checkpoints" / name).resolve().name for name in ("last", "best")],
    }


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not bitwise the same."""
    tensors = [one["tensors"], other["tensors"]]
    odd = sorted(tensors[0].keys() ^ tensors[1].keys())
    odd += [name for name in tensors[0].keys() & tensors[1].keys() if not torch.equal(*(t[name] for t in tensors))]
    return odd + [key for key in one if key != "tensors" and one[key] != other[key]]


def cut_and_resumed(place: Place, data: Path, folder: Path, cases: Sequence[Case]) -> list[tuple[list[str], int]]:
    """By case what differs from the straight run, and how many processes there were."""
    found = []
    straight: list[tuple[Case, dict[str, Any]]] = []
    for number, case in enumerate(cases):
        if case.straight() not in [each for each, _ in straight]:
            trainer = train_once(place, case.straight().config(data), folder / f"{number}-straight", None)
            assert trainer is not None
            straight.append((case.straight(), everything(trainer)))
        (want,) = [result for each, result in straight if each == case.straight()]
        starts = 0
        for when in case.stops:
            starts += 1
            assert _stopped(place, case.config(data), folder / f"{number}-cut", when), (number, when)
        for cut in (*case.cuts, None):
            starts += 1
            trainer = train_once(place, case.config(data), folder / f"{number}-cut", cut)
            assert (trainer is None) == (cut is not None), (number, cut)
        assert trainer is not None
        found.append((differing(want, everything(trainer)), starts))
    return found


@dataclass(frozen=True)
class Move:
    """A run that is left in the middle of an epoch, and goes on by another plan, maybe on other ranks."""

    left_by: str
    goes_on_by: str
    optimizer: str = "steady adagrad"

    def case(self, sharding: str) -> Case:
        """Without dropout, whose draws belong to ranks."""
        return Case(2, (5,), self.optimizer, sharding, {"model": {**MODEL, "dropout": 0.0}})


MOVES = [
    Move("row_wise", "column_wise"),
    Move("table_wise", "data_parallel"),
    Move("data_parallel", "row_wise"),
    Move("data_parallel", "table_wise", "rowwise_adagrad"),
    Move("column_wise", "table_wise", "adam"),
]


def leave(place: Place, data: Path, runs: Path, moves: Sequence[Move]) -> None:
    """Each cut off where its case says."""
    for number, move in enumerate(moves):
        case = move.case(move.left_by)
        assert train_once(place, case.config(data), runs / str(number), case.cuts[0]) is None


def go_on(place: Place, data: Path, runs: Path, moves: Sequence[Move]) -> list[list[float]]:
    """The losses of each from its first step on; with a new folder, of straight runs."""
    found = []
    for number, move in enumerate(moves):
        run = runs / str(number)
        trainer = train_once(place, move.case(move.goes_on_by).config(data), run, None)
        assert trainer is not None
        everything(trainer)  # of all ranks, so that the first one has written its files by now
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found.append([line["loss"] for line in lines if line["split"] == "train"])
    return found


def go_on_and_leave(place: Place, data: Path, others: Path, mine: Path, moves: Sequence[Move]) -> list[list[float]]:
    """Both, in one process group."""
    found = go_on(place, data, others, moves)
    leave(place, data, mine, moves)
    return found
