"""Nets of linear layers."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from sharded_emb.layers.dropout import Dropout
from sharded_emb.layers.prelu import PReLU


def mlp(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """A layer for each pair of widths, each followed by PReLU and dropout, and a last one to a single number."""
    return nn.Sequential(*hidden_layers(widths, dropout), nn.Linear(widths[-1], 1))


def hidden_layers(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """The same without the last one."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), PReLU(), Dropout(dropout)]
    return nn.Sequential(*layers)
