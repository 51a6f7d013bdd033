"""In which dtype vectors and gradients travel between ranks."""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, get_args

from fbgemm_gpu.quantize_comm import QuantizedCommCodec
from fbgemm_gpu.split_embedding_configs import SparseType
from torch import Tensor
from torchrec.distributed.types import CommOp, QuantizedCommCodecs

from sharded_emb.component import Frozen
from sharded_emb.distributed.blocks import WIDEST_BLOCK, BlockDType, Blocks

WireDType = Literal["fp32", "fp16", "bf16", "fp8", "int8"]


def block_width(columns: Iterable[int]) -> int:
    """The most numbers of a block that vectors of these columns are whole blocks of."""
    return math.gcd(WIDEST_BLOCK, *columns)


class Communication(Frozen):
    """The key `sharding.communication`. forward: dtype of vectors on their way from the ranks that own rows. backward:
    of gradients on their way back, those of data-parallel tables included.

    What a rank sends is rounded, clamped to the largest number of the dtype, and float32 is made of what it receives.
    Partial sums of a table that is cut by rows are added up in float32 once they have come; on a GPU they are on the
    way, in the dtype that travels, unless either is fp8 or int8. See `Blocks` for these two. In a world of one nothing
    travels: nothing is rounded. The gradient of a mean is about as small as a batch is large, and fp16 loses digits
    below 6e-5 and everything below 3e-8; the others do not.
    """

    forward: WireDType = "fp32"
    backward: WireDType = "fp32"

    @property
    def exact(self) -> bool:
        """Whether nothing is rounded on the way."""
        return self.forward == self.backward == "fp32"

    @property
    def in_blocks(self) -> bool:
        """Whether something travels in blocks, which cannot be added up on the way."""
        return not {self.forward, self.backward}.isdisjoint(get_args(BlockDType))

    def codecs(self, width: int) -> QuantizedCommCodecs:
        """What rounds vectors and gradients. width: numbers of a block."""
        return QuantizedCommCodecs(forward=_codec(self.forward, width), backward=_codec(self.backward, width))

    def registry(self, width: int) -> dict[str, QuantizedCommCodecs] | None:
        """The same by kind of exchange; None if nothing is rounded.

        TorchRec's own puts fp16 in place of bf16 on a CPU, and other dtypes in place of fp8 where rows are cut.
        """
        exchanges = (
            CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL,
            CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER,
            CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL,
        )
        return None if self.exact else {exchange.name: self.codecs(width) for exchange in exchanges}

    def sent(self, gradient_RD: Tensor) -> Tensor:
        """A gradient as it is sent, by row: what the codecs do, for exchanges that are not TorchRec's."""
        columns = gradient_RD.shape[1]
        codec = _codec(self.backward, block_width([columns]))
        sent: Tensor = codec.encode(gradient_RD).view(len(gradient_RD), codec.calc_quantized_size(columns))
        return sent

    def received(self, sent_RS: Tensor, columns: int) -> Tensor:
        """Float32 (R, D) of what `sent` gave."""
        codec = _codec(self.backward, block_width([columns]))
        received: Tensor = codec.decode(sent_RS.contiguous()).view(len(sent_RS), columns)
        return received


@lru_cache
def _codec(dtype: WireDType, width: int) -> Any:
    if dtype == "fp8" or dtype == "int8":
        return Blocks(dtype, width)
    return _AsGiven(SparseType.FP32) if dtype == "fp32" else QuantizedCommCodec(SparseType(dtype))


class _AsGiven(QuantizedCommCodec):
    """Rounds nothing, nor makes float32 of what tables give in another dtype."""

    def decode(self, input_tensor: Tensor, ctx: Any = None) -> Tensor:  # noqa: ARG002
        """What was received."""
        return input_tensor


EXACT = Communication()
