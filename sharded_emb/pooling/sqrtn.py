"""The sum divided by the square root of the number of ids (TensorFlow's combiner `sqrtn`): its variance is that of one
vector where they are independent."""

from torch import Tensor

from sharded_emb.pooling.sum import Sum


class SqrtN(Sum):
    """Between sum and mean."""

    def finish(self, summed_BD: Tensor, lengths_B: Tensor) -> Tensor:
        """An empty bag stays zero."""
        return summed_BD / lengths_B.clamp(min=1).to(summed_BD.dtype).sqrt()[:, None]
