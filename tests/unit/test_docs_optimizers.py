"""The table of optimizers in docs/tables.md is what the code says."""

import re
from pathlib import Path

from sharded_emb.component import component_class
from sharded_emb.optim.base import EmbeddingOptimizer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tables.md"


def table() -> str:
    """One line an optimizer, as the page has it."""
    lines = [
        "| optimizer | on a CPU | on CUDA | state | `column_wise` |",
        "|---|---|---|---|---|",
    ]
    for name, target in EmbeddingOptimizer.named.items():
        optimizer = component_class(target)(lr=1.0)
        paths = ["fused" if optimizer.why_no_kernel(device) is None else "sparse" for device in ("cpu", "cuda")]
        state = ", ".join(f"one a{'n' if per == 'element' else ''} {per}" for per in optimizer.states().values())
        columns = "refused" if optimizer.reads_whole_rows else "yes"
        lines.append(f"| `{name}` | {paths[0]} | {paths[1]} | {state or 'none'} | {columns} |")
    return "\n".join(lines)


def test_the_table_of_optimizers_is_what_the_code_says() -> None:
    (written,) = re.findall(r"<!-- optimizers -->\n(.*?)\n<!-- /optimizers -->", PAGE.read_text(), re.DOTALL)
    assert written == table()
