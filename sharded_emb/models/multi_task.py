"""Several tasks on the same inputs: what they share, and what each has of its own.

Shared bottom (Caruana, Machine Learning 1997), MMoE (Ma et al., KDD 2018), PLE (Tang et al., RecSys 2020).

B  rows    A  width of all features together    H  width of what experts give    E  experts    L  tasks
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.layers.fields import dims_by_feature, side_by_side, with_numbers
from sharded_emb.layers.mlp import hidden_layers, mlp
from sharded_emb.models.click import FieldsConfig
from sharded_emb.tables import Table


class MultiTaskConfig(FieldsConfig):
    """tasks: their names, in the order of `loss.tasks`. hidden: widths of an expert's layers. tower_hidden: of the net
    of each task behind them.
    """

    reads_numbers: ClassVar[bool] = True

    tasks: tuple[str, ...] = ()
    hidden: tuple[PositiveInt, ...] = Field(default=(64,), min_length=1)
    tower_hidden: tuple[PositiveInt, ...] = (32,)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def shared(self, width: int) -> nn.Module:
        """From inputs of a width (B, A) to what each tower is given (B, H)."""
        raise NotImplementedError

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        dims = dims_by_feature(tables)
        towers = [mlp((self.hidden[-1], *self.tower_hidden), self.dropout) for _ in self.tasks]
        return MultiTaskModel([*dims], self.shared(sum(dims.values()) + len(self.numbers)), towers)


class MultiTaskModel(nn.Module):
    """What tasks share, and a tower each."""

    def __init__(self, features: Sequence[str], shared: nn.Module, towers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.features = list(features)
        self.shared = shared
        self.towers = nn.ModuleList(towers)

    def forward(self, embedded: Embedded) -> Tensor:
        """The logits (B, L) of each row."""
        given = self.shared(with_numbers(side_by_side(embedded, self.features), embedded))
        return torch.cat([tower(given_BH) for tower, given_BH in zip(self.towers, given, strict=True)], 1)


class SharedBottom(MultiTaskConfig):
    """One net for all tasks."""

    def shared(self, width: int) -> nn.Module:
        """See `MultiTaskConfig`."""
        return Bottom(hidden_layers((width, *self.hidden), self.dropout), len(self.tasks))


class Bottom(nn.Module):
    """The same for each task."""

    def __init__(self, net: nn.Module, tasks: int) -> None:
        super().__init__()
        self.net = net
        self.tasks = tasks

    def forward(self, inputs_BA: Tensor) -> list[Tensor]:
        """One (B, H) a task."""
        return [self.net(inputs_BA)] * self.tasks


class MMoE(MultiTaskConfig):
    """experts: that all tasks share, each task with a gate of its own."""

    experts: PositiveInt = 4

    def shared(self, width: int) -> nn.Module:
        """See `MultiTaskConfig`."""
        return Extraction(self, width, Experts(own=0, shared=self.experts, last=True))


class PLE(MultiTaskConfig):
    """experts: that all tasks share. own_experts: of each task besides. levels: one on top of the other."""

    experts: PositiveInt = 2
    own_experts: PositiveInt = 2
    levels: PositiveInt = 1

    def shared(self, width: int) -> nn.Module:
        """See `MultiTaskConfig`."""
        widths = [width, *[self.hidden[-1]] * (self.levels - 1)]
        experts = [Experts(self.own_experts, self.experts, last=at == self.levels) for at in range(1, self.levels + 1)]
        return nn.Sequential(*map(Extraction, repeat(self), widths, experts))


@dataclass(frozen=True)
class Experts:
    """own: of each task. shared: of all. last: whether no level comes behind, which would be given what all say."""

    own: int
    shared: int
    last: bool


class Extraction(nn.Module):
    """A level of experts. Each task has a gate over its own and the shared ones; and what is shared, unless this is the
    last level, one over all.
    """

    def __init__(self, config: MultiTaskConfig, width: int, experts: Experts) -> None:
        super().__init__()
        tasks = len(config.tasks)

        def nets(count: int) -> nn.ModuleList:
            return nn.ModuleList(hidden_layers((width, *config.hidden), config.dropout) for _ in range(count))

        self.own = nn.ModuleList(nets(experts.own) for _ in range(tasks))
        self.experts = nets(experts.shared)
        self.gates = nn.ModuleList(nn.Linear(width, experts.own + experts.shared) for _ in range(tasks))
        self.shared_gate = None if experts.last else nn.Linear(width, tasks * experts.own + experts.shared)

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """What each task is given (B, H), and behind that, unless this is the last level, what they share. inputs: the
        same of the level before, or (B, A) for all of them.
        """
        *of_tasks, of_all = [inputs] * (len(self.gates) + 1) if isinstance(inputs, Tensor) else inputs
        shared = [net(of_all) for net in self.experts]
        own = [[net(x) for net in _nets(nets)] for x, nets in zip(of_tasks, self.own, strict=True)]
        each = zip(self.gates, of_tasks, own, strict=True)
        found = [mixed(gate(x), [*mine, *shared]) for gate, x, mine in each]
        if self.shared_gate is not None:
            found.append(mixed(self.shared_gate(of_all), [*(said for mine in own for said in mine), *shared]))
        return found


def _nets(nets: nn.Module) -> nn.ModuleList:
    assert isinstance(nets, nn.ModuleList)
    return nets


def mixed(gate_BE: Tensor, experts: Sequence[Tensor]) -> Tensor:
    """The mean of what experts say (B, H), by the softmax of a gate."""
    return (gate_BE.softmax(1)[:, :, None] * torch.stack([*experts], 1)).sum(1)
