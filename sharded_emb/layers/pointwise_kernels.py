"""Triton kernels of `pointwise_attention`: forward, and three backward that repeat the scores instead of storing them.

Tiled over queries and keys as in FlashAttention-2 (Dao, ICLR 2024), though without a softmax no row of weights has to
be known whole. Each program owns what it writes, so no sum depends on which one comes first:

    forward              a block of queries, over the keys before it                        -> out
    backward_keys        a block of keys, over the queries after it                         -> slopes of keys, values
    backward_queries     a block of queries, over the keys before it                        -> slopes of queries, ages
    backward_distances   the tiles of some rows that lie equally far below their diagonal   -> slopes of distances

Where events have times, the bias by age is looked up for each pair, and its slopes are summed by the programs of the
queries, bucket by bucket: a tile has few. Each program has a row of its own in the buffer, so that is repeatable, too.

Along such a line of tiles an element always has the same distance. The last kernel therefore adds up whole tiles in
registers and sums over distances once at its end: it repeats two products for that, but no tile has to be skewed, and
its buffer has the size of its grid, whatever the lengths of rows.

A program finds its block, head and row in its number: blocks of one row and head are neighbours, since they read the
same keys and values, and of those the longest loop goes first. Its loop has two parts: the tiles on the diagonal, which
are masked, and those below it, where queries see all keys. What stands for places behind the end of a row comes to
nothing: vectors are zeros there, and outputs are not written. SiLU and its slope issue more instructions than the
products do, which is why masks, divisions and addresses are spared.

    T  events over all rows    B  rows    L  distances    H  heads    W  width of a head    D  W, padded to a power of 2
    M  queries of a tile    N  keys of a tile    G  groups of rows    K  lines of tiles    A  buckets of ages; 0 of none
    P  programs

A slope is the gradient of the loss by the tensor that is named. PRECISION: of products in float32, as `tl.dot` has it.
"""

import triton
import triton.language as tl

from sharded_emb.layers.pointwise_tiles import (
    FAR_AHEAD,
    LONG_AGO,
    bias_of_distances,
    buckets,
    by_bucket,
    extent,
    products,
    reciprocal,
    scores,
    seconds,
    sigmoid,
    slope_of_silu,
    slope_of_silu_at,
    store,
    store_sums,
    vectors,
)


@triton.jit(do_not_specialize=["blocks"])
def forward(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    by_distance_HL: tl.tensor,
    offsets_B1: tl.tensor,
    by_age_HA: tl.tensor,
    when_T: tl.tensor,
    edges_A: tl.tensor,
    out: tl.tensor,
    stride: int,
    bias_stride: int,
    blocks: int,
    H: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    A: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    # the last blocks of a row have the most to do and go first
    first = (blocks - 1 - program % blocks) * M
    head = program // blocks % H
    begin, length = extent(offsets_B1, program // blocks // H)
    if first >= length:
        return
    at = begin * stride + head * W
    bias = by_distance_HL + head * bias_stride
    places_M = first + tl.arange(0, M)
    if A:
        when_M = seconds(when_T + begin, places_M, length, LONG_AGO)
    query_MD = vectors(query + at, places_M, length, stride, W, D)
    out_MD = tl.zeros((M, D), tl.float32)
    for DIAGONAL in tl.static_range(2):
        for start in range(first if DIAGONAL else 0, tl.minimum(first + M, length) if DIAGONAL else first, N):
            places_N = start + tl.arange(0, N)
            key_ND = vectors(key + at, places_N, length, stride, W, D)
            value_ND = vectors(value + at, places_N, length, stride, W, D)
            scores_MN = scores(query_MD, key_ND, W, PRECISION) + bias_of_distances(bias, first - start, M, N, 1)
            if A:
                when_N = seconds(when_T + begin, places_N, length, FAR_AHEAD)
                buckets_MN = buckets(when_M[:, None] - when_N[None, :], edges_A, A)
                scores_MN += tl.load(by_age_HA + head * A + buckets_MN)
            weights_MN = scores_MN * sigmoid(scores_MN)
            if DIAGONAL:
                weights_MN = tl.where(places_M[:, None] >= places_N[None, :], weights_MN, 0.0)
            out_MD = tl.dot(weights_MN.to(value_ND.dtype), value_ND, out_MD, input_precision=PRECISION)
    out_MD *= reciprocal((places_M + 1).to(tl.float32))[:, None]
    store(out + begin * (H * W) + head * W, out_MD, places_M, length, H * W, W)


@triton.jit(do_not_specialize=["blocks"])
def backward_keys(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    by_distance_HL: tl.tensor,
    offsets_B1: tl.tensor,
    by_age_HA: tl.tensor,
    when_T: tl.tensor,
    edges_A: tl.tensor,
    slope: tl.tensor,
    key_slope: tl.tensor,
    value_slope: tl.tensor,
    stride: int,
    bias_stride: int,
    blocks: int,
    H: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    A: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    first = program % blocks * N
    head = program // blocks % H
    begin, length = extent(offsets_B1, program // blocks // H)
    if first >= length:
        return
    at, at_packed = begin * stride + head * W, begin * (H * W) + head * W
    bias = by_distance_HL + head * bias_stride
    places_N = first + tl.arange(0, N)
    if A:
        when_N = seconds(when_T + begin, places_N, length, FAR_AHEAD)
    key_ND = vectors(key + at, places_N, length, stride, W, D)
    value_ND = vectors(value + at, places_N, length, stride, W, D)
    key_slope_ND = tl.zeros((N, D), tl.float32)
    value_slope_ND = tl.zeros((N, D), tl.float32)
    for BELOW in tl.static_range(2):
        for start in range(first + N if BELOW else first, length if BELOW else tl.minimum(first + N, length), M):
            places_M = start + tl.arange(0, M)
            query_MD = vectors(query + at, places_M, length, stride, W, D)
            slope_MD = vectors(slope + at_packed, places_M, length, H * W, W, D)
            scores_NM = scores(key_ND, query_MD, W, PRECISION) + bias_of_distances(bias, start - first, N, M, -1)
            if A:
                when_M = seconds(when_T + begin, places_M, length, LONG_AGO)
                scores_NM += tl.load(by_age_HA + head * A + buckets(when_M[None, :] - when_N[:, None], edges_A, A))
            gates_NM = sigmoid(scores_NM)
            shares_1M = reciprocal((places_M + 1).to(tl.float32))[None, :]
            if not BELOW:
                shares_1M = tl.where(places_M[None, :] >= places_N[:, None], shares_1M, 0.0)
            weights_NM = scores_NM * gates_NM
            score_slopes_NM = slope_of_silu(weights_NM, gates_NM) * shares_1M
            score_slopes_NM *= products(value_ND, slope_MD, PRECISION)
            weights_NM = (weights_NM * shares_1M).to(slope_MD.dtype)
            value_slope_ND = tl.dot(weights_NM, slope_MD, value_slope_ND, input_precision=PRECISION)
            key_slope_ND = tl.dot(score_slopes_NM.to(query_MD.dtype), query_MD, key_slope_ND, input_precision=PRECISION)
    store(key_slope + at_packed, key_slope_ND * W**-0.5, places_N, length, H * W, W)
    store(value_slope + at_packed, value_slope_ND, places_N, length, H * W, W)


@triton.jit(do_not_specialize=["blocks"])
def backward_queries(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    by_distance_HL: tl.tensor,
    offsets_B1: tl.tensor,
    by_age_HA: tl.tensor,
    when_T: tl.tensor,
    edges_A: tl.tensor,
    slope: tl.tensor,
    query_slope: tl.tensor,
    age_slope_PA: tl.tensor,
    stride: int,
    bias_stride: int,
    blocks: int,
    H: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    A: tl.constexpr,
    BUCKETS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    first = (blocks - 1 - program % blocks) * M
    head = program // blocks % H
    begin, length = extent(offsets_B1, program // blocks // H)
    if first >= length:
        return
    at, at_packed = begin * stride + head * W, begin * (H * W) + head * W
    bias = by_distance_HL + head * bias_stride
    places_M = first + tl.arange(0, M)
    if A:
        when_M = seconds(when_T + begin, places_M, length, LONG_AGO)
    query_MD = vectors(query + at, places_M, length, stride, W, D)
    slope_MD = vectors(slope + at_packed, places_M, length, H * W, W, D)
    query_slope_MD = tl.zeros((M, D), tl.float32)
    shares_M1 = reciprocal((places_M + 1).to(tl.float32))[:, None]
    age_slope_A = tl.zeros((BUCKETS,), tl.float32)
    for DIAGONAL in tl.static_range(2):
        for start in range(first if DIAGONAL else 0, tl.minimum(first + M, length) if DIAGONAL else first, N):
            places_N = start + tl.arange(0, N)
            key_ND = vectors(key + at, places_N, length, stride, W, D)
            value_ND = vectors(value + at, places_N, length, stride, W, D)
            scores_MN = scores(query_MD, key_ND, W, PRECISION) + bias_of_distances(bias, first - start, M, N, 1)
            if A:
                when_N = seconds(when_T + begin, places_N, length, FAR_AHEAD)
                buckets_MN = buckets(when_M[:, None] - when_N[None, :], edges_A, A)
                scores_MN += tl.load(by_age_HA + head * A + buckets_MN)
            score_slopes_MN = slope_of_silu_at(scores_MN) * products(slope_MD, value_ND, PRECISION)
            if DIAGONAL:
                score_slopes_MN = tl.where(places_M[:, None] >= places_N[None, :], score_slopes_MN, 0.0)
            query_slope_MD = tl.dot(score_slopes_MN.to(key_ND.dtype), key_ND, query_slope_MD, input_precision=PRECISION)
            if A:
                age_slope_A += by_bucket(score_slopes_MN * shares_M1, buckets_MN, BUCKETS)
    store(query_slope + at_packed, query_slope_MD * (shares_M1 * W**-0.5), places_M, length, H * W, W)
    store_sums(age_slope_PA, age_slope_A, A, BUCKETS)


@triton.jit(do_not_specialize=["rows", "groups", "diagonals"])
def backward_distances(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    by_distance_HL: tl.tensor,
    offsets_B1: tl.tensor,
    by_age_HA: tl.tensor,
    when_T: tl.tensor,
    edges_A: tl.tensor,
    slope: tl.tensor,
    partial_GHK2N: tl.tensor,
    stride: int,
    bias_stride: int,
    rows: int,
    groups: int,
    diagonals: int,
    H: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    A: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Tiles are square. partial: of distances of N * diagonal + (0 ... N - 1), and of those that are N less."""
    program = tl.program_id(0)
    lag = program % diagonals * N
    head = program // diagonals % H
    tile_N = tl.arange(0, N)
    bias_NN = bias_of_distances(by_distance_HL + head * bias_stride, lag, N, N, 1)
    total_NN = tl.zeros((N, N), tl.float32)
    for row in range(program // diagonals // H, rows, groups):
        begin, length = extent(offsets_B1, row)
        at, at_packed = begin * stride + head * W, begin * (H * W) + head * W
        for start in range(lag, length, N):
            places_M, places_N = start + tile_N, start - lag + tile_N
            query_MD = vectors(query + at, places_M, length, stride, W, D)
            key_ND = vectors(key + at, places_N, length, stride, W, D)
            value_ND = vectors(value + at, places_N, length, stride, W, D)
            # zeros behind the end of the row make the slopes there zeros
            slope_MD = vectors(slope + at_packed, places_M, length, H * W, W, D)
            scores_NN = scores(query_MD, key_ND, W, PRECISION) + bias_NN
            if A:
                when_M = seconds(when_T + begin, places_M, length, LONG_AGO)
                when_N = seconds(when_T + begin, places_N, length, FAR_AHEAD)
                scores_NN += tl.load(by_age_HA + head * A + buckets(when_M[:, None] - when_N[None, :], edges_A, A))
            shares_M1 = reciprocal((places_M + 1).to(tl.float32))[:, None]
            score_slopes_NN = slope_of_silu_at(scores_NN) * shares_M1
            total_NN += score_slopes_NN * products(slope_MD, value_ND, PRECISION)
    # column c of the skewed tile holds i - j = c above row c's turn and c - N before it
    skewed_NN = tl.gather(total_NN, (tile_N[:, None] - tile_N[None, :] + N) % N, axis=1)
    here_NN = tile_N[:, None] >= tile_N[None, :]
    partial = partial_GHK2N + program.to(tl.int64) * (2 * N) + tile_N
    tl.store(partial, tl.sum(tl.where(here_NN, skewed_NN, 0.0), axis=0))
    tl.store(partial + N, tl.sum(tl.where(here_NN, 0.0, skewed_NN), axis=0))
