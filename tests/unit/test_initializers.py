"""Initial weights: a function of (seed, table, row, column) alone, whichever part of a table is asked for.

R  rows    C  columns
"""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import ks_2samp
from torch import Tensor

from sharded_emb.initializers import (
    Constant,
    Initializer,
    Normal,
    TruncatedNormal,
    Uniform,
    XavierNormal,
    XavierUniform,
    Zeros,
    hashed_uniform,
    stream_key,
)
from sharded_emb.tables import TableConfig

MASK = 2**64 - 1


def slow_mix(x: int) -> int:
    """The finalizer of SplitMix64 on Python's unbounded ints."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def slow_uniform(key: int, row: int, column: int) -> float:
    """The slow twin of one element of `hashed_uniform`."""
    counter = (row * 2**20 + column + 0x9E3779B97F4A7C15) & MASK
    bits = slow_mix(slow_mix(counter) ^ (key & MASK))
    return ((bits >> 41) + 0.5) / 2**23


def draw(rows: int, columns: int, seed: int = 0, table: str = "item") -> Tensor:
    return hashed_uniform(stream_key(seed, table), torch.arange(rows), torch.arange(columns))


def test_the_hash_is_splitmix64() -> None:
    # the published first outputs of SplitMix64 from seed 0
    golden = 0x9E3779B97F4A7C15
    assert [slow_mix(golden), slow_mix(2 * golden & MASK)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63), stream_key(0, "item")])
def test_every_draw_equals_the_slow_twin(key: int) -> None:
    rows = [0, 1, 2, 999, 2**31, 2**40, 2**43 - 1]
    columns = [0, 1, 7, 63, 2**20 - 1]
    fast = hashed_uniform(key, torch.tensor(rows), torch.tensor(columns))
    assert fast.dtype == torch.float32
    assert fast.tolist() == [[slow_uniform(key, row, column) for column in columns] for row in rows]


def test_any_part_of_a_table_equals_that_part_of_the_whole() -> None:
    key, whole_RC = stream_key(5, "item"), draw(200, 24, seed=5)
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(20):
        rows = torch.randperm(200, generator=shuffle)[: int(torch.randint(1, 200, (), generator=shuffle))]
        columns = torch.randperm(24, generator=shuffle)[: int(torch.randint(1, 24, (), generator=shuffle))]
        assert torch.equal(hashed_uniform(key, rows, columns), whole_RC[rows][:, columns])
    assert torch.equal(hashed_uniform(key, torch.tensor([3, 3]), torch.arange(24)), whole_RC[[3, 3]])


def test_no_rows_or_no_columns_are_an_empty_part() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert hashed_uniform(1, nothing, torch.arange(4)).shape == (0, 4)
    assert hashed_uniform(1, torch.arange(4), nothing).shape == (4, 0)


def test_draws_are_uniform_and_independent() -> None:
    u_RC = draw(2000, 64).double()
    count = u_RC.numel()
    assert u_RC.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / count))
    assert u_RC.var().item() == pytest.approx(1 / 12, rel=0.02)
    share = torch.histc(u_RC, bins=20, min=0, max=1) / count
    assert (share - 0.05).abs().max() < 0.005
    centred_RC = u_RC - 0.5
    beside = (centred_RC[:, 1:] * centred_RC[:, :-1]).mean() * 12
    below = (centred_RC[1:] * centred_RC[:-1]).mean() * 12
    assert max(abs(beside), abs(below)) < 5 / math.sqrt(count)


def test_draws_repeat_no_more_often_than_chance_has_it() -> None:
    # 128 000 draws of 2**23 values: about 127 000 different ones
    assert draw(2000, 64).unique().numel() > 126_500


@pytest.mark.parametrize("bits", [0, 2**23 - 1])
def test_neither_0_nor_1_can_be_drawn(bits: int) -> None:
    largest_and_smallest = (torch.tensor(bits).to(torch.float32) + 0.5) * 2.0**-23
    assert 0 < largest_and_smallest.item() < 1
    assert torch.isfinite(Normal().values(largest_and_smallest[None, None], rows=1, dim=1)).all()
    u_RC = draw(5000, 64)
    assert u_RC.min() > 0
    assert u_RC.max() < 1


def test_stream_keys_are_the_same_on_every_machine_and_in_every_release() -> None:
    assert stream_key(0, "item") == 3_635_486_795_723_193_194
    assert stream_key(1, "item") == -1_136_485_385_798_481_416
    assert stream_key(0, "negatives.12") == 6_053_057_979_061_938_712


def test_stream_keys_are_signed_64_bit_numbers_of_their_own() -> None:
    keys = [stream_key(seed, name) for seed in range(50) for name in ("item", "user", "genre", "1/item")]
    assert len(set(keys)) == len(keys)
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert min(keys) < 0 < max(keys)


def test_other_seeds_and_other_tables_get_other_weights() -> None:
    draws = [draw(50, 8), draw(50, 8, seed=1), draw(50, 8, table="user")]
    for i, one in enumerate(draws):
        for other in draws[i + 1 :]:
            assert (one != other).float().mean() > 0.99


def test_normal_has_its_mean_and_std() -> None:
    values_RC = Normal(mean=0.5, std=0.02).values(draw(3000, 32), rows=3000, dim=32).double()
    assert values_RC.mean().item() == pytest.approx(0.5, abs=5 * 0.02 / math.sqrt(values_RC.numel()))
    assert values_RC.std().item() == pytest.approx(0.02, rel=0.02)
    within = [((values_RC - 0.5).abs() < 0.02 * k).double().mean().item() for k in (1, 2, 3)]
    assert within == pytest.approx([0.6827, 0.9545, 0.9973], abs=0.005)


def test_normal_without_spread_is_a_constant() -> None:
    assert Normal(mean=0.25, std=0).values(draw(4, 4), rows=4, dim=4).unique().tolist() == [0.25]


@pytest.mark.parametrize(("initializer", "bound"), [(Uniform(bound=0.3), 0.3), (Uniform(), 0.05)])
def test_uniform_fills_its_bounds(initializer: Initializer, bound: float) -> None:
    """Without a bound it is one over the square root of the rows of the table, not of the part."""
    values_RC = initializer.values(draw(2000, 32), rows=400, dim=32)
    assert values_RC.abs().max() < bound
    assert values_RC.max() > 0.999 * bound
    assert values_RC.min() < -0.999 * bound
    assert values_RC.double().std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("initializer", [Normal(), Uniform()])
def test_initial_values_leave_the_draws_alone(initializer: Initializer) -> None:
    u_RC = draw(4, 8)
    before = u_RC.clone()
    initializer.values(u_RC, rows=4, dim=8)
    assert torch.equal(u_RC, before)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"std\n.*greater than or equal to 0"):
        Normal(std=-1)
    with pytest.raises(ValidationError, match=r"bound\n.*greater than 0"):
        Uniform(bound=0)


BIG = 400


def big(init: Initializer) -> Tensor:
    return init.values(draw(BIG, BIG), BIG, BIG)


@pytest.mark.parametrize(
    ("init", "twin"),
    [
        (XavierUniform(gain=2.0), lambda t: torch.nn.init.xavier_uniform_(t, gain=2.0)),
        (XavierNormal(), torch.nn.init.xavier_normal_),
        (TruncatedNormal(mean=0.1, std=0.5), lambda t: torch.nn.init.trunc_normal_(t, 0.1, 0.5, -0.9, 1.1)),
        (TruncatedNormal(std=0.5, cut=1.0), lambda t: torch.nn.init.trunc_normal_(t, 0.0, 0.5, -0.5, 0.5)),
        (Normal(mean=-1.0, std=0.3), lambda t: torch.nn.init.normal_(t, -1.0, 0.3)),
        (Uniform(bound=0.2), lambda t: torch.nn.init.uniform_(t, -0.2, 0.2)),
    ],
    ids=lambda value: repr(value) if isinstance(value, Initializer) else "",
)
def test_values_are_distributed_as_torchs(init: Initializer, twin: Any) -> None:
    torch.manual_seed(0)
    theirs, mine = twin(torch.empty(BIG, BIG)), big(init)
    assert ks_2samp(mine.flatten().numpy(), theirs.flatten().numpy()).pvalue > 0.01
    reach = float(theirs.max() - theirs.min())
    if not isinstance(init, Normal | XavierNormal) or isinstance(init, TruncatedNormal):
        assert float(mine.max() - mine.min()) == pytest.approx(reach, rel=1e-3)


def test_constants() -> None:
    assert torch.equal(big(Zeros()), torch.zeros(BIG, BIG))
    assert torch.equal(big(Constant(value=0.5)), torch.full((BIG, BIG), 0.5))


@pytest.mark.parametrize("name", sorted(Initializer.named))
def test_a_table_takes_an_initializer_by_its_name(name: str) -> None:
    init = {"_target_": name, "value": 1.0} if name == "constant" else name
    table = TableConfig.model_validate({"dim": 4, "init": init})
    assert f"sharded_emb.initializers.{type(table.init).__name__}" == Initializer.named[name]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"want one of uniform, normal, .* got 'zeroes'; did you mean zeros"):
        TableConfig.model_validate({"dim": 4, "init": "zeroes"})
