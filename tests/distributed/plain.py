"""The slow twin: plain nn.Embedding and nn.EmbeddingBag, one process, the whole batch, optimizers written by hand.

Nothing of sharded_emb but the initial numbers of the tables.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIM_A, DIM_B = 16, 8


@dataclass
class PlainTable:
    """A table and what its optimizer keeps."""

    weight: Tensor
    optimizer: str
    lr: float
    state: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.weight = self.weight.clone().requires_grad_()
        shape = {"sgd": (0,), "adagrad": tuple(self.weight.shape), "rowwise_adagrad": (len(self.weight), 1)}
        self.state = torch.full(shape[self.optimizer], 0.1 if self.optimizer == "adagrad" else 0.0)

    @torch.no_grad()
    def step(self) -> None:
        """One update with the gradient of the whole batch; duplicates of a row are summed by autograd."""
        gradient = self.weight.grad
        assert gradient is not None
        if self.optimizer == "sgd":
            self.weight -= self.lr * gradient
            return
        square = gradient**2
        self.state += square if self.optimizer == "adagrad" else square.mean(1, keepdim=True)
        touched = gradient.abs().sum(1, keepdim=True) > 0
        self.weight -= torch.where(touched, self.lr * gradient / (self.state.sqrt() + 1e-8), 0)
        self.weight.grad = None

    def zero_grad(self) -> None:
        self.weight.grad = None


class PlainClicks(nn.Module):
    """The twin of `parity_cases.Clicks`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2 * DIM_A + 3 * DIM_B, 1)

    def forward(self, tables: dict[str, Tensor], rows: list[dict[str, list[int]]]) -> Tensor:
        """The logit of each row, one row after the other."""
        logits = []
        for row in rows:
            parts = [
                _bag(tables["big"], row["a"], "sum"),
                _bag(tables["big"], row["b"], "mean"),
                _bag(tables["pool"], row["c"], "mean"),
                _bag(tables["seq"], row["d"], "sum"),
                torch.tanh(F.embedding(torch.tensor(row["h"], dtype=torch.int64), tables["seq"], padding_idx=0)).sum(0),
            ]
            logits.append(self.net(torch.cat(parts)))
        return torch.cat(logits)


def _bag(weight: Tensor, ids: list[int], mode: str) -> Tensor:
    values, offsets = torch.tensor(ids, dtype=torch.int64), torch.tensor([0])
    return F.embedding_bag(values, weight, offsets, mode=mode, padding_idx=0)[0]
