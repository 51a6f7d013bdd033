"""`doctor calibrate=true`: what this machine has of what a plan counts with, as a cluster to name."""

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
import yaml

from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.distributed.calibrate import calibrated
from sharded_emb.distributed.process_group import Place, process_group
from sharded_emb.errors import InputError
from sharded_emb.planning.cluster import ClusterConfig
from sharded_emb.planning.units import shown_bytes, shown_seconds

NAME = "calibrated"
NOISY = 2.25  # two quiet cores have 1.2 to 2.1, those with another job on one of them 2.3 to 3.8


def calibrate(device: Literal["auto", "cpu", "cuda"], out: Path | None) -> ClusterConfig:
    """Measures, prints, and writes FOLDER/cluster/calibrated.yaml where `out` is given. Of all ranks that are launched.

    Raises InputError on every rank for a folder that cannot be written.
    """
    torch.set_num_threads(1)
    with process_group(device) as place:
        from_first_rank(lambda: _made(out), place)
        found, spread = calibrated(place)
        if place.rank == 0:
            print(_told(found))
            if spread > NOISY:
                print(f"warning: {_noise(spread)}; repeat it where nothing else runs", file=sys.stderr)
        if out is not None:
            from_first_rank(lambda: _write(found, spread, out, place), place)
    return found


def _told(found: ClusterConfig) -> str:
    assert found.hosts is not None
    assert found.gpus_per_host is not None
    hosts = f"{found.hosts} host{'s' * (found.hosts > 1)}"
    lines = [f"{hosts} x {found.gpus_per_host} rank{'s' * (found.gpus_per_host > 1)} on {found.device}"]
    rates = {
        "memory_bandwidth": "of lookups",
        "update_bandwidth": "of rows that are updated, in a table larger than any cache",
        "intra_bandwidth": "from a rank to those of its host",
        "inter_bandwidth": "from a rank to those of other hosts",
    }
    seconds = {"latency": "of an exchange", "lookup_latency": "of a lookup, forward and backward"}
    for key, meaning in rates.items():
        value = getattr(found, key)
        lines.append(f"  {key:<17} {f'{shown_bytes(value)}/s' if value else 'not measured':<14} {meaning}")
    for key, meaning in seconds.items():
        value = getattr(found, key)
        lines.append(f"  {key:<17} {shown_seconds(value) if value else 'not measured':<14} {meaning}")
    return "\n".join(lines)


def _noise(spread: float) -> str:
    return f"a quarter of the steps took {spread:.1f} times as long as another quarter, or longer"


def _made(out: Path | None) -> None:
    if out is not None:
        try:
            (out / "cluster").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"out: want a folder that can be written, got {out} ({error.strerror})") from error


def _write(found: ClusterConfig, spread: float, out: Path, place: Place) -> None:
    path = out / "cluster" / f"{NAME}.yaml"
    head = f"# measured by doctor calibrate=true with {place.world_size} ranks, torch {torch.__version__}, "
    head += f"{platform.machine()}, {datetime.now(UTC):%Y-%m-%d}\n# {_noise(spread)}\n"
    try:
        path.write_text(head + yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise InputError(f"out: want a folder that can be written, got {out} ({error.strerror})") from error
    print(f"{path}: use it with --config-dir {out} cluster={NAME}")
