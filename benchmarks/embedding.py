"""Lookup, backward pass and update of our layer, beside bare FBGEMM, bare TorchRec and nn.EmbeddingBag.

    python benchmarks/embedding.py [--report FILE] [--only 2048x20 ...] [--device cuda]

One rank, one thread, one table on row-wise Adagrad, summed in bags or read as sequences; ids as uneven as those of
items. A step is the loss sum(output * g), its backward pass and the update; batches are in memory. On a CPU its own
seconds, so that busy cores do not count; on a GPU those of ten steps, from an idle device to an idle device. Medians of
interleaved turns.
"""

import argparse
import gc
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad as TorchRecAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import measured_at, seconds
from sharded_emb.batch import Batch, Extent
from sharded_emb.distributed.plan import make_plan
from sharded_emb.distributed.process_group import Place, process_group
from sharded_emb.distributed.shard import fill, shard
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.updates import Step as StepOfTable
from sharded_emb.embeddings.updates import with_updates
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.planning.sizes import Workload
from tests.tables import make_feature, make_table

LR, EPS, BATCHES = 0.02, 1e-8, 4
LARGEST_DENSE = 100_000  # rows: a dense gradient of more would measure the memory alone
MOST_BYTES = 15 << 30  # of all contestants of a case, who stand side by side; those that do not fit are left out
STEPS = {"cpu": 1, "cuda": 10}  # of a turn
WEIGHTS_AND_STATES = {"sparse Adagrad": 2, "SparseAdam": 3, "dense Adagrad": 2}  # in tables; 1 for all others


@dataclass(frozen=True)
class Case:
    """A table and what a step reads of it. bag: ids of a sample. pooled: whether they are summed. device: of all."""

    rows: int
    dim: int
    batch: int
    bag: int
    pooled: bool
    device: str = "cpu"

    @property
    def name(self) -> str:
        """`8192x20`, with what follows if it is not pooled."""
        return f"{self.batch}x{self.bag}" + ("" if self.pooled else " sequences")

    def ids(self) -> Iterator[Tensor]:
        """Of some batches, each (batch * bag)."""
        draw = torch.Generator().manual_seed(0)
        for _ in range(BATCHES):
            uniform = torch.rand(self.batch * self.bag, generator=draw, dtype=torch.float64)
            yield (self.rows**uniform).long().clamp(max=self.rows - 1).to(self.device)

    def lengths(self) -> Tensor:
        """Of the bags."""
        return torch.full((self.batch,), self.bag, device=self.device)

    def read(self, name: str, ids: Tensor) -> KeyedJaggedTensor:
        """One batch of them; the number of ids is known to the host."""
        return KeyedJaggedTensor(keys=[name], values=ids, lengths=self.lengths(), length_per_key=[len(ids)])

    def gradient(self) -> Tensor:
        """Of the output: (batch, dim), or one row an id."""
        vectors = self.batch if self.pooled else self.batch * self.bag
        return torch.randn(vectors, self.dim, generator=torch.Generator().manual_seed(1)).to(self.device)


Turn = Callable[[int], None]


def kernel_of(case: Case) -> Any:
    """The kernel alone, without its check of ids, as a run has its own. One that does not pool sums bags of one id on a
    CPU: the fastest there is of FBGEMM there.
    """
    on_cpu = case.device == "cpu"
    where = (EmbeddingLocation.HOST, ComputeDevice.CPU) if on_cpu else (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
    kernel: Any = SplitTableBatchedEmbeddingBagsCodegen(
        [(case.rows, case.dim, *where)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=LR,
        eps=EPS,
        pooling_mode=PoolingMode.SUM if case.pooled or on_cpu else PoolingMode.NONE,
        bounds_check_mode=BoundsCheckMode.NONE,
    )
    kernel.init_embedding_weights_uniform(-0.1, 0.1)
    return kernel


def offsets_of(case: Case) -> Tensor:
    """What `kernel_of` is asked with beside ids."""
    apart = case.bag if case.pooled or case.device != "cpu" else 1
    return torch.arange(0, case.batch * case.bag + 1, apart, device=case.device)


def fbgemm(case: Case) -> Turn:
    """The kernel alone."""
    kernel, offsets = kernel_of(case), offsets_of(case)
    gradient, ids = case.gradient(), [*case.ids()]

    def turn(number: int) -> None:
        (kernel(ids[number % BATCHES], offsets) * gradient).sum().backward()

    return turn


def torchrec(case: Case) -> Turn:
    """A collection under DistributedModelParallel."""
    common: dict[str, Any] = {
        "name": "t",
        "num_embeddings": case.rows,
        "embedding_dim": case.dim,
        "feature_names": ["f"],
    }
    meta, device = torch.device("meta"), torch.device(case.device)
    collection: Any
    sharder: Any
    if case.pooled:
        sharder, bags = EmbeddingBagCollectionSharder(), EmbeddingBagConfig(pooling=PoolingType.SUM, **common)
        collection = EmbeddingBagCollection([bags], device=meta)
    else:
        sharder, collection = (
            EmbeddingCollectionSharder(),
            EmbeddingCollection([EmbeddingConfig(**common)], device=meta),
        )
    _apply_optimizer_in_backward(TorchRecAdagrad, collection.parameters(), {"lr": LR, "eps": EPS})
    per_table = {"t": table_wise(rank=0, compute_kernel="fused")}
    plan = construct_module_sharding_plan(
        collection, per_table, sharder=sharder, local_size=1, world_size=1, device_type=case.device
    )
    wrapped, whole = nn.Sequential(collection), ShardingPlan({"0": plan})
    model = DistributedModelParallel(wrapped, device=device, plan=whole, sharders=[sharder])
    gradient = case.gradient()
    batches = [case.read("f", ids) for ids in case.ids()]

    def turn(number: int) -> None:
        found = model(batches[number % BATCHES])
        vectors = found.to_dict()["f"] if case.pooled else found["f"].values()
        (vectors * gradient).sum().backward()

    return turn


class Weighed(nn.Module):
    """Our layer, and the loss."""

    def __init__(self, embeddings: Embeddings, gradient: Tensor) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.gradient = gradient

    def forward(self, batch: Batch) -> Tensor:
        """The loss."""
        found = self.embeddings(batch)
        vectors = found.pooled["f"] if "f" in found.pooled else found.sequences["f"].values_TD
        return (vectors * self.gradient).sum()


def ours(case: Case, place: Place, **more: Any) -> Turn:
    """What a run trains with, but for the model. more: of the table, such as its kernel."""
    feature = make_feature("f", "t", pooling="sum" if case.pooled else "none")
    table = make_table("t", case.rows, case.dim, feature, optimizer=RowWiseAdagrad(lr=LR, eps=EPS))
    table = replace(table, **more)
    tables = with_updates([table], StepOfTable(case.device))
    plan = make_plan(tables, place, Workload(case.batch, {"f": float(case.bag)}))
    embeddings = Embeddings(tables, plan.replicated, place.device)
    sharded = shard(Weighed(embeddings, case.gradient()), embeddings, plan, place)
    fill(sharded, 0)
    batches = [
        Batch(
            ids=case.read("f", ids),
            weight_B=torch.ones(case.batch, device=case.device),
            label_B=None,
            extents={"f": Extent(longest=case.bag, nonempty=case.batch)},
            loss_weight=1.0,
            samples=case.batch,
        )
        for ids in case.ids()
    ]

    def turn(number: int) -> None:
        sharded.parallel(batches[number % BATCHES]).backward()
        sharded.average()
        sharded.updates.step([], None)

    return turn


def plain(case: Case, optimizer: Callable[..., torch.optim.Optimizer], sparse: bool) -> Turn:
    """torch's own module and optimizer."""
    layer: Any = (nn.EmbeddingBag if case.pooled else nn.Embedding)(
        case.rows, case.dim, sparse=sparse, device=case.device, **({"mode": "sum"} if case.pooled else {})
    )
    moved = optimizer(layer.parameters(), lr=LR)
    gradient, ids = case.gradient(), [*case.ids()]
    offsets = [torch.arange(0, case.batch * case.bag, case.bag, device=case.device)] if case.pooled else []

    def turn(number: int) -> None:
        (layer(ids[number % BATCHES], *offsets) * gradient).sum().backward()
        moved.step()
        moved.zero_grad()

    return turn


def contestants(case: Case, place: Place) -> dict[str, Callable[[], Turn]]:
    """By name how each is made."""
    optim = torch.optim
    found: dict[str, Callable[[], Turn]] = {
        "FBGEMM": lambda: fbgemm(case),
        "ours": lambda: ours(case, place),
        "TorchRec": lambda: torchrec(case),
        "sparse SGD": lambda: plain(case, optim.SGD, True),
        "sparse Adagrad": lambda: plain(case, optim.Adagrad, True),
        "SparseAdam": lambda: plain(case, optim.SparseAdam, True),
    }
    if case.rows <= LARGEST_DENSE:
        found["dense SGD"] = lambda: plain(case, optim.SGD, False)
        found["dense Adagrad"] = lambda: plain(case, optim.Adagrad, False)
    most = MOST_BYTES if case.device == "cpu" else torch.cuda.mem_get_info()[0] * 9 // 10
    left = most // (4 * case.rows * case.dim)
    fitting = {}
    for name, make in found.items():
        left -= WEIGHTS_AND_STATES.get(name, 1)
        if left >= 0:
            fitting[name] = make
    return fitting


def milliseconds(case: Case, place: Place, turns: int) -> dict[str, float]:
    """Of a step, by contestant; of all interleaved."""
    gc.collect()  # tables of the case before
    if case.device != "cpu":
        torch.cuda.empty_cache()
    made = {name: make() for name, make in contestants(case, place).items()}
    times: dict[str, list[float]] = {name: [] for name in made}
    for number in range(-2, turns):
        for name, turn in made.items():
            start = seconds(case.device)
            for step in range(STEPS[case.device]):
                turn(number + step)
            if number >= 0:
                times[name].append(1e3 * (seconds(case.device) - start) / STEPS[case.device])
    return {name: statistics.median(each) for name, each in times.items()}


CASES = [
    *(Case(1_000_000, 64, batch, bag, True) for batch, bag in ((32, 1), (256, 1), (2048, 1), (2048, 20), (8192, 20))),
    *(Case(1_000_000, 64, batch, bag, True) for batch, bag in ((65536, 1), (2048, 100))),
    *(Case(rows, 64, 8192, 20, True) for rows in (10_000, 100_000, 10_000_000)),
    Case(100_000_000, 16, 8192, 20, True),
    *(Case(1_000_000, dim, 8192, 20, True) for dim in (16, 256)),
    *(Case(1_000_000, 64, batch, bag, False) for batch, bag in ((32, 10), (256, 20), (2048, 20), (8192, 20))),
]


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", choices=STEPS, default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ["FBGEMM", "TorchRec", "ours", "sparse SGD", "sparse Adagrad", "SparseAdam", "dense SGD", "dense Adagrad"]
    lines = [
        "# The embedding layer",
        "",
        f"`python {' '.join(sys.argv)}`, {measured_at(options.device)}, one thread, torch {torch.__version__};",
        f"{'CPU ' if options.device == 'cpu' else ''}milliseconds of a step, medians of {options.turns} interleaved",
        "turns. FBGEMM, TorchRec and ours on row-wise Adagrad; the others are nn.EmbeddingBag, or nn.Embedding for",
        "sequences, with torch's optimizers.",
        "",
        f"| batch | rows | dim | {' | '.join(names)} | ours / FBGEMM | ours / TorchRec | best of torch / ours |",
        "|---" * (len(names) + 6) + "|",
    ]
    print("\n".join(lines), flush=True)
    with process_group(options.device, 60) as place:
        for case in (replace(case, device=options.device) for case in CASES):
            if options.only and case.name not in options.only:
                continue
            found = milliseconds(case, place, options.turns)
            shown = " | ".join(f"{found[name]:.2f}" if name in found else "" for name in names)
            best = min((took for name, took in found.items() if name not in names[:3]), default=None)
            above, below = (found["ours"], found["FBGEMM"]), (found["ours"], found.get("TorchRec"))
            said = " | ".join(f"{a / b:.2f}" if a and b else "" for a, b in (above, below, (best, found["ours"])))
            lines.append(f"| {case.name} | {case.rows:,} | {case.dim} | {shown} | {said} |")
            print(lines[-1], flush=True)
    if options.report is not None:
        options.report.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
