"""What the tests of ids that go ahead run on every rank."""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from sharded_emb.batch import Batch
from sharded_emb.config.build import Built
from sharded_emb.config.run import RunConfig
from sharded_emb.data.prefetch import NONE, PrefetchConfig
from sharded_emb.data.source import Share
from sharded_emb.distributed.process_group import Place
from sharded_emb.embeddings.exchange import OnTheWay
from sharded_emb.errors import InputError
from sharded_emb.training.feed import Feed
from sharded_emb.training.state import LastSave
from sharded_emb.training.step import Learner, NotFiniteLossError
from tests.distributed import parity_cases, resume_cases
from tests.distributed.next_item_config import config
from tests.distributed.resume_cases import new_trainer

AHEAD, NOT_AHEAD = (PrefetchConfig(ids=ids) for ids in (True, False))
EXCHANGES = {
    "as it is": parity_cases.Exchange(),
    "distinct, in pieces": parity_cases.Exchange(distinct_ids=True, accumulation=2),
}
SHARDINGS = ("row_wise", "table_wise", "column_wise", "mixed")


Numbers = tuple[list[float], dict[str, Tensor]]


def numbers(place: Place) -> dict[tuple[str, str], list[Numbers]]:
    """By sharding and exchange: losses and tables of pooled and unpooled features, with ids ahead and without."""
    return {
        (sharding, name): [
            parity_cases.train_sharded(place, sharding, "adagrad", exchange, prefetch=prefetch)
            for prefetch in (AHEAD, NOT_AHEAD)
        ]
        for sharding in SHARDINGS
        for name, exchange in EXCHANGES.items()
    }


def ahead(data: Path, **more: Any) -> RunConfig:
    """Of a next-item run of seven steps an epoch."""
    return config(data, **{"prefetch": {"ids": True}, "early_stopping": None, "log_every_steps": 1, **more})


@contextmanager
def recorded() -> Iterator[list[str]]:
    """What is done in which order: counts of ids are sent, then ids, then vectors; and backward passes."""
    done: list[str] = []
    make, send, answer, backward = OnTheWay.__init__, OnTheWay.send, OnTheWay.answer, Tensor.backward

    def made(self: Any, *arguments: Any) -> None:
        done.append("counts")
        make(self, *arguments)

    def sent(self: Any) -> None:
        if self._ids is None:
            done.append("ids")
        send(self)

    def answered(self: Any) -> Any:
        found = answer(self)
        done.append("vectors")
        return found

    def went_back(self: Any, *arguments: Any, **named: Any) -> None:
        done.append("backward")
        backward(self, *arguments, **named)

    with (
        patch.object(OnTheWay, "__init__", made),
        patch.object(OnTheWay, "send", sent),
        patch.object(OnTheWay, "answer", answered),
        patch.object(Tensor, "backward", went_back),
    ):
        yield done


def order(place: Place, data: Path, run: Path) -> dict[str, list[str]]:
    """Of three steps, by what the run says."""
    found = {}
    for name, more in {
        "ahead": {},
        "not ahead": {"prefetch": {"ids": False}},
        "in pieces": {"accumulation": 2},
    }.items():
        trainer = new_trainer(place, ahead(data, steps=3, **more), run / name)
        with recorded() as found[name]:
            trainer._epoch()
        trainer.parts.folder.close()
    return found


def in_between(place: Place, data: Path) -> dict[str, bool]:
    """Whether the vectors of a batch that was begun are its own, after lookups of another batch and after a loss that
    is no number, and those of the other one too.
    """
    built = Built(ahead(data, sharding={"type": "row_wise", "distinct_ids": True}), place)
    feed = Feed(built.source(), built.collate(), Share(place.rank, place.world_size), place.device, NONE)
    with closing(feed.epoch(0, 0, 1)) as every:
        one, two = (next(every).pieces[0] for _ in range(2))
    embeddings = built.sharded.embeddings

    def vectors(batch: Batch) -> Tensor:
        return embeddings(batch).sequences["history"].values_TD.detach()

    want_one, want_two = vectors(one), vectors(two)
    embeddings.begin(one)
    between = [vectors(two)]
    embeddings.send()
    with torch.no_grad():
        between.append(built.sharded.embed(two).sequences["history"].values_TD)
    found = {"begun": torch.equal(vectors(one), want_one), "other": all(torch.equal(b, want_two) for b in between)}
    learner = Learner(built.sharded, built.dense, built.config.schedule, ids_ahead=True)
    try:
        learner.step([one], math.nan, 1, two)
    except NotFiniteLossError:
        found["not a number"] = torch.equal(vectors(one), want_one) and torch.equal(vectors(two), want_two)
    return found


def stopped(place: Place, data: Path, run: Path) -> tuple[int | None, int, list[str]]:
    """A signal that the last rank hears in the third step: the signal and the step after which the run ends, and what
    differs from the straight run when it has gone on and was cut off once more, after a save with the next batch at
    hand, whose unknown ids are not counted by then.
    """
    features = {"history": {"table": "item", "column": "items", "max_length": 6, "unknown": "row"}}
    case = resume_cases.Case(1, (), more={"prefetch": {"ids": True}, "epochs": 2, "features": features})
    straight = resume_cases.train_once(place, case.config(data), run / "straight", None)
    assert straight is not None
    want = resume_cases.everything(straight)
    assert want["result"]["unknown_ids"]["train"]["history"]["ids"] > 0
    trainer = new_trainer(place, case.config(data), run / "stopped")

    def hear(step: int, phase: str) -> None:
        if (step, phase) == (2, "backward") and place.rank == place.world_size - 1:
            trainer.signals.heard = 15

    trainer.tell = hear
    trainer.train()
    trainer.parts.folder.close()
    assert resume_cases.train_once(place, case.config(data), run / "stopped", 7) is None
    again = resume_cases.train_once(place, case.config(data), run / "stopped", None)
    assert again is not None
    differing = resume_cases.differing(want, resume_cases.everything(again))
    return trainer.stop_signal, trainer.progress.step, differing


def bad_id(place: Place, data: Path, run: Path) -> tuple[str, int, bool]:
    """The last rank finds one in the third batch: the error, the steps done by then, and whether the table is that of
    a run of so many steps.
    """
    trainers = []
    for name, steps in (("two", 2), ("bad", 7)):
        trainer = new_trainer(place, ahead(data, steps=steps), run / name)
        trainers.append(trainer)
        collate = trainer.parts.collate

        def batch(*arguments: Any, collate: Any = collate) -> Any:
            if arguments[3] == 3 and place.rank == place.world_size - 1:
                raise InputError("a bad id")
            return collate.batch(*arguments)

        failing: Any = SimpleNamespace(unknown=collate.unknown, read=collate.read, policy=collate.policy, batch=batch)
        trainer.parts = replace(trainer.parts, collate=failing)
    said = ""
    trainers[0]._epoch()
    try:
        trainers[1]._epoch()
    except InputError as error:
        said = str(error)
    for trainer in trainers:
        trainer.parts.folder.close()
    two, bad = (trainer.parts.sharded.whole_table("item") for trainer in trainers)
    return said, trainers[1].progress.step, torch.equal(two, bad)


def saves(place: Place, data: Path, run: Path) -> list[int]:
    """After which of eleven steps a run saves that is to once two are done since."""
    trainer = new_trainer(place, ahead(data, steps=11, checkpoint={"every_steps": None, "every_minutes": None}), run)
    found = []

    def over() -> bool:
        return place.rank == 0 and trainer.progress.step - trainer.last_save.step >= 2

    def save(best: bool = False) -> None:
        found.append(trainer.progress.step)
        trainer.last_save = LastSave(trainer.progress.step, best)

    with patch.object(trainer, "_minutes_over", over), patch.object(trainer, "_save", save):
        while trainer.progress.step < 11:
            trainer._epoch()
    trainer.parts.folder.close()
    return found


def everything(place: Place, data: Path, runs: Path) -> dict[str, Any]:
    """All of them, in one process group."""
    return {
        "numbers": [(case, _differing(*both)) for case, both in numbers(place).items()],
        "order": order(place, data, runs / "order"),
        "in between": in_between(place, data),
        "stopped": stopped(place, data, runs / "stop"),
        "bad id": bad_id(place, data, runs / "bad"),
        "saves": saves(place, data, runs / "saves"),
    }


def _differing(one: Numbers, other: Numbers) -> list[str]:
    """Names of what is not bitwise the same."""
    odd = [name for name in one[1] if not torch.equal(one[1][name], other[1][name])]
    return odd + (["losses"] if one[0] != other[0] else [])
