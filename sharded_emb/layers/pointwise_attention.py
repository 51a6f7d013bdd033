"""HSTU's attention over rows without padding, for tensors on a CUDA device.

Zhai et al., "Actions speak louder than words", ICML 2024: a weight is SiLU(query · key + bias), without a softmax.

    T  events over all rows    B  rows    L  distances    H  heads    W  width of a head
"""

from typing import NamedTuple

from torch import Tensor


class JaggedRows(NamedTuple):
    """Where rows begin and end among the events, int64 (B + 1) on their device, and the events of the longest row."""

    offsets_B1: Tensor
    longest: int


def pointwise_attention(
    query_THW: Tensor, key_THW: Tensor, value_THW: Tensor, by_distance_LH: Tensor, rows: JaggedRows
) -> Tensor:
    """What each event reads of itself and of what came before it in its row: (T, H, W), of the dtype of the events.

    Event t gets the sum over s of SiLU(query_t · key_s / sqrt(W) + by_distance[place_t - place_s]) * value_s, divided
    by the number of events that it sees. Gradients reach all four tensors, bitwise the same each time.

    Queries, keys and values share one dtype: float32, bfloat16 or float16. A head is up to 256 wide, and no row is
    longer than there are distances. Products of float32 are exact unless `torch.backends.cuda.matmul.allow_tf32`.
    """
    # Triton is there only where torch is built for CUDA
    from sharded_emb.layers.pointwise_triton import attend

    return attend(query_THW, key_THW, value_THW, by_distance_LH, rows)
