"""What is sharded and trained: lookups, model and loss in one module."""

from torch import Tensor, nn

from sharded_emb.batch import Batch
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.losses.base import Loss


class Trainee(nn.Module):
    """A batch to the weighted sum of its losses on this rank, a scalar."""

    def __init__(self, embeddings: Embeddings, poolings: Poolings, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.poolings = poolings
        self.model = model
        self.loss = loss

    def forward(self, batch: Batch) -> Tensor:
        """The sum, not the mean: what the mean divides by is known to the loop, over all ranks."""
        return self.loss(self.model(self.poolings(self.embeddings(batch))), batch)
