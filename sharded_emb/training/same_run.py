"""Whether a config is that of a run: what may change when it goes on, and what may not."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharded_emb.component import asks_for_nothing, leaves

# what changes where and how long a run runs, or what it writes, but not what it computes; each with all keys below it
FREE = frozenset(
    [
        "run",
        "steps",
        "epochs",
        "log_every_steps",
        "evaluation.progressive",
        "checkpoint",
        "sharding",
        "cluster",
        "device",
        "threads_per_rank",
        "prefetch",
        "flat_copy",
        "stream.poll_seconds",
        "stream.idle_seconds",
        "wait_seconds",
        "stall_seconds",
        "lost_seconds",
        "profile",
        "tracking",
        "verify",
    ]
)
LIMITS = ("steps", "epochs")  # with others of these a run that was finished goes on
_MISSING = object()


def config_hash(config: Mapping[str, Any]) -> str:
    """A hash of what a run depends on: everything but where it writes."""
    known = {key: value for key, value in config.items() if key != "run"}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> list[str]:
    """One line for each key by which a run would not go on as it began."""
    old, new = dict(leaves(before)), dict(leaves(now))
    found = []
    for key in dict.fromkeys((*old, *new)):
        was, is_now = old.get(key, _MISSING), new.get(key, _MISSING)
        if was is _MISSING and asks_for_nothing(is_now):  # the key came after the run, and asks for nothing
            continue
        if was != is_now and not _free(key) and not (_is_path(key) and _same_path(was, is_now)):
            remedy = f", or begin another run with warm_start.run={run}" if key == "data" else ""
            said = f"want {_said(was)}, with which {run} was started, got {_said(is_now)}"
            found.append(f"{key}: {said}; resume it as it is{remedy}")
    return found


def _free(key: str) -> bool:
    parts = key.split(".")
    if parts[:2] == ["sharding", "communication"]:  # what is rounded on its way is part of what a step computes
        return False
    return parts[0] in FREE or key in FREE or (parts[0] == "tables" and parts[-1] == "sharding")


def _is_path(key: str) -> bool:
    return key in ("data", "warm_start.run") or key.rpartition(".")[2] in ("folder", "path")


def _same_path(one: Any, other: Any) -> bool:
    return all(isinstance(each, str) for each in (one, other)) and Path(one).resolve() == Path(other).resolve()


def _said(value: Any) -> str:
    return "no such key" if value is _MISSING else "null" if value is None else str(value)
