"""What the next-item tests run on every rank: SASRec on a tiny dataset folder's worth of sequences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from sharded_emb.config.build import Built
from sharded_emb.config.run import RunConfig
from sharded_emb.config.validate import validate
from sharded_emb.data.prefetch import NONE
from sharded_emb.distributed.agree import raise_together
from sharded_emb.distributed.local_shards import fused_states
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError, OutOfRangeIdError
from sharded_emb.training.against import of_baseline, of_model
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.early_stopping import EarlyStopping
from sharded_emb.training.evaluation import NextItemEvaluator
from sharded_emb.training.limits import Limits
from sharded_emb.training.loop import Trainer
from sharded_emb.training.parts import Parts
from sharded_emb.training.profile import Profile, ProfileConfig
from sharded_emb.training.run_folder import RunFolder
from sharded_emb.training.step import NotFiniteLossError, Stepping
from tests.distributed.driven import Recorder, drive, train_steps
from tests.distributed.next_item_config import DIM, LOSSES, MODELS, MORE_LOSSES, SHARDINGS, config, hard_loss
from tests.distributed.next_item_data import ITEMS


def train_sharded(place: Place, folder: Path) -> dict[tuple[str, str], Any]:
    """By sharding and loss: losses, the table, metrics of valid before and after."""
    found = {}
    for sharding in SHARDINGS:
        for loss in LOSSES:
            built = Built(config(folder, sharding, loss), place)
            before = built.evaluator()("valid")
            found[sharding, loss] = (
                train_steps(built),
                built.sharded.whole_table("item"),
                before,
                built.evaluator()("valid"),
            )
    return found


def described(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Tables and features of a config, with the tags of items."""
    init = {"_target_": "sharded_emb.initializers.Normal", "std": 0.3}
    tag = {"table": "tag", "column": "tags", "pooling": "mean", "of": "history"}
    return {
        "tables": {**tree["tables"], "tag": {"dim": DIM, "init": init}},
        "features": {**tree["features"], "tag": tag},
    }


def train_described(place: Place, folder: Path) -> dict[tuple[str, str], Any]:
    """By sharding and loss: losses, and the tables of items and of their tags, of items that are described."""
    found = {}
    for sharding, loss in (("row_wise", "sampled"), ("table_wise", "full"), ("data_parallel", "full")):
        tree = config(folder, sharding, loss).model_dump(mode="json")
        built = Built(validate(RunConfig, {**tree, **described(tree)}), place)
        losses = train_steps(built)
        found[sharding, loss] = losses, built.sharded.whole_table("item"), built.sharded.whole_table("tag")
    return found


def train_models(place: Place, folder: Path) -> dict[str, Any]:
    """By model, and by loss: losses, the table, and metrics of valid, of a row-wise table."""
    found = {}
    for name, model in MODELS.items():
        features = {"history": {"table": "item", "column": "items", "max_length": 6}}
        if name == "hstu":
            features["history"]["pooling"] = {"_target_": "none", "times": "times"}
        built = Built(config(folder, model=model, features=features), place)
        found[name] = train_steps(built, 8), built.sharded.whole_table("item"), built.evaluator()("valid")
    for name, loss in {**MORE_LOSSES, "hard": hard_loss(folder)}.items():
        built = Built(config(folder, loss=loss, accumulation=2), place)
        stepping = Stepping(accumulation=2)
        losses = drive(built, built.config.schedule, built.collate(), built.source(), 8, stepping)
        found[name] = losses, built.sharded.whole_table("item"), built.evaluator()("valid")
    return found


def bad_ids(place: Place, folder: Path) -> dict[tuple[str, int], Any]:
    """By sharding and bad id: the error's type and text."""
    found = {}
    for sharding in ("table_wise", "row_wise", "column_wise", "data_parallel"):
        built = Built(config(folder, sharding), place)
        for bad in (ITEMS, ITEMS + 1, -1, 2**31, 2**63 - 1):
            caught = None
            try:
                _collate_bad_id(built, bad)
            except InputError as error:
                caught = error
            found[sharding, bad] = (type(caught) is OutOfRangeIdError, str(caught))
    return found


def no_number(place: Place, folder: Path) -> dict[tuple[str, int], Any]:
    """By sharding and pieces of a batch: the error's text, and whether any number of the table, its state or the dense
    weights moved, after the first rank alone has a dense weight that is no number.
    """
    found = {}
    for sharding in ("table_wise", "row_wise", "column_wise", "data_parallel"):
        for accumulation in (1, 2):
            built = Built(config(folder, sharding, accumulation=accumulation), place)
            train_steps(built, 2)
            weight = next(iter(built.sharded.dense_parameters()))
            if place.rank == 0:  # which has a sample of every piece
                weight.data.fill_(torch.nan)
            numbers = [*_numbers(built), *(each.detach().clone() for each in built.sharded.dense_parameters())]
            stepping, text = Stepping(accumulation), ""
            try:
                drive(built, built.config.schedule, built.collate(), built.source(), 3, stepping, Recorder(folder))
            except NotFiniteLossError as error:
                text = str(error)
            now = [*_numbers(built), *built.sharded.dense_parameters()]
            same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(numbers, now, strict=True))
            found[sharding, accumulation] = (text, same)
    return found


def _numbers(built: Built) -> list[Tensor]:
    shards = [shard.values_RC.clone() for shard in built.sharded.shards()]
    return [*shards, *(state.clone() for _, state in fused_states(built.sharded.fused))]


def _collate_bad_id(built: Built, bad: int) -> None:
    """A global batch of 4 rows, the last with a bad id: on rank 0 of one, on rank 1 of two, on rank 3 of four."""
    split = pa.table({"items": pa.array([[2, 3, 4], [5, 6], [7, 8, 9], [2, bad, 3]], pa.list_(pa.int64()))})
    collate = type(built.collate())(split, built.reading, built.place.rank)
    rows = np.array_split(np.arange(4), built.place.world_size)[built.place.rank]
    error = None
    try:
        collate(rows, len(rows), 12)
    except InputError as wrong:
        error = wrong
    raise_together(error, built.place)


def evaluate_and_list(place: Place, folder: Path) -> Any:
    """Metrics of all splits and every user's list."""
    built = Built(config(folder), place)
    evaluator = built.evaluator()
    assert isinstance(evaluator, NextItemEvaluator)
    lists = {
        int(user): items.tolist()
        for part in evaluator.recommend("test", 10, filter_seen=True)
        for user, items in zip(part.rows_B, part.items_BK, strict=True)
    }
    metrics = {split: evaluator(split, lists=True) for split in ("valid", "test")}
    return metrics, lists, built.sharded.whole_table("item")


def perform(place: Place, folder: Path) -> dict[str, Any]:
    """By model or baseline the ranks of all targets; on every rank those of all users, in the order of the split."""
    evaluator = Built(config(folder), place).evaluator()
    found = {"model": of_model(evaluator, "test"), "markov": of_baseline(evaluator, "markov", "test")}
    return {name: each.ranks.by_name for name, each in found.items() if each.ranks is not None}


def save_run(place: Place, folder: Path, run: Path, sharding: str) -> tuple[Tensor, Any]:
    built = Built(config(folder, sharding), place)
    train_steps(built, 5)
    Checkpoints(run, place, built.vocabularies()).save(built.sharded, built.dense, 5, best=True)
    return built.sharded.whole_table("item"), built.evaluator()("test")


def load_run(place: Place, folder: Path, run: Path, sharding: str) -> tuple[Tensor, Any]:
    built = Built(config(folder, sharding), place)
    checkpoints = Checkpoints(run, place, built.vocabularies())
    checkpoints.load(built.sharded, None, checkpoints.newest())
    return built.sharded.whole_table("item"), built.evaluator()("test")


def newest_while_it_moves(place: Place, folder: Path, run: Path) -> Path:
    """What each rank takes for the newest checkpoint where `best` moves while they look."""
    checkpoints = Checkpoints(run, place, Built(config(folder), place).vocabularies())
    patched = pytest.MonkeyPatch()
    patched.setattr("sharded_emb.training.checkpoint_files.newest", lambda of: of / f"step-{place.rank}")
    found = checkpoints.newest()
    patched.undo()
    return found


def stop_on_one_rank(place: Place, folder: Path, run: Path) -> tuple[int | None, int, int, list[str]]:
    """Rank 1 alone hears of SIGTERM while it collates step 4; returns what each rank then did."""
    built = Built(config(folder), place)
    collate = built.collate()

    class CollateAndHear:
        unknown, read = collate.unknown, collate.read

        def batch(self, read: Any, rows: Any, size: int, step: int, everyone: Any) -> Any:
            if step == 4 and place.rank == 1:
                trainer.signals.heard = 15
            return collate.batch(read, rows, size, step, everyone)

    parts = Parts(
        sharded=built.sharded,
        dense=built.dense,
        schedule=built.config.schedule,
        source=built.source(),
        collate=CollateAndHear(),  # type: ignore[arg-type]
        evaluator=built.evaluator(),
        folder=RunFolder.create(run, "stop", {}, place),
        checkpoints=Checkpoints(run, place, {}),
        profile=Profile(ProfileConfig(steps=0), place),
    )
    trainer = Trainer(parts, Limits(None, 3, 1, 1), EarlyStopping(None), prefetch=NONE)
    metrics = trainer.train()
    parts.folder.close()
    return trainer.stop_signal, trainer.progress.step, trainer.progress.epoch, list(metrics)
