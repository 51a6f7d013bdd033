"""Click models that keep more than weights, as somebody else may have them."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.layers.fields import dims_by_feature, stacked
from sharded_emb.models.click import FieldsConfig
from sharded_emb.tables import Table


class Stateful(FieldsConfig):
    """keeps: what there is besides a linear layer."""

    same_dims: ClassVar[bool] = True

    keeps: Literal[
        "pretrained", "running", "unsaved", "counter", "instance", "double", "frozen", "sparse", "kept", "late"
    ]

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        return StatefulModel(self.keeps, dims_by_feature(tables))


class StatefulModel(nn.Module):
    """Fields, through a part that may be in evaluation mode for good, to a logit."""

    def __init__(self, keeps: str, dims: dict[str, int]) -> None:
        super().__init__()
        self.keeps, self.features = keeps, [*dims]
        width = sum(dims.values())
        self.part: nn.Module = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.5)).eval()
        self.last = nn.Linear(width, 1)
        if keeps in ("running", "unsaved"):
            self.register_buffer("mean", torch.zeros(width), persistent=keeps == "running")
        if keeps == "counter":
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        if keeps in ("sparse", "kept"):
            self.register_buffer("links", torch.eye(width).to_sparse(), persistent=keeps == "kept")
        if keeps == "late":
            self.register_buffer("mean", None, persistent=False)
        if keeps == "instance":
            self.part = nn.InstanceNorm1d(width, track_running_stats=True)
        if keeps in ("double", "frozen"):
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64), requires_grad=keeps == "double")

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        fields_BD = stacked(embedded, self.features).flatten(1)
        if self.training and self.keeps in ("running", "unsaved"):
            self.mean.copy_(0.9 * self.mean + 0.1 * fields_BD.detach().mean(0))
            fields_BD = fields_BD - self.mean
        if self.training and self.keeps == "late" and self.mean is None:
            self.mean = torch.ones(fields_BD.shape[1])
        if self.keeps == "sparse":
            fields_BD = (self.links @ fields_BD.T).T
        if self.training and self.keeps == "counter":
            self.seen += 1
        logit_B = self.last(self.part(fields_BD))[:, 0]
        return logit_B * self.scale.float() if self.keeps in ("double", "frozen") else logit_B
