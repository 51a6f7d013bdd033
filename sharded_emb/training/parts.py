"""All that a run is made of."""

from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

from sharded_emb.data.collate import Collate
from sharded_emb.data.source import Source
from sharded_emb.distributed.shard import Sharded
from sharded_emb.optim.schedule import Schedule
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.course import Course
from sharded_emb.training.evaluation import Evaluator, Metrics
from sharded_emb.training.profile import Profile
from sharded_emb.training.run_folder import RunFolder


@dataclass(frozen=True)
class Parts:
    """What the loop drives; built by `sharded_emb.config.build`. stream: in place of the epochs of `source`.
    progressive: metrics of samples as they were scored before they were trained on, since it was asked last.
    """

    sharded: Sharded
    dense: Optimizer
    schedule: Schedule
    source: Source
    collate: Collate
    evaluator: Evaluator
    folder: RunFolder
    checkpoints: Checkpoints
    profile: Profile
    stream: Course | None = None
    progressive: Callable[[], Metrics] = dict
