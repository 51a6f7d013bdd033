"""Causal self-attention over padded sequences.

B  rows    L  longest row    D  dim    H  heads
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CausalBlock(nn.Module):
    """A transformer block, norm first (Xiong et al., ICML 2020): attention to oneself and what came before, then a
    feed-forward net. Padding behind the end of a row needs no mask: nothing before it sees it."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """The same shape."""
        x_BLD = x_BLD + self.dropout(self._attend(self.attention_norm(x_BLD)))
        hidden = self.dropout(F.gelu(self.expand(self.feed_forward_norm(x_BLD))))
        return x_BLD + self.dropout(self.contract(hidden))

    def _attend(self, x_BLD: Tensor) -> Tensor:
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.project_in(x_BLD).chunk(3, -1)]
        # no dropout on the weights: it would leave the fused kernels
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        return self.project_out(mixed.transpose(1, 2).flatten(2))


def init_linear(module: nn.Module, std: float) -> None:
    """Normal weights and zero biases for every linear layer below."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            torch.nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
