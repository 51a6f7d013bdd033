"""A training step of ours beside a minimal TorchRec loop of the same model, and with data from Parquet beside memory.

    python benchmarks/step.py Beauty.txt [--report FILE] [--device cuda] [--data FOLDER]
    python benchmarks/step.py train.txt --experiment dlrm_criteo [--words global_batch=128 tables.C1.dim=64]

An experiment on one rank and one thread, whose tables are all sequences of one table (`sasrec_beauty`) or all sums
(`dlrm_criteo`, whose log criteo_like.py makes): same model, loss, optimizers and batches. The loop by hand is what
TorchRec's documentation has: a collection under DistributedModelParallel, DDP around the rest. Seconds of a CPU, or of
the clock where the device is a GPU, medians of interleaved turns; a turn is an epoch. data: prepared before.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sharded_emb
from benchmarks.machine import measured_at, seconds, tell
from sharded_emb.batch import Batch, Embedded, Jagged
from sharded_emb.config.build import Built
from sharded_emb.config.session import joined
from sharded_emb.data.source import Share
from sharded_emb.training.feed import Fed, Feed
from sharded_emb.training.step import Learner

TURNS = 7


class SequenceByHand(nn.Module):
    """Lookup, model and loss."""

    def __init__(self, collection: EmbeddingCollection, model: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.collection, self.model, self.loss = collection, model, loss

    def forward(self, batch: Batch) -> Tensor:
        """The sum of the losses."""
        sequences = {
            name: Jagged(rows.values(), batch.ids[name].values(), rows.lengths().long(), batch.extents[name], None)
            for name, rows in self.collection(batch.ids).items()
        }
        found: Tensor = self.loss(self.model(Embedded({}, sequences)), batch)
        return found


class SumsByHand(nn.Module):
    """As `SequenceByHand`, of features that are sums."""

    def __init__(self, collection: EmbeddingBagCollection, model: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.collection, self.model, self.loss = collection, model, loss

    def forward(self, batch: Batch) -> Tensor:
        """The sum of the losses."""
        embedded = Embedded(self.collection(batch.ids).to_dict(), {}, batch.numbers_BA)
        found: Tensor = self.loss(self.model(embedded), batch)
        return found


def by_hand(built: Built, batches: list[Fed]) -> Callable[[int], None]:
    """An epoch of it."""
    config: Any = built.config
    sums = all(table.pooled for table in built.held)
    kind: Any = EmbeddingBagConfig if sums else EmbeddingConfig
    specs = [
        kind(
            name=table.name,
            num_embeddings=table.rows,
            embedding_dim=table.dim,
            feature_names=[feature.name for feature in table.features],
        )
        for table in built.held
    ]
    collection: Any = (EmbeddingBagCollection if sums else EmbeddingCollection)(specs, device=torch.device("meta"))
    optimizer = config.embedding_optimizer
    arguments = {"lr": optimizer.lr, "eps": optimizer.eps}
    _apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), arguments)
    sharder: Any = EmbeddingBagCollectionSharder() if sums else EmbeddingCollectionSharder()
    plan = construct_module_sharding_plan(
        collection,
        {table.name: table_wise(rank=0, compute_kernel="fused") for table in built.held},
        sharder=sharder,
        local_size=1,
        world_size=1,
        device_type=built.place.device.type,
    )
    by_kind = SumsByHand if sums else SequenceByHand
    module = by_kind(collection, config.model.build(built.tables), built._loss())
    whole = ShardingPlan({"collection": plan})
    model = DistributedModelParallel(module, device=built.place.device, plan=whole, sharders=[sharder])
    with torch.no_grad():
        for weight in model.state_dict().values():
            if not isinstance(weight, Tensor) and hasattr(weight, "local_shards"):
                weight.local_shards()[0].tensor.normal_(std=0.02)
    dense = torch.optim.AdamW(
        [weight for name, weight in model.named_parameters() if ".collection." not in name],
        lr=config.dense_optimizer.lr,
        weight_decay=config.dense_optimizer.weight_decay,
        fused=True,
    )

    def epoch(number: int) -> None:  # noqa: ARG001
        for fed in batches:
            loss = model(fed.pieces[0]) / fed.loss_weight
            dense.zero_grad()
            loss.backward()
            dense.step()

    return epoch


def ours(built: Built, learner: Learner, batches: list[Fed] | None) -> Callable[[int], None]:
    """An epoch of it. batches: in memory; None for those that are read."""
    collate, source = built.collate(), built.source()

    def epoch(number: int) -> None:
        step = 1000 * number + 1
        feed = Feed(source, collate, Share(0, 1), built.place.device, built.config.prefetch)
        for fed in feed.epoch(number, 0, step) if batches is None else batches:
            learner.step(fed.pieces, fed.loss_weight, step)
            step += 1

    return epoch


def measured(options: argparse.Namespace, folder: str) -> dict[str, float]:
    """Seconds of an epoch."""
    device = options.device
    config = sharded_emb.compose(
        f"experiment={options.experiment}",
        f"dataset.raw={options.raw}",
        f"data={options.data or f'{folder}/data'}",
        f"run={folder}/run",
        *(["prefetch.batches=0"] if device == "cpu" else []),
        f"device={device}",
        *options.words,
    )
    if options.data is None:
        sharded_emb.prepare(config)
    with joined(config) as place:
        torch.set_num_threads(1)
        built = Built(config, place)
        feed = Feed(built.source(), built.collate(), Share(0, 1), place.device, config.prefetch)
        batches = [fed for fed in feed.epoch(0, 0, 1) if fed.loss_weight]
        learner = Learner(built.sharded, built.dense, config.schedule)
        works = {
            "TorchRec by hand, data in memory": by_hand(built, batches),
            "sharded_emb, data in memory": ours(built, learner, batches),
            "sharded_emb, data from Parquet": ours(built, learner, None),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(TURNS):
            for name, work in works.items():
                start = seconds(device)
                work(turn)
                times[name].append(seconds(device) - start)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--experiment", default="sasrec_beauty")
    parser.add_argument("--words", nargs="*", default=[], help="of the config, such as global_batch=128")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(options, folder)
    first = next(iter(found.values()))
    lines = [
        "# A training step",
        "",
        f"`python {' '.join(sys.argv)}`, {measured_at(options.device)}, one thread, torch {torch.__version__}; seconds",
        f"of an epoch of `experiment={options.experiment}` on {options.device}, medians of {TURNS} interleaved ones.",
        "",
        "| | seconds | of TorchRec by hand |",
        "|---|---|---|",
        *(f"| {name} | {took:.2f} | {took / first:.3f} |" for name, took in found.items()),
    ]
    tell(lines, options.report)


if __name__ == "__main__":
    main()
