"""Configs of runs on the tiny dataset of `next_item_data`."""

from pathlib import Path
from typing import Any

from sharded_emb.config.run import RunConfig
from sharded_emb.config.validate import validate

DIM, SEED = 8, 5
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


def hard_loss(folder: Path) -> dict[str, Any]:
    """With the negatives of a file that is written beside the dataset."""
    return {**LOSSES["sampled"], "hard": {"path": str(folder / "hard.parquet"), "per_event": 3}}


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
