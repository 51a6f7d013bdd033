"""The real trainer for some steps of a run that has no folder."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sharded_emb.config.build import Built
from sharded_emb.data.prefetch import DEFAULT, PrefetchConfig
from sharded_emb.optim.schedule import Schedule
from sharded_emb.training.early_stopping import EarlyStopping
from sharded_emb.training.limits import Limits
from sharded_emb.training.loop import Trainer
from sharded_emb.training.parts import Parts
from sharded_emb.training.profile import Profile, ProfileConfig
from sharded_emb.training.step import Stepping

STEPS = 20
ONE_PIECE = Stepping()


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
