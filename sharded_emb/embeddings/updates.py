"""How each table is updated: inside the backward pass by FBGEMM's kernel, or after it by the same formula.

The kernel is asked only for what it does right: FBGEMM's CPU kernels ignore weight decay, momentum and norms, no fused
kernel sees the gradient of the whole step (clipping, accumulation, frequencies), and bf16 has no CPU kernel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from sharded_emb.tables import Table, Update

_ROUNDED_AWAY = {"fp32": 0.0, "fp16": 2.0**-12, "bf16": 2.0**-9}
"""By type: a number less so much of itself, or less, is the same number."""


@dataclass(frozen=True)
class Step:
    """What a step asks of the updates. device_type: "cpu" or "cuda". accumulation, clip_norm, replicas (of the tables):
    see the run's config.
    """

    device_type: str
    accumulation: int = 1
    clip_norm: float | None = None
    replicas: int = 1

    @property
    def whole(self) -> str | None:
        """The key that asks for the gradients of the whole step before any row moves."""
        if self.clip_norm is not None:
            return "clip_norm"
        if self.replicas > 1:
            return "sharding.replicas"
        return "accumulation" if self.accumulation > 1 else None


def step_of(device: str, accumulation: int, clip_norm: float | None, replicas: int = 1) -> Step:
    """Of a config, whose device may be "auto"."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Step(device, accumulation, clip_norm, replicas)


def why_not_fused(table: Table, step: Step) -> str | None:
    """Why the fused kernel would give other numbers than asked for; None if it gives the same."""
    if table.sharding == "data_parallel":
        return "a data-parallel table is whole on every rank, and no kernel exchanges its gradients"
    if step.whole:
        return f"{step.whole} needs the gradients of the whole step before any row moves"
    if table.freeze:
        return "freeze leaves nothing to update"
    if table.max_norm is not None:
        return "no kernel knows max_norm"
    if table.scale_grad_by_freq:
        return "no kernel knows scale_grad_by_freq"
    if table.state_dtype != "fp32":
        return f"the kernels keep their state in fp32, not {table.state_dtype}"
    if table.dtype == "bf16" and step.device_type == "cpu":
        return "FBGEMM has no bf16 tables on a CPU"
    if table.output_dtype == "bf16" and step.device_type == "cpu":
        return "FBGEMM gives no bf16 vectors on a CPU"
    return table.optimizer.why_no_kernel(step.device_type)


def with_updates(tables: Sequence[Table], step: Step) -> list[Table]:
    """The same tables with `update: auto` answered."""
    return [replace(table, update=_update(table, step)) if table.update == "auto" else table for table in tables]


def _update(table: Table, step: Step) -> Update:
    if table.kernel is not None:
        return "dense" if table.kernel == "dense" else "fused"
    return "fused" if why_not_fused(table, step) is None else "sparse"


def problems(tables: Sequence[Table], step: Step) -> list[str]:
    """Where `update: fused` or a kernel cannot be had, one line each beginning with the key."""
    return [line for table in tables for line in (*_kernel_problems(table, step), *_update_problems(table, step))]


def _update_problems(table: Table, step: Step) -> Iterator[str]:
    if table.update == "fused" and (reason := why_not_fused(table, step)) is not None:
        yield f"tables.{table.name}.update: want auto or sparse, since {reason}, got fused"
    if table.dtype != "fp32" and table.optimizer.weight_decay_mode == "all_decoupled":
        yield (
            f"tables.{table.name}.dtype: want fp32 with weight_decay_mode=all_decoupled, whose factor of nearly 1 "
            f"would be rounded away, got {table.dtype}"
        )
    shrinks = table.optimizer.lr * table.optimizer.weight_decay
    if table.optimizer.weight_decay_mode == "touched_decoupled" and shrinks < _ROUNDED_AWAY[table.dtype]:
        yield (
            f"tables.{table.name}.dtype: want fp32 with weight_decay_mode=touched_decoupled and lr * weight_decay = "
            f"{shrinks:g}, whose factor of nearly 1 would be rounded away, got {table.dtype}"
        )
    if table.state_dtype == "fp16" and table.optimizer.keeps_squares and not table.freeze:
        yield (
            f"tables.{table.name}.state_dtype: want fp32 or bf16 with {type(table.optimizer).__name__}, whose squares "
            "of gradients are often below the smallest number of fp16 and would be 0, got fp16"
        )


def _kernel_problems(table: Table, step: Step) -> Iterator[str]:
    kernel, key = table.kernel, f"tables.{table.name}.kernel"
    if kernel is None:
        return
    wanted = "dense" if kernel == "dense" else "fused"
    if step.device_type == "cpu" and kernel not in ("fused", "dense"):
        yield f"{key}: want fused or dense on a CPU, which has its tables in the host's memory, got {kernel}; use fused"
    elif kernel == "key_value":
        yield f"{key}: want fused, uvm or uvm_caching, whose rows can be filled and saved, got key_value"
    elif table.update not in ("auto", wanted):
        yield f"{key}: want null with tables.{table.name}.update={table.update}, got {kernel}; leave one of them out"
    elif wanted == "fused" and table.update == "auto" and (reason := why_not_fused(table, step)) is not None:
        yield f"{key}: want null or dense, since {reason}, got {kernel}"
    elif kernel == "uvm_caching" and table.ids.assigned:
        yield f"{key}: want fused or uvm with ids that are given rows anew, behind a cache's back, got uvm_caching"
