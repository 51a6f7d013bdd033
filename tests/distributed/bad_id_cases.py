"""What the tests of bad ids run on every rank: DIN on clicks of which one has an id that is no row of its table."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor, nn

from sharded_emb.cli import compose_all
from sharded_emb.config.run import RunConfig
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.prepare import prepare
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import OutOfRangeIdError
from sharded_emb.training import checkpoint_entries as entries
from sharded_emb.training.loop import Trainer
from tests.distributed.plan_checkpoint_cases import numbers
from tests.distributed.resume_cases import new_trainer

LAYOUT = "sharded_emb.data.layouts.labelled_events.LabelledEvents"
BATCH, STEPS_BEFORE, ROW = 8, 2, 22  # the third row of the second rank's part of the third batch
COLUMNS = {"history": "items", "category": "category"}  # by feature: a sequence, and one that is pooled
WORDS = [
    *("dataset=labelled_events", "model=din", "loss=binary_cross_entropy", "sharding=row_wise"),
    *("tables.item.dim=8", "+tables.category={dim: 4, optimizer: {_target_: adam, lr: 0.01}}"),
    "+features.item={table: item, column: item, pooling: sum}",
    "+features.category={table: category, column: category, pooling: mean}",
    *("embedding_optimizer=adagrad", "schedule.warmup_steps=0", "early_stopping=null", "batches.shuffle=false"),
    *(f"global_batch={BATCH}", "profile.steps=0", "device=cpu"),
]


def write_clicks(folder: Path) -> None:
    """A dataset folder of 240 rows to train on, with histories of clicks."""
    lines = [f"{at * 7 % 11},{at * at % 17},{int(at % 3 != 0)},{1000 + at},c{at % 5}" for at in range(300)]
    log = folder.with_suffix(".csv")
    log.write_text("\n".join(["user,item,clicked,time,category", *lines]))
    config = {"raw": str(log), "layout": {"_target_": LAYOUT, "label": "clicked"}}
    event_log = EventLog.model_validate({**config, "attributes": {"category": {"of": "event"}}})
    prepare(event_log, folder, seed=0, overwrite=False)


def spoil(good: Path, folder: Path, column: str, bad: int) -> None:
    """The dataset with a bad id in one row of its only part, as something else may have written it."""
    shutil.copytree(good, folder)
    (part,) = (folder / "train").glob("*.parquet")
    table = pq.read_table(part)
    values = table[column].to_pylist()
    values[ROW] = [*values[ROW][:-1], bad] if isinstance(values[ROW], list) else bad
    field = table.schema.field(column)
    pq.write_table(table.set_column(table.column_names.index(column), field, pa.array(values, field.type)), part)


def clicks_config(data: Path, *words: str) -> RunConfig:
    return compose_all("train", [*WORDS, f"data={data}", *words]).validated(RunConfig)


def everything_trained(trainer: Trainer) -> dict[str, Tensor]:
    """Tables and their states, of all ranks, and dense weights and their states, by name."""
    sharded, dense = trainer.parts.sharded, trainer.parts.dense
    weights = {name: weight.detach() for name, weight in nn.ModuleDict(sharded.dense()).named_parameters()}
    found = {**numbers(sharded), **weights, **entries.dense_states(sharded, dense)}
    return {name: values.clone() for name, values in found.items()}


def trained(place: Place, data: Path, run: Path, steps: int) -> dict[str, Tensor]:
    """What a run of so many steps has."""
    trainer = new_trainer(place, clicks_config(data, f"steps={steps}"), run)
    while trainer.progress.step < steps:
        trainer._epoch()
    trainer.parts.folder.close()
    return everything_trained(trainer)


def refused(place: Place, data: Path, run: Path, ids_ahead: bool) -> tuple[str, int, str, dict[str, Tensor]]:
    """The error of a whole run, the steps done by then, its last checkpoint, and what it has after that."""
    words = ("steps=9", "checkpoint.every_steps=1", f"prefetch.ids={ids_ahead}")
    trainer = new_trainer(place, clicks_config(data, *words), run)
    said = ""
    try:
        trainer.train()
    except OutOfRangeIdError as error:
        said = str(error)
    trainer.parts.folder.close()
    last = (run / "checkpoints" / "last").resolve().name
    return said, trainer.progress.step, last, everything_trained(trainer)


def everything(place: Place, good: Path, bad: dict[str, Path], runs: Path) -> dict[str, Any]:
    """What a run on the good dataset has after the steps before the bad id, and after one step less; by feature with
    a bad id, and whether ids go ahead, what `refused` found.
    """
    return {
        "before": trained(place, good, runs / "before", STEPS_BEFORE),
        "earlier": trained(place, good, runs / "earlier", STEPS_BEFORE - 1),
        "refused": {
            (feature, ids_ahead): refused(place, data, runs / f"{feature} {ids_ahead}", ids_ahead)
            for feature, data in bad.items()
            for ids_ahead in (True, False)
        },
    }
