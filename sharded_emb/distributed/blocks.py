"""Numbers in a byte each, in blocks that share a power of two: how int8 and fp8 travel, on every device alike.

Blocks are those of the OCP Microscaling Formats (MX) specification 1.0, MXINT8 and MXFP8 E4M3, and so is the scale of
int8. That of fp8 is twice as large here: with its own, up to an eighth is cut off the largest numbers of a block.

N  blocks    W  numbers of a block
"""

from typing import Any, Literal

import torch
from torch import Tensor

BlockDType = Literal["fp8", "int8"]

WIDEST_BLOCK = 32
_NOT_FINITE = 255  # the exponent of what is infinite or no number
# between the exponent of a block's largest number and that of its scale: int8 holds up to 127, e4m3 up to 448
_HEADROOM: dict[BlockDType, int] = {"int8": 6, "fp8": 7}


class Blocks:
    """What TorchRec calls a codec: makes bytes of float32 before an exchange, and float32 of bytes after it.

    width: numbers of a block, at most 32; each length that is sent has to be a multiple of it. A number of int8 is off
    by at most 1/127 of the largest of its block; one of fp8 by 1/16 of itself, or by 2**-17 of the largest. A block
    with a number that is not finite arrives as no numbers at all.
    """

    def __init__(self, dtype: BlockDType, width: int) -> None:
        assert 0 < width <= WIDEST_BLOCK
        self.dtype: BlockDType = dtype
        self.width = width

    def encode(self, values: Tensor, _: Any = None) -> Tensor:
        """Bytes (N * (W + 1),) of float32 of any shape: of each block its numbers, and the exponent of their scale."""
        values_NW = values.reshape(values.numel() // self.width, self.width)
        exponent_N = values_NW.abs().amax(1).view(torch.int32) >> 23
        scale_N = (exponent_N - _HEADROOM[self.dtype]).clamp(min=1)
        scale_N = torch.where(exponent_N == _NOT_FINITE, _NOT_FINITE, scale_N)
        scaled_NW = values_NW / _power(scale_N)[:, None]
        if self.dtype == "int8":
            bytes_NW = scaled_NW.round().clamp(-127, 127).to(torch.int8).view(torch.uint8)
        else:
            bytes_NW = scaled_NW.to(torch.float8_e4m3fn).view(torch.uint8)
        return torch.cat([bytes_NW, scale_N.to(torch.uint8)[:, None]], 1).flatten()

    def decode(self, received: Tensor, _: Any = None) -> Tensor:
        """Float32 (N * W,) of bytes."""
        bytes_NW = received.view(received.numel() // (self.width + 1), self.width + 1)
        numbers_NW = bytes_NW[:, :-1].view(torch.int8 if self.dtype == "int8" else torch.float8_e4m3fn)
        found_NW = numbers_NW.float() * _power(bytes_NW[:, -1].int())[:, None]
        return torch.where(bytes_NW[:, -1:] == _NOT_FINITE, torch.nan, found_NW).flatten()

    @property
    def quantized_dtype(self) -> torch.dtype:
        """Of what is sent."""
        return torch.uint8

    def calc_quantized_size(self, length: int, _: Any = None) -> int:
        """Bytes of so many numbers."""
        assert length % self.width == 0
        return length // self.width * (self.width + 1)

    def create_context(self) -> None:
        """Nothing is kept between sending and receiving."""

    def padded_size(self, values: Tensor, *_: Any) -> tuple[int, int]:
        """The columns of what is sent, and how many to add to them: none."""
        return values.shape[-1], 0


def _power(biased_N: Tensor) -> Tensor:
    """The float32 with this exponent: exact on every device, as a power function is not."""
    return (biased_N << 23).view(torch.float32)
