"""Self-attention within rows of events."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.layers.dropout import Dropout
from sharded_emb.layers.layout import Layout


class TransformerBlock(nn.Module):
    """Norm first (Xiong et al., ICML 2020): attention, then a feed-forward net."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """The same shape: vectors of events, that lie as the layout has it."""
        attended = layout.attend(self.project_in(self.attention_norm(x)), self.heads)
        return self._fed(x + self.dropout(self.project_out(attended)))

    def of_first(self, x: Tensor, layout: Layout) -> Tensor:
        """The same of the first event of each row alone (B, D), at the cost of what it reads. No row may be empty."""
        normed, weight, bias = self.attention_norm(x), self.project_in.weight, self.project_in.bias
        dim = weight.shape[1]
        query_BD = F.linear(layout.first(normed), weight[:dim], bias[:dim])
        attended_BD = layout.attend_first(query_BD, F.linear(normed, weight[dim:], bias[dim:]), self.heads)
        return self._fed(layout.first(x) + self.dropout(self.project_out(attended_BD)))

    def _fed(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(self.expand(self.feed_forward_norm(x))))
        return x + self.dropout(self.contract(hidden))


def init_linear(module: nn.Module, std: float) -> None:
    """Normal weights and zero biases for every linear layer below."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            torch.nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
