"""The mean of the vectors, as `torch.nn.EmbeddingBag(mode="mean")`."""

from torch import Tensor

from sharded_emb.layers.jagged import divide_by_length
from sharded_emb.pooling.sum import Sum


class Mean(Sum):
    """The kernel sums, and the layer divides: the kernel's own means are wrong under several plans."""

    def finish(self, summed_BD: Tensor, lengths_B: Tensor) -> Tensor:
        """Divided by the number of ids; an empty bag stays zero."""
        return divide_by_length(summed_BD, lengths_B)
