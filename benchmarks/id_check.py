"""What the range check of ids on the host costs, beside the least that a step can cost: one fused FBGEMM lookup.

    python benchmarks/id_check.py

Interleaved in one process, one thread; medians. A whole training step costs more than the lookup, so its share is
smaller still.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import fbgemm_gpu  # noqa: F401
import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor

from sharded_emb.data.bags import Bags, check_ids
from sharded_emb.tables import Feature, FeatureConfig

ROWS, DIM, TURNS = 1_000_000, 64, 50


def main() -> None:
    """Prints a line a batch shape."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, table {ROWS:,} x {DIM}, row-wise Adagrad")
    print("| batch | check ms | fused lookup ms | check / lookup |\n|---|---|---|---|")
    for batch, length in ((128, 10), (2048, 20), (8192, 20), (8192, 100)):
        check, lookup = measured(batch, length)
        print(f"| {batch} x {length} | {check:.4f} | {lookup:.3f} | {check / lookup:.2%} |")


def measured(batch: int, length: int) -> tuple[float, float]:
    """Milliseconds of the check, and of forward, backward and update."""
    ids = np.random.default_rng(0).integers(0, ROWS, batch * length)
    bags = Bags(ids, np.full(batch, length))
    feature = Feature(name="history", **dict(FeatureConfig(table="item", column="items")))
    kernel_step, ids_N = fused_step(ROWS, DIM, length), torch.from_numpy(ids)

    def step() -> None:
        kernel_step(ids_N)

    found = [(timed(lambda: check_ids(feature, bags, ROWS, str)), timed(step)) for _ in range(TURNS)]
    check, lookup = zip(*found, strict=True)
    return statistics.median(check), statistics.median(lookup)


def fused_step(rows: int, dim: int, length: int = 1) -> Callable[[Tensor], None]:
    """Forward, backward and update of a bare kernel, for bags of so many ids."""
    kernel = SplitTableBatchedEmbeddingBagsCodegen(
        embedding_specs=[(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.1,
    )

    def step(ids_N: Tensor) -> None:
        offsets = torch.arange(0, ids_N.numel() + 1, length)
        kernel(ids_N, offsets).backward(torch.ones(ids_N.numel() // length, dim))

    return step


def timed(function: Callable[[], None]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
