"""SASRec as a practitioner writes it in one file of plain PyTorch, with the savings that are known.

    python benchmarks/plain_sasrec.py Beauty.txt [--epochs 1]

Batches of like lengths, padded to their longest; 512 negatives shared in a batch; cosine over a temperature; AdamW for
everything. Nothing of sharded_emb is in it: it is what `benchmarks/epoch.py` sets us beside.

B  rows    L  longest row    S  events with a successor    N  negatives, or items    D  dim
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 32  # batches whose rows are sorted by length together


@dataclass(frozen=True)
class Settings:
    """Of the model and its training."""

    dim: int = 64
    blocks: int = 2
    hidden: int = 64
    longest: int = 50
    dropout: float = 0.3
    batch: int = 256
    negatives: int = 512
    temperature: float = 0.07
    lr: float = 2e-3


class Block(nn.Module):
    """Causal attention, and a net for each event."""

    def __init__(self, with_: Settings) -> None:
        super().__init__()
        self.norm, self.norm_net = nn.LayerNorm(with_.dim), nn.LayerNorm(with_.dim)
        self.projection, self.out = nn.Linear(with_.dim, 3 * with_.dim), nn.Linear(with_.dim, with_.dim)
        self.net = nn.Sequential(
            nn.Linear(with_.dim, with_.hidden),
            nn.GELU(),
            nn.Dropout(with_.dropout),
            nn.Linear(with_.hidden, with_.dim),
        )
        self.dropout = nn.Dropout(with_.dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """The same shape. Rows are padded behind, so that a causal mask is all that is needed."""
        q, k, v = self.projection(self.norm(x_BLD)).unsqueeze(1).chunk(3, dim=-1)
        mixed_BLD = F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)
        x_BLD = x_BLD + self.dropout(self.out(mixed_BLD))
        found: Tensor = x_BLD + self.dropout(self.net(self.norm_net(x_BLD)))
        return found


class SASRec(nn.Module):
    """Histories to unit vectors, which items are compared with."""

    def __init__(self, items: int, with_: Settings) -> None:
        super().__init__()
        self.items = nn.Embedding(items, with_.dim)
        self.places = nn.Embedding(with_.longest, with_.dim)
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(with_) for _ in range(with_.blocks))
        self.norm, self.dropout = nn.LayerNorm(with_.dim), nn.Dropout(with_.dropout)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """(B, L, D)."""
        x_BLD = self.dropout(self.items(ids_BL) + self.places.weight[: ids_BL.shape[1]])
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return F.normalize(self.norm(x_BLD), dim=-1)


def batches(rows: list[Tensor], size: int) -> Iterator[Tensor]:
    """Of like lengths in random order, padded with 0. Sorted all at once, the model would learn less from an epoch."""
    order = random.sample(range(len(rows)), len(rows))
    together = [order[start : start + WINDOW * size] for start in range(0, len(order), WINDOW * size)]
    parts = []
    for window in together:
        window.sort(key=lambda row: len(rows[row]))
        parts += [window[start : start + size] for start in range(0, len(window), size)]
    random.shuffle(parts)
    for part in parts:
        yield nn.utils.rnn.pad_sequence([rows[row] for row in part], batch_first=True)


def epoch(model: SASRec, optimizer: torch.optim.Optimizer, rows: list[Tensor], with_: Settings) -> float:
    """Trains on all rows; the mean loss of the last batch."""
    loss = torch.zeros(())
    for ids_BL in batches(rows, with_.batch):
        if ids_BL.shape[1] < 2:
            continue
        real_S = ids_BL[:, 1:] > 0
        states_SD, successor_S = model(ids_BL[:, :-1])[real_S], ids_BL[:, 1:][real_S]
        negative_N = torch.randint(1, model.items.num_embeddings, (with_.negatives,))
        positive_SD = F.normalize(model.items(successor_S), dim=-1)
        positive_S = (states_SD * positive_SD).sum(-1, keepdim=True)
        negative_SN = states_SD @ F.normalize(model.items(negative_N), dim=-1).T
        negative_SN = negative_SN.masked_fill(negative_N == successor_S[:, None], -1e9)
        logits_S = torch.cat([positive_S, negative_SN], 1) / with_.temperature
        loss = F.cross_entropy(logits_S, torch.zeros(len(logits_S), dtype=torch.int64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def ndcg(model: SASRec, file: Path, with_: Settings) -> float:
    """NDCG@10 of each user's last item among all that they did not have before, ties counting half."""
    model.eval()
    items_ND = F.normalize(model.items.weight, dim=-1)
    events = [[int(item) for item in line.split()[1:]] for line in file.read_text().splitlines()]
    events.sort(key=len)
    gain = 0.0
    for start in range(0, len(events), with_.batch):
        some = events[start : start + with_.batch]
        histories = [torch.tensor(row[:-1][-with_.longest :]) for row in some]
        last_B = torch.tensor([len(row) - 1 for row in histories])
        states_BLD = model(nn.utils.rnn.pad_sequence(histories, batch_first=True))
        score_BN = states_BLD[torch.arange(len(some)), last_B] @ items_ND.T
        score_BN[:, 0] = -torch.inf  # padding
        for row, scores_N in zip(some, score_BN, strict=True):
            target = float(scores_N[row[-1]])
            scores_N[row[:-1]] = -torch.inf
            scores_N[row[-1]] = target
            rank = int((scores_N > target).sum()) + (int((scores_N == target).sum()) - 1) / 2
            gain += 1 / math.log2(rank + 2) if rank < 10 else 0.0
    model.train()
    return gain / len(events)


def read(file: Path, longest: int) -> tuple[list[Tensor], int]:
    """The training rows: all but the last two events, the newest of them; and the rows that the item table needs."""
    events = [[int(item) for item in line.split()[1:]] for line in file.read_text().splitlines()]
    return [torch.tensor(row[:-2][-longest:]) for row in events], max(map(max, events)) + 1


def main() -> None:
    """Prints CPU seconds by epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with_ = Settings()
    rows, items = read(options.raw, with_.longest)
    model = SASRec(items, with_)
    optimizer = torch.optim.AdamW(model.parameters(), lr=with_.lr, fused=True)
    for number in range(options.epochs):
        start = time.process_time()
        loss = epoch(model, optimizer, rows, with_)
        print(f"epoch {number + 1}: loss {loss:.3f}, {time.process_time() - start:.1f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
