"""What torch, FBGEMM and TorchRec say about this machine: one JSON object a line.

`doctor` runs this file by its path in a process of its own, because importing a broken FBGEMM can end the
interpreter; a line is out before the next library is touched. Nothing of sharded_emb is imported for the same reason.
"""

import json
import sys
from typing import Any


def torch_facts() -> dict[str, Any]:
    """Version, CUDA build, GPUs with their memory in bytes, and the communication backends of the installed torch."""
    import torch
    import torch.distributed as dist

    usable = torch.cuda.is_available()
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count() if usable else 0)]
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        "gloo": dist.is_available() and dist.is_gloo_available(),
        "nccl": dist.is_available() and dist.is_nccl_available(),
    }


def fbgemm_facts() -> dict[str, Any]:
    """Whether FBGEMM's operators load and compute. Importing it alone does not show it: some builds load lazily."""
    import fbgemm_gpu
    import torch

    offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([2, 3]))
    assert offsets.tolist() == [0, 2, 5]
    return {"version": str(getattr(fbgemm_gpu, "__version__", "unknown"))}


def torchrec_facts() -> dict[str, Any]:
    """Whether TorchRec imports, its sharding included."""
    import torchrec
    import torchrec.distributed

    return {"version": str(getattr(torchrec, "__version__", "unknown"))}


FACTS = {"torch": torch_facts, "fbgemm": fbgemm_facts, "torchrec": torchrec_facts}


def main(libraries: list[str]) -> None:
    """Prints the facts of each of these libraries, or the error that it ends in."""
    for library in libraries:
        try:
            facts = FACTS[library]()
        # whatever a broken build raises is the answer: OSError, ImportError, AttributeError of torch.ops, ...
        except Exception as error:
            facts = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        print(json.dumps({"library": library, **facts}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
