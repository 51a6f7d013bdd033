"""What rounding vectors for their way between ranks costs, and what it loses: `python benchmarks/wire.py`.

163,840 standard normal vectors of 64 columns, one thread, medians of 9 interleaved turns. FBGEMM's int8 codec, which
TorchRec takes, is beside ours.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from fbgemm_gpu.quantize_comm import QuantizedCommCodec
from fbgemm_gpu.split_embedding_configs import SparseType

from sharded_emb.distributed.blocks import Blocks

VECTORS, COLUMNS, TURNS = 163_840, 64, 9
CODECS: dict[str, Any] = {
    "fp16": QuantizedCommCodec(SparseType.FP16),
    "bf16": QuantizedCommCodec(SparseType.BF16),
    "fp8, blocks of 32": Blocks("fp8", 32),
    "fp8, blocks of 4": Blocks("fp8", 4),
    "int8, blocks of 32": Blocks("int8", 32),
    "int8, blocks of 4": Blocks("int8", 4),
    "int8 of FBGEMM": QuantizedCommCodec(SparseType.INT8),
}


def main() -> None:
    """Prints a line a codec."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    values = torch.randn(VECTORS, COLUMNS, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in CODECS}
    said = {}
    for _ in range(TURNS):
        for name, codec in CODECS.items():
            context = codec.create_context()
            began = time.perf_counter()
            sent = codec.encode(values, context)
            sending = time.perf_counter()
            found = codec.decode(sent, context)
            seconds[name].append((sending - began, time.perf_counter() - sending))
            lost = float((found.view_as(values) - values).norm() / values.norm())
            said[name] = f"{sent.numel() * sent.element_size() / values.numel():.2f} | {lost:.1e}"
    print("| | bytes a number | relative error (RMS) | sending ms | receiving ms |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        sending_ms, receiving_ms = (1e3 * statistics.median(each) for each in zip(*times, strict=True))
        print(f"| {name} | {said[name]} | {sending_ms:.0f} | {receiving_ms:.0f} |")


if __name__ == "__main__":
    main()
