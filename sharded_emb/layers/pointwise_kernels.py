"""Triton kernels of `pointwise_attention`: forward, and three backward that repeat the scores instead of storing them.

Tiled over queries and keys as in FlashAttention-2 (Dao, ICLR 2024), though without a softmax no row of weights has to
be known whole. Each program owns what it writes, so no sum depends on which one comes first:

    forward              a block of queries, over the keys before it                        -> out
    backward_keys        a block of keys, over the queries after it                         -> slopes of keys, values
    backward_queries     a block of queries, over the keys before it                        -> slopes of queries
    backward_distances   the tiles of some rows that lie equally far below their diagonal   -> slopes of distances

Along such a line of tiles an element always has the same distance. The last kernel therefore adds up whole tiles in
registers and sums over distances once at its end: it repeats two products for that, but no tile has to be skewed, and
its buffer has the size of its grid, whatever the lengths of rows.

A program finds its block, head and row in its number: blocks of one row and head are neighbours, since they read the
same keys and values, and of those the longest loop goes first. Its loop has two parts: the tiles on the diagonal, which
are masked, and those below it, where queries see all keys. What stands for places behind the end of a row comes to
nothing: vectors are zeros there, and outputs are not written. SiLU and its slope issue more instructions than the
products do, which is why masks, divisions and addresses are spared.

    T  events over all rows    B  rows    L  distances    H  heads    W  width of a head    D  W, padded to a power of 2
    M  queries of a tile    N  keys of a tile    G  groups of rows    K  lines of tiles

A slope is the gradient of the loss by the tensor that is named. PRECISION: of products in float32, as `tl.dot` has it.
"""

import triton
import triton.language as tl

# the interpreter, which needs no GPU, knows no instructions
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _vectors(
    base: tl.tensor, places_N: tl.tensor, length: tl.tensor, stride: int, W: tl.constexpr, D: tl.constexpr
) -> tl.tensor:
    """Vectors (N, D) at places of one row and head, zeros behind the row's end and behind the head's width."""
    columns_D = tl.arange(0, D)
    kept_ND = places_N[:, None] < length
    if W != D:
        kept_ND = kept_ND & (columns_D < W)[None, :]
    return tl.load(base + places_N[:, None] * stride + columns_D[None, :], mask=kept_ND, other=0.0)


@triton.jit
def _store(
    base: tl.tensor, values_ND: tl.tensor, places_N: tl.tensor, length: tl.tensor, stride: int, W: tl.constexpr
) -> None:
    """The counterpart of `_vectors`."""
    columns_D = tl.arange(0, values_ND.shape[1])
    kept_ND = (places_N[:, None] < length) & (columns_D < W)[None, :]
    at_ND = base + places_N[:, None] * stride + columns_D[None, :]
    tl.store(at_ND, values_ND.to(base.dtype.element_ty), mask=kept_ND)


@triton.jit
def _row(offsets_B1: tl.tensor, row: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Where a row begins, int64, and its length, int32."""
    begin = tl.load(offsets_B1 + row)
    return begin, (tl.load(offsets_B1 + row + 1) - begin).to(tl.int32)


@triton.jit
def _reciprocal(x: tl.tensor) -> tl.tensor:
    """To the last bit but one, and 0 below 1e-38: a division takes six instructions more for such."""
    if _INTERPRETED:
        return 1.0 / x
    return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def _sigmoid(x: tl.tensor) -> tl.tensor:
    """As `_reciprocal`."""
    if _INTERPRETED:
        return tl.sigmoid(x)
    powers = x * -1.4426950408889634
    powers = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [powers], tl.float32, is_pure=True, pack=1)
    return _reciprocal(1.0 + powers)


@triton.jit
def _bias(
    by_distance_L: tl.tensor, lag: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SIGN: tl.constexpr
) -> tl.tensor:
    """Of a tile whose first query is `lag` places after its first key. SIGN: 1 if queries are rows, -1 if keys are."""
    # with 64 bits the compiler sees that the elements of a thread lie constants apart, which a load holds itself
    rows, columns = tl.arange(0, ROWS).to(tl.int64), tl.arange(0, COLUMNS).to(tl.int64)
    return tl.load(by_distance_L + lag + SIGN * (rows[:, None] - columns[None, :]))


@triton.jit
def _slope_of_silu(weights: tl.tensor, gates: tl.tensor) -> tl.tensor:
    """From SiLU and sigmoid of the same numbers."""
    return gates + weights * (1.0 - gates)


@triton.jit(do_not_specialize=["blocks"])
def forward(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    by_distance_HL: tl.tensor,
    offsets_B1: tl.tensor,
    out: tl.tensor,
    stride: int,
    bias_stride: int,
    blocks: int,
    scale: float,
    H: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    # the last blocks of a row have the most to do and go first
    first = (blocks - 1 - program % blocks) * M
    head = program // blocks % H
    begin, length = _row(offsets_B1, program // blocks // H)
    if first >= length:
        return
    at = begin * stride + head * W
    bias = by_distance_HL + head * bias_stride
    places_M = first + tl.arange(0, M)
    query_MD = _vectors(query + at, places_M, length, stride, W, D)
    out_MD = tl.zeros((M, D), tl.float32)
    for DIAGONAL in tl.static_range(2):
        for start in range(first if DIAGONAL else 0, tl.minimum(first + M, length) if DIAGONAL else first, N):
            places_N = start + tl.arange(0, N)
            key_ND = _vectors(key + at, places_N, length, stride, W, D)
            value_ND = _vectors(value + at, places_N, length, stride, W, D)
            distance_MN = places_M[:, None] - places_N[None, :]
            scores_MN = tl.dot(query_MD, tl.trans(key_ND), input_precision=PRECISION) * scale
            scores_MN += _bias(bias, first - start, M, N, 1)
            weights_MN = scores_MN * _sigmoid(scores_MN)
            if DIAGONAL:
                weights_MN = tl.where(distance_MN >= 0, weights_MN, 0.0)
            out_MD = tl.dot(weights_MN.to(value_ND.dtype), value_ND, out_MD, input_precision=PRECISION)
    out_MD *= _reciprocal((places_M + 1).to(tl.float32))[:, None]
    _store(out + begin * (H * W) + head * W, out_MD, places_M, length, H * W, W)


@triton.jit(do_not_specialize=["blocks"])
def backward_keys(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    by_distance_HL: tl.tensor,
    offsets_B1: tl.tensor,
    slope: tl.tensor,
    key_slope: tl.tensor,
    value_slope: tl.tensor,
    stride: int,
    bias_stride: int,
    blocks: int,
    scale: float,
    H: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    first = program % blocks * N
    head = program // blocks % H
    begin, length = _row(offsets_B1, program // blocks // H)
    if first >= length:
        return
    at, at_packed = begin * stride + head * W, begin * (H * W) + head * W
    bias = by_distance_HL + head * bias_stride
    places_N = first + tl.arange(0, N)
    key_ND = _vectors(key + at, places_N, length, stride, W, D)
    value_ND = _vectors(value + at, places_N, length, stride, W, D)
    key_slope_ND = tl.zeros((N, D), tl.float32)
    value_slope_ND = tl.zeros((N, D), tl.float32)
    for BELOW in tl.static_range(2):
        for start in range(first + N if BELOW else first, length if BELOW else tl.minimum(first + N, length), M):
            places_M = start + tl.arange(0, M)
            query_MD = _vectors(query + at, places_M, length, stride, W, D)
            slope_MD = _vectors(slope + at_packed, places_M, length, H * W, W, D)
            distance_NM = places_M[None, :] - places_N[:, None]
            scores_NM = tl.dot(key_ND, tl.trans(query_MD), input_precision=PRECISION) * scale
            scores_NM += _bias(bias, start - first, N, M, -1)
            gates_NM = _sigmoid(scores_NM)
            shares_1M = _reciprocal((places_M + 1).to(tl.float32))[None, :]
            if not BELOW:
                shares_1M = tl.where(distance_NM >= 0, shares_1M, 0.0)
            weights_NM = scores_NM * gates_NM
            score_slopes_NM = _slope_of_silu(weights_NM, gates_NM) * shares_1M
            score_slopes_NM *= tl.dot(value_ND, tl.trans(slope_MD), input_precision=PRECISION)
            weights_NM = (weights_NM * shares_1M).to(slope_MD.dtype)
            value_slope_ND = tl.dot(weights_NM, slope_MD, value_slope_ND, input_precision=PRECISION)
            key_slope_ND = tl.dot(score_slopes_NM.to(query_MD.dtype), query_MD, key_slope_ND, input_precision=PRECISION)
    _store(key_slope + at_packed, key_slope_ND * scale, places_N, length, H * W, W)
    _store(value_slope + at_packed, value_slope_ND, places_N, length, H * W, W)


@triton.jit(do_not_specialize=["blocks"])
def backward_queries(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    by_distance_HL: tl.tensor,
    offsets_B1: tl.tensor,
    slope: tl.tensor,
    query_slope: tl.tensor,
    stride: int,
    bias_stride: int,
    blocks: int,
    scale: float,
    H: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    first = (blocks - 1 - program % blocks) * M
    head = program // blocks % H
    begin, length = _row(offsets_B1, program // blocks // H)
    if first >= length:
        return
    at, at_packed = begin * stride + head * W, begin * (H * W) + head * W
    bias = by_distance_HL + head * bias_stride
    places_M = first + tl.arange(0, M)
    query_MD = _vectors(query + at, places_M, length, stride, W, D)
    slope_MD = _vectors(slope + at_packed, places_M, length, H * W, W, D)
    query_slope_MD = tl.zeros((M, D), tl.float32)
    for DIAGONAL in tl.static_range(2):
        for start in range(first if DIAGONAL else 0, tl.minimum(first + M, length) if DIAGONAL else first, N):
            places_N = start + tl.arange(0, N)
            key_ND = _vectors(key + at, places_N, length, stride, W, D)
            value_ND = _vectors(value + at, places_N, length, stride, W, D)
            distance_MN = places_M[:, None] - places_N[None, :]
            scores_MN = tl.dot(query_MD, tl.trans(key_ND), input_precision=PRECISION) * scale
            scores_MN += _bias(bias, first - start, M, N, 1)
            gates_MN = _sigmoid(scores_MN)
            score_slopes_MN = _slope_of_silu(scores_MN * gates_MN, gates_MN)
            score_slopes_MN *= tl.dot(slope_MD, tl.trans(value_ND), input_precision=PRECISION)
            if DIAGONAL:
                score_slopes_MN = tl.where(distance_MN >= 0, score_slopes_MN, 0.0)
            query_slope_MD = tl.dot(score_slopes_MN.to(key_ND.dtype), key_ND, query_slope_MD, input_precision=PRECISION)
    query_slope_MD *= scale * _reciprocal((places_M + 1).to(tl.float32))[:, None]
    _store(query_slope + at_packed, query_slope_MD, places_M, length, H * W, W)


@triton.jit(do_not_specialize=["rows", "groups", "diagonals"])
def backward_distances(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    by_distance_HL: tl.tensor,
    offsets_B1: tl.tensor,
    slope: tl.tensor,
    partial_GHK2N: tl.tensor,
    stride: int,
    bias_stride: int,
    rows: int,
    groups: int,
    diagonals: int,
    scale: float,
    H: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Tiles are square. partial: of distances of N * diagonal + (0 ... N - 1), and of those that are N less."""
    program = tl.program_id(0)
    lag = program % diagonals * N
    head = program // diagonals % H
    tile_N = tl.arange(0, N)
    bias_NN = _bias(by_distance_HL + head * bias_stride, lag, N, N, 1)
    total_NN = tl.zeros((N, N), tl.float32)
    for row in range(program // diagonals // H, rows, groups):
        begin, length = _row(offsets_B1, row)
        at, at_packed = begin * stride + head * W, begin * (H * W) + head * W
        for start in range(lag, length, N):
            places_M, places_N = start + tile_N, start - lag + tile_N
            query_MD = _vectors(query + at, places_M, length, stride, W, D)
            key_ND = _vectors(key + at, places_N, length, stride, W, D)
            value_ND = _vectors(value + at, places_N, length, stride, W, D)
            # zeros behind the end of the row make the slopes there zeros
            slope_MD = _vectors(slope + at_packed, places_M, length, H * W, W, D)
            scores_NN = tl.dot(query_MD, tl.trans(key_ND), input_precision=PRECISION) * scale + bias_NN
            shares_M1 = _reciprocal((places_M + 1).to(tl.float32))[:, None]
            gates_NN = _sigmoid(scores_NN)
            score_slopes_NN = _slope_of_silu(scores_NN * gates_NN, gates_NN) * shares_M1
            score_slopes_NN *= tl.dot(slope_MD, tl.trans(value_ND), input_precision=PRECISION)
            total_NN += score_slopes_NN
    # column c of the skewed tile holds i - j = c above row c's turn and c - N before it
    skewed_NN = tl.gather(total_NN, (tile_N[:, None] - tile_N[None, :] + N) % N, axis=1)
    here_NN = tile_N[:, None] >= tile_N[None, :]
    partial = partial_GHK2N + program.to(tl.int64) * (2 * N) + tile_N
    tl.store(partial, tl.sum(tl.where(here_NN, skewed_NN, 0.0), axis=0))
    tl.store(partial + N, tl.sum(tl.where(here_NN, 0.0, skewed_NN), axis=0))
