"""Tables of results for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def protocol_line(name: str, protocol: Mapping[str, Any]) -> str:
    """The name of an evaluation, and what makes its numbers comparable."""
    return f"{name}  ({', '.join(f'{key}: {value}' for key, value in protocol.items())})"


def results_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Metrics as columns, one line an evaluation; a metric that an evaluation does not have stays empty. Recall, which
    is hit rate where there is one target, is left out.
    """
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics if not name.startswith("recall")))
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for label, metrics in rows.items():
        table.add_row(label, *(f"{metrics[name]:.4f}" if name in metrics else "" for name in names))
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()
