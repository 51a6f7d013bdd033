"""The slow twin of SASRec: plain matrices and optimizers of torch, one process, one row at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Extent, Jagged
from sharded_emb.config.build import resolve_tables
from sharded_emb.config.run import RunConfig
from sharded_emb.data.dataset import Dataset
from sharded_emb.initializers import Normal, hashed_uniform, stream_key
from sharded_emb.models.compared import CausalModel
from sharded_emb.vocabulary_rows import FIRST_ROW
from tests.distributed.driven import STEPS
from tests.distributed.next_item_config import DIM, SEED, config
from tests.distributed.next_item_data import ITEMS, TAGGED, TAGS, USERS, sequences


def plain_table(name: str, rows: int) -> Tensor:
    drawn = hashed_uniform(stream_key(SEED, f"tables.{name}"), torch.arange(rows), torch.arange(DIM))
    table = Normal(std=0.3).values(drawn, rows, DIM)
    table[0] = 0
    return table.requires_grad_()


def shares_of_tags() -> Tensor:
    """The share of each tag in each item: (items, tags)."""
    shares = torch.zeros(ITEMS, TAGS)
    for item, tags in enumerate(TAGGED):
        for tag in tags:
            shares[item, tag] += 1 / len(tags)
    return shares


def train_plain(folder: Path, loss: str, with_tags: bool = False) -> tuple[list[float], Tensor, Tensor]:
    """The same with plain matrices in one process: padded batches, autograd, Adagrad and AdamW of torch."""
    run = config(folder, "row_wise", loss)
    table, tags = plain_table("item", ITEMS), plain_table("tag", TAGS)
    torch.manual_seed(SEED)
    model: Any = run.model.build(resolve_tables(run, Dataset.open(folder), None))
    dense = run.dense_optimizer.build(model.parameters())
    adagrad = torch.optim.Adagrad([table, tags], lr=0.1, eps=1e-8, initial_accumulator_value=0.1)
    source = plain_source()
    losses = []
    parts = [part for epoch in range(9) for part in source.parts(epoch, 0, 1)]
    for step, part in enumerate(parts[:STEPS], start=1):
        factor = run.schedule.factor(step)
        adagrad.param_groups[0]["lr"] = 0.1 * factor
        for group in dense.param_groups:
            group["lr"] = 0.01 * factor
        items = table + shares_of_tags() @ tags if with_tags else table
        loss_value = _plain_loss(run, model, items, [sequences()[i][:-2][-7:] for i in part.rows], step)
        loss_value.backward()
        for optimizer in (adagrad, dense):
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss_value.item())
    return losses, table.detach(), tags.detach()


def plain_source() -> Any:
    from sharded_emb.data.source import BatchesConfig, Source

    return Source(np.ones(USERS, dtype=np.int64), BatchesConfig(), 7, SEED)


def _plain_loss(run: RunConfig, model: CausalModel, table: Tensor, rows: list[list[int]], step: int) -> Tensor:
    """The mean cross-entropy over all events with a successor, one row at a time."""
    candidates = run.loss.candidates(ITEMS, SEED, step)  # type: ignore[attr-defined]
    losses = []
    for row in rows:
        if len(row) < 2:
            continue
        ids = torch.tensor(row)
        inputs = Jagged(F.embedding(ids[:-1], table), ids[:-1], torch.tensor([len(row) - 1]), Extent(len(row) - 1, 1))
        for state_D, target in zip(model.encode(inputs), ids[1:], strict=True):
            scores_K = table[candidates] @ state_D
            if run.loss.task == "next_item" and len(candidates) < ITEMS - FIRST_ROW:
                scores_K = scores_K[candidates != target] + np.log((ITEMS - FIRST_ROW) / len(candidates))
                losses.append(torch.logsumexp(torch.cat([scores_K, (table[target] @ state_D)[None]]), 0))
            else:
                losses.append(torch.logsumexp(scores_K, 0))
            losses[-1] = losses[-1] - table[target] @ state_D
    return torch.stack(losses).mean()
