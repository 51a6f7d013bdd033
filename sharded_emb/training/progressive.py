"""How well a model scores samples that the step is about to train on: what a log that grows can be evaluated by.

N  samples    L  labels
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from torch import Tensor

from sharded_emb.batch import Batch
from sharded_emb.data.task import Label
from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.shard import Sharded
from sharded_emb.metrics import binary
from sharded_emb.training.evaluation import Metrics
from sharded_emb.training.trainee import Trainee

_MOST = 1 << 22  # samples of a rank that are kept, the newest


def progressive_metrics(sharded: Sharded, labels: Sequence[Label], wanted: bool) -> Callable[[], Metrics]:
    """Says, on every rank together, the metrics of the samples since it was asked last; nothing where none are wanted.

    By `train` for the first label and `train_NAME` for others: those of an evaluation, without AUC within users, and
    the number of `scored_samples`.
    """
    return Progressive(sharded, labels) if wanted else dict


class Progressive:
    """Keeps what the model of a click log has said in training, which is before its step moves a weight. Dropout is on
    where the model has it, and products are in the dtype of training.
    """

    def __init__(self, sharded: Sharded, labels: Sequence[Label]) -> None:
        self._place = sharded.place
        self._names = ["train", *(f"train_{label.name}" for label in labels[1:])]
        self._kept: deque[tuple[Tensor, Tensor]] = deque()
        self._samples = 0
        cast(Trainee, sharded.plain).hears = self._hear

    def _hear(self, output: Tensor, batch: Batch) -> None:
        assert batch.label_B is not None
        rows = batch.samples  # those behind fill up a rank
        if rows:
            self._kept.append((batch.label_B[:rows], output.detach()[:rows]))
        self._samples += rows
        while self._samples > _MOST and len(self._kept) > 1:
            self._samples -= len(self._kept.popleft()[0])

    def __call__(self) -> Metrics:
        """See `progressive_metrics`."""
        none = np.zeros((0, len(self._names)))
        mine = [(none, none)]
        for pair in self._kept:
            label_NL, logit_NL = (each.reshape(len(each), -1).cpu().double().numpy() for each in pair)
            mine.append((label_NL, logit_NL))
        self._kept.clear()
        self._samples = 0
        gathered = all_values([np.concatenate(each) for each in zip(*mine, strict=True)], self._place)
        label_NL, logit_NL = (np.concatenate(each) for each in zip(*gathered, strict=True))
        if not len(label_NL):
            return {}
        found = {name: binary.metrics(label_NL[:, at], logit_NL[:, at]) for at, name in enumerate(self._names)}
        return {name: {**metrics, "scored_samples": float(len(label_NL))} for name, metrics in found.items()}
