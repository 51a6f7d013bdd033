"""What the tests of uneven ranks run on every rank: whole runs on so few samples that some ranks have none."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sharded_emb.config.build import Built
from sharded_emb.config.session import make_trainer
from sharded_emb.data.dataset import read_manifest, write_manifest
from sharded_emb.distributed.process_group import Place
from sharded_emb.training.run_folder import RunFolder
from tests.distributed.next_item_config import config
from tests.distributed.next_item_data import write_dataset

# rows of the train split, and keys of the config
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one sample": (1, {"global_batch": 4}),
    "a sample a step": (3, {"global_batch": 1}),
    "a last batch of one": (9, {"global_batch": 4}),
    "by events": (11, {"global_batch": 6, "global_batch_events": 12, "prefetch": {"batches": 3, "workers": 2}}),
    "like lengths": (11, {"global_batch": 3, "batches": {"like_lengths": True, "window": 2}, "accumulation": 2}),
}


def write(folder: Path, rows: int) -> None:
    """The tiny dataset with fewer rows to train on."""
    write_dataset(folder)
    part = folder / "train" / "part-00000.parquet"
    pq.write_table(pq.read_table(part).slice(20, rows), part)
    manifest = read_manifest(folder)
    train = manifest.splits["train"].model_copy(update={"rows": rows})
    write_manifest(folder, manifest.model_copy(update={"splits": {**manifest.splits, "train": train}}))


def train(place: Place, folders: Path, runs: Path) -> dict[str, Any]:
    """By case three epochs with an evaluation after each: steps, losses, metrics of valid."""
    found = {}
    for number, (name, (_, more)) in enumerate(CASES.items()):
        run_config = config(folders / str(number), early_stopping=None, log_every_steps=1, **more)
        folder = RunFolder.create(runs / str(number), "uneven", {}, place)
        trainer = make_trainer(Built(run_config, place), folder)
        trainer.train()
        folder.close()
        lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if line["split"] == "train"]
        valid = [line["ndcg@10"] for line in lines if line["split"] == "valid"]
        progress = trainer.progress
        found[name] = (progress.epoch, progress.samples, losses, valid)
    return found
