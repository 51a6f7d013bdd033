"""Pairs of an event and what it is compared with, as attention to a target reads them.

T  pairs    B  rows    D  dim    H  width of a layer
"""

from torch import Tensor, addmm, nn
from torch.nn import functional as F

from sharded_emb.layers.jagged import of_rows


def of_pairs(layer: nn.Module, seen_TD: Tensor, target_BD: Tensor, row_T: Tensor) -> Tensor:
    """A linear layer of [seen, target, seen - target, seen * target] side by side: (T, H). row: of each pair's target.

    They are never put together: half of the products is left, and what a target has alone is computed once a row.
    """
    assert isinstance(layer, nn.Linear)
    of_seen, of_target, of_difference, of_product = layer.weight.chunk(4, 1)
    alone_BH = F.linear(target_BD, of_target - of_difference, layer.bias)
    found_TH = addmm(of_rows(alone_BH, row_T), seen_TD, (of_seen + of_difference).T)
    return addmm(found_TH, seen_TD * of_rows(target_BD, row_T), of_product.T)
