"""Whether all ranks were started alike, by words that somebody types on each host.

Each would train what it was told, and the run folder would say what the first one was.
"""

from collections.abc import Mapping
from typing import Any

from sharded_emb import versions
from sharded_emb.component import leaves
from sharded_emb.config.run import RunConfig
from sharded_emb.data.dataset import Manifest
from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError

# where files of a host are, and how many of its cores a rank takes; a run is where the first rank has it
OF_A_HOST = frozenset({"data", "dataset", "flat_copy", "against", "predictions", "sharding.plan", "threads_per_rank"})
_FILES = frozenset({"path", "folder", "run"})
_MISSING = "no such key"


def require_same_start(config: RunConfig, place: Place) -> None:
    """Raises InputError on every rank, with a line for each key and library that is not the same on all."""
    mine = {key: value for key, value in leaves(config.model_dump(mode="json")) if not _of_a_host(key)}
    mine |= {name: version for name, version in versions.found().items() if version is not None}
    if problems := _not_the_same(mine, place):
        raise InputError(*(f"{problem}; start all of them with the same words and libraries" for problem in problems))


def require_same_data(manifest: Manifest, place: Place) -> None:
    """Raises InputError on every rank where the datasets of hosts have other rows, or ids of other rows."""
    same = {"columns", "item_attributes", "vocabularies", "counts", "seed", "fitted"}
    found = manifest.model_dump(mode="json", include=same)
    found |= {"source": {file.name: file.sha256 for file in manifest.source}}
    found |= {"splits": {name: split.rows for name, split in manifest.splits.items()}}
    mine = dict(leaves(found))
    if problems := _not_the_same(mine, place):
        raise InputError(*(f"data: manifest.yaml: {each}; give every host the same dataset" for each in problems))


def _of_a_host(key: str) -> bool:
    first, last = key.partition(".")[0], key.rpartition(".")[2]
    ahead = first == "prefetch" and last != "ids"  # work of the host's cores
    return first in OF_A_HOST or key in OF_A_HOST or last in _FILES or ahead


def _not_the_same(mine: Mapping[str, Any], place: Place) -> list[str]:
    """The same on every rank: by key, what two of them have."""
    every = all_values(dict(mine), place)
    found = []
    for key in dict.fromkeys(key for each in every for key in each):
        first = every[0].get(key, _MISSING)
        other = next((rank for rank, each in enumerate(every) if each.get(key, _MISSING) != first), None)
        if other is not None:
            got = every[other].get(key, _MISSING)
            both = f"{_said(first)} on rank 0 and {_said(got)} on rank {other}"
            found.append(f"{key}: want the same on all ranks, got {both}")
    return found


def _said(value: object) -> str:
    return "null" if value is None else str(value)
