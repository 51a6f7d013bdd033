"""What the kernels of `pointwise_attention` do with one tile.

M  queries of a tile    N  keys of a tile    L  distances    W  width of a head    D  W, padded to a power of 2
A  buckets of ages
"""

import math

import triton
import triton.language as tl

from sharded_emb.layers.pointwise_attention import AGE_GROWTH

# the interpreter, which needs no GPU, knows no instructions
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
_BUCKETS_AN_OCTAVE = tl.constexpr(1 / math.log2(AGE_GROWTH))
# when queries and keys were that are none: such pairs have an age of 0 or less
LONG_AGO, FAR_AHEAD = tl.constexpr(0), tl.constexpr(1 << 62)


@triton.jit
def vectors(
    base: tl.tensor, places_N: tl.tensor, length: tl.tensor, stride: int, W: tl.constexpr, D: tl.constexpr
) -> tl.tensor:
    """Vectors (N, D) at places of one row and head, zeros behind the row's end and behind the head's width."""
    columns_D = tl.arange(0, D)
    kept_ND = places_N[:, None] < length
    if W != D:
        kept_ND = kept_ND & (columns_D < W)[None, :]
    return tl.load(base + places_N[:, None] * stride + columns_D[None, :], mask=kept_ND, other=0.0)


@triton.jit
def store(
    base: tl.tensor, values_ND: tl.tensor, places_N: tl.tensor, length: tl.tensor, stride: int, W: tl.constexpr
) -> None:
    """The counterpart of `vectors`."""
    columns_D = tl.arange(0, values_ND.shape[1])
    kept_ND = (places_N[:, None] < length) & (columns_D < W)[None, :]
    at_ND = base + places_N[:, None] * stride + columns_D[None, :]
    tl.store(at_ND, values_ND.to(base.dtype.element_ty), mask=kept_ND)


@triton.jit
def extent(offsets_B1: tl.tensor, row: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Where a row begins, int64, and its length, int32."""
    begin = tl.load(offsets_B1 + row)
    return begin, (tl.load(offsets_B1 + row + 1) - begin).to(tl.int32)


@triton.jit
def reciprocal(x: tl.tensor) -> tl.tensor:
    """To the last bit but one, and 0 below 1e-38: a division takes six instructions more for such."""
    if _INTERPRETED:
        return 1.0 / x
    return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def sigmoid(x: tl.tensor) -> tl.tensor:
    """As `reciprocal`."""
    if _INTERPRETED:
        return tl.sigmoid(x)
    powers = x * -1.4426950408889634
    powers = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [powers], tl.float32, is_pure=True, pack=1)
    return reciprocal(1.0 + powers)


@triton.jit
def bias_of_distances(
    by_distance_L: tl.tensor, lag: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SIGN: tl.constexpr
) -> tl.tensor:
    """Of a tile whose first query is `lag` places after its first key. SIGN: 1 if queries are rows, -1 if keys are."""
    # with 64 bits the compiler sees that the elements of a thread lie constants apart, which a load holds itself
    rows, columns = tl.arange(0, ROWS).to(tl.int64), tl.arange(0, COLUMNS).to(tl.int64)
    return tl.load(by_distance_L + lag + SIGN * (rows[:, None] - columns[None, :]))


@triton.jit
def products(left_MD: tl.tensor, right_ND: tl.tensor, PRECISION: tl.constexpr) -> tl.tensor:
    """Of all pairs of vectors: (M, N)."""
    return tl.dot(left_MD, tl.trans(right_ND), input_precision=PRECISION)


@triton.jit
def scores(left_MD: tl.tensor, right_ND: tl.tensor, W: tl.constexpr, PRECISION: tl.constexpr) -> tl.tensor:
    """Of all pairs of queries and keys, without their biases."""
    return products(left_MD, right_ND, PRECISION) * W**-0.5


@triton.jit
def slope_of_silu(weights: tl.tensor, gates: tl.tensor) -> tl.tensor:
    """From SiLU and sigmoid of the same numbers."""
    return gates + weights * (1.0 - gates)


@triton.jit
def slope_of_silu_at(scores: tl.tensor) -> tl.tensor:
    """From the numbers."""
    gates = sigmoid(scores)
    return slope_of_silu(scores * gates, gates)


@triton.jit
def seconds(base: tl.tensor, places_N: tl.tensor, length: tl.tensor, OTHERWISE: tl.constexpr) -> tl.tensor:
    """When the events at places of one row were, int64; behind its end OTHERWISE."""
    return tl.load(base + places_N, mask=places_N < length, other=OTHERWISE)


@triton.jit
def buckets(ages: tl.tensor, edges_A: tl.tensor, A: tl.constexpr) -> tl.tensor:
    """The last bucket of those whose edge an age has reached; the first one's of negative ages."""
    ages = tl.maximum(ages, 0)
    # a bit more than the logarithm, which is one bucket too many now and then, and never one too few
    found = (tl.log2(1.0 + ages.to(tl.float32)) * _BUCKETS_AN_OCTAVE + 1e-3).to(tl.int32)
    found = tl.minimum(found, A - 1)
    return found - (ages < tl.load(edges_A + found)).to(tl.int32)


@triton.jit
def by_bucket(values_MN: tl.tensor, buckets_MN: tl.tensor, BUCKETS: tl.constexpr) -> tl.tensor:
    """The sum of the values of each bucket. A tile has few: its ages are alike, and buckets grow with them."""
    bucket_A = tl.arange(0, BUCKETS)
    found_A = tl.zeros((BUCKETS,), tl.float32)
    # zeros, of pairs that are none and of others, add nothing
    first = tl.min(tl.min(tl.where(values_MN != 0.0, buckets_MN, BUCKETS), 1), 0)
    last = tl.max(tl.max(tl.where(values_MN != 0.0, buckets_MN, -1), 1), 0)
    for bucket in range(first, last + 1):
        total = tl.sum(tl.sum(tl.where(buckets_MN == bucket, values_MN, 0.0), 1), 0)
        found_A += tl.where(bucket_A == bucket, total, 0.0)
    return found_A


@triton.jit
def store_sums(base: tl.tensor, sums_A: tl.tensor, A: tl.constexpr, BUCKETS: tl.constexpr) -> None:
    """Those of a program, where there are ages."""
    if A:
        tl.store(base + tl.program_id(0).to(tl.int64) * BUCKETS + tl.arange(0, BUCKETS), sums_A)
