"""HSTU's attention over rows without padding, for tensors on a CUDA device.

Zhai et al., "Actions speak louder than words", ICML 2024: a weight is SiLU(query · key + bias), without a softmax.

    T  events over all rows    B  rows    L  distances    H  heads    W  width of a head    A  buckets of ages
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

_NARROW = 64  # heads, of which all cards hold the tiles
_SHARED_MEMORY = (
    160 << 10
)  # bytes of a block that tiles of wider ones take: A100 and H100 have it, smaller cards do not
AGE_GROWTH = 1.35  # from one bucket of ages to the next, as in the published code


class JaggedRows(NamedTuple):
    """Where rows begin and end among the events, int64 (B + 1) on their device, and the events of the longest row."""

    offsets_B1: Tensor
    longest: int


class Ages(NamedTuple):
    """What an event makes of the age of another. when: whole seconds since some moment, int64 (T), which do not fall
    within a row. bias: of each bucket, (A, H). edges: `age_edges` on the device.
    """

    when_T: Tensor
    bias_AH: Tensor
    edges_A: Tensor


class Bias(NamedTuple):
    """Of a score, by how many places apart two events are (L, H), and by how long, where that is known."""

    by_distance_LH: Tensor
    ages: Ages | None = None


def has_room(device: torch.device, width: int) -> bool:
    """Whether the shared memory of a card holds the tiles of heads of this width."""
    if width <= _NARROW:
        return True
    card: Any = torch.cuda.get_device_properties(device)
    return bool(card.shared_memory_per_block_optin >= _SHARED_MEMORY)


def age_edges(buckets: int) -> Tensor:
    """The least age, int64 (A) in whole seconds, from which on an event is in each bucket, or one after it: that of age
    a is the whole part of log(1 + a) / log(AGE_GROWTH), as far as there are buckets.
    """
    bucket_A = torch.arange(buckets)
    return (AGE_GROWTH ** bucket_A.double() - 1).clamp(max=2.0**61).ceil().long()


def age_buckets(ages: Tensor, edges_A: Tensor) -> Tensor:
    """The last bucket whose edge each age has reached; the first one of negative ages."""
    ages = ages.clamp(min=0)
    # a bit more than the logarithm, which is one bucket too many now and then, and never one too few
    found = (torch.log1p(ages.float()) / math.log(AGE_GROWTH) + 1e-3).to(torch.int32).clamp(max=len(edges_A) - 1)
    reached = edges_A.index_select(0, found.flatten()).view_as(found)
    return found - (ages < reached).to(torch.int32)


def pointwise_attention(query_THW: Tensor, key_THW: Tensor, value_THW: Tensor, bias: Bias, rows: JaggedRows) -> Tensor:
    """What each event reads of itself and of what came before it in its row: (T, H, W), of the dtype of the events.

    Event t gets the sum over s of SiLU(query_t · key_s / sqrt(W) + bias) * value_s, divided by the number of events
    that it sees; the bias is by_distance[place_t - place_s], and with ages that of the bucket of when_t - when_s, too.
    Gradients reach events and biases, bitwise the same each time.

    Queries, keys and values share one dtype: float32, bfloat16 or float16. A head is up to 256 wide, and no row is
    longer than there are distances. Products of float32 are exact unless `torch.backends.cuda.matmul.allow_tf32`.
    """
    # Triton is there only where torch is built for CUDA
    from sharded_emb.layers.pointwise_triton import attend

    return attend(query_THW, key_THW, value_THW, bias, rows)
