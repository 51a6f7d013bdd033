"""Partial sums of tables that are cut by rows, sent to the ranks whose sums they are parts of.

TorchRec adds them up on their way, in the dtype that travels. Bytes that share a scale cannot be added up, and gloo
makes a reduce-scatter of an all-reduce, with twice the bytes. Here each rank is sent the parts of its own sums, as many
numbers as a ring would pass on, and adds them up in float32 (of float16 without a codec the sum is float16 again).

W  ranks of the group    B  sums of a rank    D  columns
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torchrec.distributed.dist_data import PooledEmbeddingsAwaitable
from torchrec.distributed.sharding.grid_sharding import GridPooledEmbeddingDist
from torchrec.distributed.sharding.rw_sharding import RwPooledEmbeddingDist
from torchrec.distributed.sharding.twrw_sharding import TwRwPooledEmbeddingDist
from torchrec.distributed.types import Awaitable, NoWait, QuantizedCommCodecs

from sharded_emb.embeddings.lookup import Embeddings


def send_parts(embeddings: Embeddings, codecs: QuantizedCommCodecs) -> None:
    """Lets all tables that are cut by rows and pooled exchange their sums like this."""
    for exchange in embeddings.pooled._output_dists if embeddings.pooled is not None else []:
        if isinstance(exchange, RwPooledEmbeddingDist):
            exchange._dist = SumsOfParts(exchange._pg, codecs)
        elif isinstance(exchange, TwRwPooledEmbeddingDist | GridPooledEmbeddingDist):
            exchange._create_output_dist_modules()  # among the ranks of a host, then among hosts
            exchange._intra_dist = SumsOfParts(exchange._intra_pg, codecs)


class SumsOfParts(nn.Module):
    """In place of TorchRec's reduce-scatter, its gradient divided by the ranks as TorchRec's is."""

    def __init__(self, group: dist.ProcessGroup, codecs: QuantizedCommCodecs) -> None:
        super().__init__()
        self.group, self.codecs = group, codecs

    def forward(self, parts: Tensor, input_splits: list[int] | None = None) -> PooledEmbeddingsAwaitable:
        """The sums (B, D) of this rank, once they are waited for. parts: those of the sums of all ranks (W * B, D)."""
        assert input_splits is None or len({*input_splits}) == 1  # ranks are filled up to equal size
        if self.group.size() == 1:
            return PooledEmbeddingsAwaitable(NoWait(parts))
        sent = self.codecs.forward.encode(parts.detach())
        received = torch.empty_like(sent)
        work = dist.all_to_all_single(received.view(-1), sent.view(-1), group=self.group, async_op=True)
        return PooledEmbeddingsAwaitable(_Arriving(parts, received, work, self))


class _Arriving(Awaitable[Tensor]):
    def __init__(self, parts: Tensor, received: Tensor, work: Any, exchange: SumsOfParts) -> None:
        super().__init__()
        self.parts, self.received, self.work, self.exchange = parts, received, work, exchange

    def _wait_impl(self) -> Tensor:
        self.work.wait()
        # all ranks have to meet in the exchange of gradients, also one whose own part wants none
        anchor = torch.zeros(0, device=self.parts.device, requires_grad=True)
        summed: Tensor = _Summed.apply(self.parts, anchor, self.received, self.exchange)
        return summed


class _Summed(Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, _: Tensor, received: Tensor, exchange: SumsOfParts) -> Tensor:
        ctx.exchange, ctx.shape = exchange, parts.shape
        ranks, columns = exchange.group.size(), parts.shape[1]
        decoded: Tensor = exchange.codecs.forward.decode(received)
        return decoded.view(ranks, len(parts) // ranks, columns).sum(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        exchange, (gradient_BD,) = ctx.exchange, gradients
        sent = exchange.codecs.backward.encode(gradient_BD.contiguous()).view(-1)
        received = sent.new_empty(exchange.group.size() * len(sent))
        dist.all_gather([*received.chunk(exchange.group.size())], sent, group=exchange.group)
        decoded: Tensor = exchange.codecs.backward.decode(received).view(ctx.shape)
        return decoded.div_(exchange.group.size()), None, None, None
