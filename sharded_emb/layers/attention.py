"""Self-attention over padded sequences.

B  rows    L  longest row    D  dim    H  heads
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.layers.dropout import Dropout


def self_attention(projected_BL3D: Tensor, heads: int, seen_B1LL: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (B, L, D) of queries, keys and values that stand one after the other in the last
    dimension. seen: which places a place looks at, bool and broadcast; None for itself and those before it, which needs
    no mask for the padding behind the end of a row.
    """
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in projected_BL3D.chunk(3, -1))
    # no dropout on the weights: it would leave the fused kernels
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_B1LL, is_causal=seen_B1LL is None)
    return mixed.transpose(1, 2).flatten(2)


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

    def forward(self, x_BLD: Tensor, seen_B1LL: Tensor | None = None) -> Tensor:
        """The same shape. seen: as `self_attention` has it, to oneself and what came before where it is None."""
        attended = self_attention(self.project_in(self.attention_norm(x_BLD)), self.heads, seen_B1LL)
        x_BLD = x_BLD + self.dropout(self.project_out(attended))
        hidden = self.dropout(F.gelu(self.expand(self.feed_forward_norm(x_BLD))))
        return x_BLD + self.dropout(self.contract(hidden))


def init_linear(module: nn.Module, std: float) -> None:
    """Normal weights and zero biases for every linear layer below."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            torch.nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
