"""Initial rows of a table as a function of (seed, table, row, column) alone.

A counter-based generator in place of a stream: any shard can compute its own part, so the numbers are the same for
every world size, plan and order of filling. The hash is the finalizer of SplitMix64 (Steele et al., "Fast splittable
pseudorandom number generators", OOPSLA 2014), applied twice.
"""

import hashlib
import math
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from sharded_emb.component import Component
from sharded_emb.ids.hash import finalize

_COLUMN_BITS = 20  # a table may have 2**20 columns and 2**43 rows before a counter repeats


def _int64(value: int) -> int:
    """The signed 64-bit integer with the same bits."""
    return (value + 2**63) % 2**64 - 2**63


def mixed(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64, a bijection of 64-bit integers, on any device."""
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        # a logical shift: torch has no unsigned 64-bit arithmetic on every device
        x = (x ^ ((x >> bits) & ((1 << (64 - bits)) - 1))) * _int64(factor)
    return x


def stream_key(seed: int, name: str) -> int:
    """A 64-bit key of a named random stream: the same everywhere, unlike `hash`."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return _int64(int.from_bytes(digest, "little"))


def hashed_uniform(key: int, rows_R: Tensor, columns_C: Tensor) -> Tensor:
    """Uniform draws in the open interval (0, 1), float32 of shape (R, C), one for each (key, row, column).

    rows_R and columns_C are int64 on the CPU and may be any rows and columns of the table in any order.
    """
    rows_R1 = rows_R.numpy().view(np.uint64)[:, None] << np.uint64(_COLUMN_BITS)
    bits_RC = rows_R1 + (columns_C.numpy().view(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    scratch_RC = np.empty_like(bits_RC)
    finalize(bits_RC, scratch_RC)
    np.bitwise_xor(bits_RC, np.int64(key).view(np.uint64), out=bits_RC)
    finalize(bits_RC, scratch_RC)
    # 23 bits and a half: every value is exact in float32 and neither 0 nor 1 can occur
    drawn_RC = np.right_shift(bits_RC, np.uint64(41), out=bits_RC).astype(np.float32)
    return torch.from_numpy(drawn_RC).add_(0.5).mul_(2.0**-23)


class Initializer(Component):
    """The slot `tables.NAME.init`: turns uniform draws into the initial values of a table."""

    named: ClassVar[dict[str, str]] = {
        name: f"sharded_emb.initializers.{kind}"
        for name, kind in {
            "uniform": "Uniform",
            "normal": "Normal",
            "truncated_normal": "TruncatedNormal",
            "xavier_uniform": "XavierUniform",
            "xavier_normal": "XavierNormal",
            "zeros": "Zeros",
            "constant": "Constant",
        }.items()
    }

    def values(self, uniform_RC: Tensor, rows: int, dim: int) -> Tensor:
        """Initial values (R, C) of part of a table of shape (rows, dim), from uniform draws of the same shape."""
        raise NotImplementedError


class Normal(Initializer):
    """Independent normal values."""

    mean: float = 0.0
    std: float = Field(default=0.02, ge=0)

    def values(self, uniform_RC: Tensor, rows: int, dim: int) -> Tensor:  # noqa: ARG002
        return torch.special.ndtri(uniform_RC).mul_(self.std).add_(self.mean)


class TruncatedNormal(Normal):
    """Normal values from within `cut` standard deviations of the mean, by the inverse of their distribution function,
    as `torch.nn.init.trunc_normal_`."""

    cut: PositiveFloat = 2.0

    def values(self, uniform_RC: Tensor, rows: int, dim: int) -> Tensor:
        outside = math.erfc(self.cut / math.sqrt(2)) / 2  # on each side
        bound = self.cut * self.std
        inside_RC = super().values(uniform_RC * (1 - 2 * outside) + outside, rows, dim)
        return inside_RC.clamp_(self.mean - bound, self.mean + bound)


class Uniform(Initializer):
    """Uniform values in [-bound, bound]; without a bound 1/sqrt(rows), as TorchRec has it."""

    bound: float | None = Field(default=None, gt=0)

    def values(self, uniform_RC: Tensor, rows: int, dim: int) -> Tensor:  # noqa: ARG002
        bound = 1 / math.sqrt(rows) if self.bound is None else self.bound
        return (uniform_RC * 2 - 1).mul_(bound)


class XavierUniform(Initializer):
    """Uniform values in gain * sqrt(6 / (rows + dim)) around 0 (Glorot and Bengio, AISTATS 2010), as
    `torch.nn.init.xavier_uniform_`."""

    gain: PositiveFloat = 1.0

    def values(self, uniform_RC: Tensor, rows: int, dim: int) -> Tensor:
        return (uniform_RC * 2 - 1).mul_(self.gain * math.sqrt(6 / (rows + dim)))


class XavierNormal(Initializer):
    """Normal values with a deviation of gain * sqrt(2 / (rows + dim)) (Glorot and Bengio, AISTATS 2010), as
    `torch.nn.init.xavier_normal_`."""

    gain: PositiveFloat = 1.0

    def values(self, uniform_RC: Tensor, rows: int, dim: int) -> Tensor:
        return torch.special.ndtri(uniform_RC).mul_(self.gain * math.sqrt(2 / (rows + dim)))


class Constant(Initializer):
    """The same value everywhere."""

    value: float

    def values(self, uniform_RC: Tensor, rows: int, dim: int) -> Tensor:  # noqa: ARG002
        return torch.full_like(uniform_RC, self.value)


class Zeros(Initializer):
    """Zeros, so that rows differ by their gradients alone."""

    def values(self, uniform_RC: Tensor, rows: int, dim: int) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(uniform_RC)
