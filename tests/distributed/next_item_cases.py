"""What the next-item tests run on every rank: SASRec on a tiny dataset folder's worth of sequences."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Extent, Jagged
from sharded_emb.config.build import Built, resolve_tables
from sharded_emb.config.run import RunConfig
from sharded_emb.config.validate import validate
from sharded_emb.data.dataset import Column, Dataset, Manifest, SplitInfo, VocabularyInfo, write_manifest
from sharded_emb.data.prefetch import DEFAULT, NONE, PrefetchConfig
from sharded_emb.distributed.agree import raise_together
from sharded_emb.distributed.local_shards import fused_states
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError, OutOfRangeIdError
from sharded_emb.initializers import Normal, hashed_uniform, stream_key
from sharded_emb.models.compared import CausalModel
from sharded_emb.optim.schedule import Schedule
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
from sharded_emb.vocabulary_rows import FIRST_ROW

ITEMS, USERS, DIM, SEED, STEPS = 37, 45, 8, 5, 20
ONE_PIECE = Stepping()
SHARDINGS = ("table_wise", "row_wise", "column_wise", "data_parallel", "auto")
LOSSES: dict[str, dict[str, Any]] = {
    "full": {"_target_": "sharded_emb.losses.softmax.Softmax"},
    "sampled": {"_target_": "sharded_emb.losses.sampled_softmax.SampledSoftmax", "negatives": 9},
}


MODELS: dict[str, dict[str, Any]] = {
    name: {"_target_": f"sharded_emb.models.{name}.{kind}", **more, **({} if name == "item2vec" else {"dropout": 0.0})}
    for name, kind, more in (
        ("hstu", "HSTU", {"blocks": 1}),
        ("esasrec", "ESASRec", {"hidden": 8}),
        ("gru4rec", "GRU4Rec", {"hidden": 8}),
        ("bert4rec", "BERT4Rec", {"blocks": 1, "hidden": 8, "hidden_share": 0.4}),
        ("two_tower", "TwoTower", {"hidden": 8}),
        ("item2vec", "Item2Vec", {"window": 2}),
    )
}

MORE_LOSSES: dict[str, dict[str, Any]] = {
    name: {"_target_": f"sharded_emb.losses.{target}", "negatives": 9, **more}
    for name, target, more in (
        ("in_batch", "sampled_softmax.SampledSoftmax", {"drawn": "in_batch"}),
        ("popularity", "sampled_softmax.SampledSoftmax", {"drawn": "popularity"}),
        ("gbce", "sampled_binary.SampledBinary", {"calibration": 0.75}),
        ("bpr", "bpr.BPR", {"drawn": "in_batch", "weight": "importance"}),
    )
}

TAGS = 7
# by row of an item its tags: none for some, one of them twice for others
TAGGED = [[], [], *([2 + tag % (TAGS - 2) for tag in range(item, item + item % 4)] for item in range(FIRST_ROW, ITEMS))]
TAGGED[5] = [3, 3, 4]

# by row of an item those that are hard to tell from it: none for some, itself for others
HARD = {item: [other for other in range(item + 1, item + item % 5) if other < ITEMS] for item in range(ITEMS)}


def hard_loss(folder: Path) -> dict[str, Any]:
    """With the negatives of a file that is written beside the dataset."""
    return {**LOSSES["sampled"], "hard": {"path": str(folder / "hard.parquet"), "per_event": 3}}


def sequences() -> list[list[int]]:
    """Users of 3 to 12 events; the last two are the targets of valid and test."""
    draw = np.random.default_rng(11)
    return [draw.integers(FIRST_ROW, ITEMS, draw.integers(3, 13)).tolist() for _ in range(USERS)]


def write_dataset(folder: Path) -> None:
    """A dataset folder as `prepare` writes it."""
    import pyarrow.parquet as pq

    rows = {"train": [s[:-2] for s in sequences()], "valid": [s[:-1] for s in sequences()], "test": sequences()}
    for split, lists in rows.items():
        (folder / split).mkdir(parents=True)
        users = pa.array(range(FIRST_ROW, FIRST_ROW + USERS), pa.int64())
        times = [[10**9 + 3600 * place**2 for place in range(len(items))] for items in lists]
        columns = {
            name: pa.array(each, pa.list_(pa.int64())) for name, each in {"items": lists, "times": times}.items()
        }
        importance = pa.array([0.25 + place % 3 for place in range(USERS)], pa.float32())
        table = pa.table({"user": users, "importance": importance, **columns})
        pq.write_table(table, folder / split / "part-00000.parquet")
    (folder / "vocabulary").mkdir()
    (folder / "attributes").mkdir()
    pq.write_table(pa.table({"tags": pa.array(TAGGED, pa.list_(pa.int64()))}), folder / "attributes" / "item.parquet")
    for name, size in (("item", ITEMS), ("user", FIRST_ROW + USERS), ("tag", TAGS)):
        raw = pa.array([None, None, *(1000 + i for i in range(size - FIRST_ROW))], pa.int64())
        vocabulary = pa.table({"row": pa.array(range(size), pa.int64()), "raw": raw, "count": pa.array([1] * size)})
        pq.write_table(vocabulary, folder / "vocabulary" / f"{name}.parquet")
    lists = {
        998 + item: [998 + other for other in (item, *others)] for item, others in HARD.items() if item >= FIRST_ROW
    }
    negatives = pa.array([*lists.values()], pa.list_(pa.int64()))
    pq.write_table(pa.table({"item": pa.array(list(lists)), "negatives": negatives}), folder / "hard.parquet")
    write_manifest(
        folder,
        Manifest(
            schema_version=1,
            layout="NextItem",
            split="leave_one_out",
            columns={
                "user": Column(type="int64", vocabulary="user"),
                "items": Column(type="list<int64>", vocabulary="item"),
                "times": Column(type="list<int64>"),
                "importance": Column(type="float32"),
            },
            item_attributes={"tags": Column(type="list<int64>", vocabulary="tag")},
            splits={split: SplitInfo(rows=USERS, parts=1) for split in rows},
            counts={"users": USERS, "items": ITEMS - FIRST_ROW, "events": sum(map(len, sequences()))},
            vocabularies={
                "item": VocabularyInfo(rows=ITEMS, raw="int64", sha256="0"),
                "user": VocabularyInfo(rows=FIRST_ROW + USERS, raw="int64", sha256="0"),
                "tag": VocabularyInfo(rows=TAGS, raw="int64", sha256="0"),
            },
            built_over="all events",
            source=[],
            seed=0,
            dataset={},
        ),
    )


def config(
    folder: Path, sharding: str | dict[str, Any] = "row_wise", loss: str | dict[str, Any] = "sampled", **more: Any
) -> RunConfig:
    tree = {
        "data": str(folder),
        "seed": SEED,
        "global_batch": 7,
        "epochs": 3,
        "evaluation": {"batch_per_rank": 4},
        "profile": {"steps": 0},  # reading what the profiler saw takes longer than the rest of such a run
        "dataset": {"_target_": "sharded_emb.data.sequence_text.SequenceText"},
        "tables": {"item": {"dim": DIM, "init": {"_target_": "sharded_emb.initializers.Normal", "std": 0.3}}},
        "features": {"history": {"table": "item", "column": "items", "max_length": 6}},
        "model": {"_target_": "sharded_emb.models.sasrec.SASRec", "blocks": 1, "hidden": 8, "dropout": 0.0},
        "loss": LOSSES[loss] if isinstance(loss, str) else loss,
        "embedding_optimizer": {"_target_": "sharded_emb.optim.adagrad.Adagrad", "lr": 0.1},
        "dense_optimizer": {"_target_": "sharded_emb.optim.adamw.AdamW", "lr": 0.01},
        "schedule": {"_target_": "sharded_emb.optim.schedule.Warmup", "warmup_steps": 5},
        "sharding": {"type": sharding} if isinstance(sharding, str) else sharding,
        **more,
    }
    return validate(RunConfig, tree)


class Recorder:
    """Stands for the run folder of a trainer: keeps the losses of the global batches."""

    def __init__(self, path: Path = Path("nowhere")) -> None:
        self.path = path
        self.losses: list[float] = []

    def write_metrics(self, step: int, split: str, metrics: dict[str, float]) -> None:
        assert step == len(self.losses) + 1
        assert split == "train"
        self.losses.append(metrics["loss"])


def drive(
    built: Any,
    schedule: Schedule,
    collate: Any,
    source: Any,
    steps: int,
    stepping: Stepping = ONE_PIECE,
    recorder: Recorder | None = None,
    prefetch: PrefetchConfig = DEFAULT,
) -> list[float]:
    """The real trainer for some steps, without evaluations and checkpoints; returns the losses."""
    folder: Any = recorder or Recorder()
    watched = Profile(ProfileConfig(steps=0), built.sharded.place)
    checkpoints: Any = SimpleNamespace(failed=False)
    parts = Parts(built.sharded, built.dense, schedule, source, collate, built, folder, checkpoints, watched)
    trainer = Trainer(parts, Limits(steps, None, 1, 1), EarlyStopping(None), stepping, prefetch)
    while trainer.progress.step < steps:
        trainer._epoch()
    return folder.losses


def train_steps(built: Built, steps: int = STEPS) -> list[float]:
    """Losses of the global batches."""
    return drive(built, built.config.schedule, built.collate(), built.source(), steps)


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


def plain_table(name: str, rows: int) -> Tensor:
    drawn = hashed_uniform(stream_key(SEED, f"tables.{name}"), torch.arange(rows), torch.arange(DIM))
    table = Normal(std=0.3).values(drawn, rows, DIM)
    table[0] = 0
    return table.requires_grad_()


def shares_of_tags() -> Tensor:
    """The share of each tag in each item: (items, tags)."""
    shares = torch.zeros(ITEMS, TAGS)
    for item, tags in enumerate(TAGGED):
        for tag in tags:
            shares[item, tag] += 1 / len(tags)
    return shares


def train_plain(folder: Path, loss: str, with_tags: bool = False) -> tuple[list[float], Tensor, Tensor]:
    """The same with plain matrices in one process: padded batches, autograd, Adagrad and AdamW of torch."""
    run = config(folder, "row_wise", loss)
    table, tags = plain_table("item", ITEMS), plain_table("tag", TAGS)
    torch.manual_seed(SEED)
    model: Any = run.model.build(resolve_tables(run, Dataset.open(folder), None))
    dense = run.dense_optimizer.build(model.parameters())
    adagrad = torch.optim.Adagrad([table, tags], lr=0.1, eps=1e-8, initial_accumulator_value=0.1)
    source = plain_source()
    losses = []
    parts = [part for epoch in range(9) for part in source.parts(epoch, 0, 1)]
    for step, part in enumerate(parts[:STEPS], start=1):
        factor = run.schedule.factor(step)
        adagrad.param_groups[0]["lr"] = 0.1 * factor
        for group in dense.param_groups:
            group["lr"] = 0.01 * factor
        items = table + shares_of_tags() @ tags if with_tags else table
        loss_value = _plain_loss(run, model, items, [sequences()[i][:-2][-7:] for i in part.rows], step)
        loss_value.backward()
        for optimizer in (adagrad, dense):
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss_value.item())
    return losses, table.detach(), tags.detach()


def plain_source() -> Any:
    from sharded_emb.data.source import BatchesConfig, Source

    return Source(np.ones(USERS, dtype=np.int64), BatchesConfig(), 7, SEED)


def _plain_loss(run: RunConfig, model: CausalModel, table: Tensor, rows: list[list[int]], step: int) -> Tensor:
    """The mean cross-entropy over all events with a successor, one row at a time."""
    candidates = run.loss.candidates(ITEMS, SEED, step)  # type: ignore[attr-defined]
    losses = []
    for row in rows:
        if len(row) < 2:
            continue
        ids = torch.tensor(row)
        inputs = Jagged(F.embedding(ids[:-1], table), ids[:-1], torch.tensor([len(row) - 1]), Extent(len(row) - 1, 1))
        for state_D, target in zip(model.encode(inputs), ids[1:], strict=True):
            scores_K = table[candidates] @ state_D
            if run.loss.task == "next_item" and len(candidates) < ITEMS - FIRST_ROW:
                scores_K = scores_K[candidates != target] + np.log((ITEMS - FIRST_ROW) / len(candidates))
                losses.append(torch.logsumexp(torch.cat([scores_K, (table[target] @ state_D)[None]]), 0))
            else:
                losses.append(torch.logsumexp(scores_K, 0))
            losses[-1] = losses[-1] - table[target] @ state_D
    return torch.stack(losses).mean()


def bad_ids(place: Place, folder: Path) -> dict[tuple[str, int], Any]:
    """By sharding and bad id: the error's type and text, and whether any number of the table or its state moved."""
    found = {}
    for sharding in ("table_wise", "row_wise", "column_wise", "data_parallel"):
        built = Built(config(folder, sharding), place)
        train_steps(built, 2)
        for bad in (ITEMS, ITEMS + 1, -1, 2**31, 2**63 - 1):
            before = _numbers(built)
            caught = None
            try:
                _step_with_bad_id(built, bad)
            except InputError as error:
                caught = error
            same = all(torch.equal(a, b) for a, b in zip(before, _numbers(built), strict=True))
            found[sharding, bad] = (type(caught) is OutOfRangeIdError, str(caught), same)
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


def _step_with_bad_id(built: Built, bad: int) -> None:
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
    return {name: each.ranks for name, each in found.items()}


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


def open_dataset(folder: Path) -> Dataset:
    return Dataset.open(folder)


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
