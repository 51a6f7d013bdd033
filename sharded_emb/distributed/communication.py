"""In which dtype vectors and gradients travel between ranks."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs_registry
from torchrec.distributed.types import QuantizedCommCodecs

from sharded_emb.component import Frozen
from sharded_emb.embeddings.local_rows import DTYPES

WireDType = Literal["fp32", "fp16", "bf16"]


class Communication(Frozen):
    """The key `sharding.communication`. forward: dtype of vectors on their way from the ranks that own rows. backward:
    of gradients on their way back, those of data-parallel tables included.

    TorchRec's codecs round what a rank sends, clamped to the largest number of the dtype, and make float32 of what it
    receives; partial sums of a row-wise table are added up in this dtype. In a world of one nothing travels: nothing
    is rounded. The gradient of a mean is about as small as a batch is large, and fp16 loses digits below 6e-5 and
    everything below 3e-8; bf16 does not, but wants NCCL.
    """

    forward: WireDType = "fp32"
    backward: WireDType = "fp32"

    @property
    def exact(self) -> bool:
        """Whether nothing is rounded on the way."""
        return self.forward == self.backward == "fp32"

    def problems(self, device_type: str) -> Iterator[str]:
        """What this device ("cpu" or "cuda") cannot send, a line each."""
        if device_type == "cpu":
            for key, dtype in (("forward", self.forward), ("backward", self.backward)):
                if dtype == "bf16":
                    yield (
                        f"sharding.communication.{key}: want fp32 or fp16 on a CPU, where TorchRec would send fp16 "
                        "in place of bf16, got bf16; use fp16, or device=cuda"
                    )

    def codecs(self, device: torch.device) -> dict[str, QuantizedCommCodecs] | None:
        """TorchRec's, by kind of exchange; None if nothing is rounded."""
        assert not [*self.problems(device.type)]
        config = QCommsConfig(forward_precision=CommType(self.forward), backward_precision=CommType(self.backward))
        found: dict[str, QuantizedCommCodecs] | None = get_qcomm_codecs_registry(config, device=device)
        return found

    def sent(self, gradient: Tensor) -> Tensor:
        """A gradient as it is sent: what the codecs do, for exchanges that are not TorchRec's."""
        dtype = DTYPES[self.backward]
        limit = torch.finfo(dtype).max
        return gradient if self.backward == "fp32" else gradient.clamp(-limit, limit).to(dtype)


EXACT = Communication()
