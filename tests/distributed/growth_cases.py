"""What the tests of grown tables run on every rank: a run on some data, and runs on more of them that begin with it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from sharded_emb.config.build import Built
from sharded_emb.config.run import RunConfig
from sharded_emb.config.warm_starting import warm_started
from sharded_emb.data.dataset import read_manifest, write_manifest
from sharded_emb.data.vocabulary_hash import hash_of
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError
from sharded_emb.training import checkpoint_entries as entries
from sharded_emb.training.checkpoint import Checkpoints
from tests.distributed.driven import train_steps
from tests.distributed.next_item_config import config
from tests.distributed.next_item_data import ITEMS, write_dataset
from tests.distributed.plan_checkpoint_cases import numbers

NEW_ITEMS = 14
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adagrad": {"_target_": "adagrad", "lr": 0.1, "initial_accumulator": 0.3},
    "adam": {"_target_": "adam", "lr": 0.01},
    "rowwise_adagrad": {"_target_": "rowwise_adagrad", "lr": 0.1},
}
IDS: dict[str, Any] = {
    "rows": "rows",
    "remainders": {"_target_": "quotient_remainder", "remainders": 5, "combined_by": "add"},
}


@dataclass(frozen=True)
class Grown:
    """A table that was saved under one plan and grows under another."""

    optimizer: str
    saved: str
    loaded: str
    ids: str = "rows"


CASES = [
    Grown("adagrad", "row_wise", "column_wise"),
    Grown("adagrad", "data_parallel", "row_wise"),
    Grown("adam", "column_wise", "table_wise"),
    Grown("adam", "table_wise", "data_parallel"),
    Grown("rowwise_adagrad", "table_wise", "row_wise"),
    Grown("rowwise_adagrad", "row_wise", "data_parallel"),
    Grown("adagrad", "row_wise", "table_wise", "remainders"),
]


def write_datasets(folder: Path) -> None:
    """`old`, `new` with more items behind the old ones, and `other`, in which two old ones have changed places."""
    write_dataset(folder / "old")
    raw = [1000 + row for row in range(ITEMS - 2 + NEW_ITEMS)]
    _set_items(folder / "old", raw[: ITEMS - 2])
    for name in ("new", "other"):
        shutil.copytree(folder / "old", folder / name)
    _set_items(folder / "new", raw)
    _set_items(folder / "other", [*raw[:4], raw[5], raw[4], *raw[6:]])


def _set_items(folder: Path, raw: Sequence[int]) -> None:
    ids, rows = pa.array(raw, pa.int64()), len(raw) + 2
    column = pa.concat_arrays([pa.nulls(2, pa.int64()), ids])
    table = pa.table({"row": pa.array(range(rows), pa.int64()), "raw": column, "count": pa.array([1] * rows)})
    pq.write_table(table, folder / "vocabulary" / "item.parquet")
    manifest = read_manifest(folder)
    item = manifest.vocabularies["item"].model_copy(update={"rows": rows, "sha256": hash_of(ids)})
    vocabularies = {**manifest.vocabularies, "item": item}
    write_manifest(folder, manifest.model_copy(update={"vocabularies": vocabularies}))


def run_config(folder: Path, data: str, case: Grown, sharding: str, **more: Any) -> RunConfig:
    tables = {"item": {"dim": 8, "init": "uniform", "ids": IDS[case.ids]}}  # within a bound by the number of rows
    optimizer = OPTIMIZERS[case.optimizer]
    keys: dict[str, Any] = {"tables": tables, "embedding_optimizer": optimizer, "loss": "sampled", **more}
    return config(folder / data, sharding, **keys)


def whole(built: Built) -> dict[str, Tensor]:
    """Tables, their states, dense weights and theirs."""
    dense = nn.ModuleDict(built.sharded.dense()).state_dict()
    found = {**numbers(built.sharded), **dense, **entries.dense_states(built.sharded, built.dense)}
    return {name: value.clone() for name, value in found.items()}


def save_all(place: Place, folder: Path, runs: Path) -> None:
    """A checkpoint of each case, and beside it what it holds."""
    for number, case in enumerate(CASES):
        built = Built(run_config(folder, "old", case, case.saved), place)
        train_steps(built, 4)
        run = runs / str(number)
        facts = {"config": {"data": str(folder / "old")}}
        Checkpoints(run, place, built.vocabularies(), facts=facts).save(built.sharded, built.dense, 4, best=False)
        found = whole(built)
        if place.rank == 0:
            torch.save(found, run / "whole.pt")
            (run / "run.yaml").touch()


def grow_all(place: Place, folder: Path, runs: Path) -> dict[Grown, list[str]]:
    """What is not as it should be after each: old rows as they were, new ones as in a new table of their size."""
    found = {}
    for number, case in enumerate(CASES):
        run = runs / str(number)
        more = {"warm_start": {"run": str(run)}, "checkpoint": {"grow_tables": ["it*"]}}
        built = Built(run_config(folder, "new", case, case.loaded, **more), place)
        new, old = whole(built), torch.load(run / "whole.pt")
        begun = warm_started(built)
        now = whole(built)
        odd = [] if begun.report["grown_tables"]["item"] == {"rows_before": ITEMS, "rows": ITEMS + NEW_ITEMS} else ["?"]
        odd += list(now.keys() ^ old.keys())
        odd += [f"{name}: {n}" for name in now.keys() & old for n in _wrong(name, old[name], new.get(name), now[name])]
        odd += [] if built.sharded.updates.steps == 4 else ["steps"]
        train_steps(built, 2)
        found[case] = odd
    return found


def _wrong(name: str, old: Tensor, new: Tensor | None, now: Tensor) -> list[str]:
    if "item" not in name:
        return [] if torch.equal(old, now) else ["not as it was"]
    assert new is not None
    rows = len(old)
    odd = [] if torch.equal(old, now[:rows]) else ["old rows"]
    return odd + ([] if torch.equal(new[rows:], now[rows:]) else ["new rows"])


def save_and_grow(place: Place, folder: Path, others: Path, mine: Path) -> tuple[dict[Grown, list[str]], Any]:
    """Both, in one process group, and `from_runs` of the others."""
    save_all(place, folder, mine)
    return grow_all(place, folder, others), from_runs(place, folder, others)


def from_runs(place: Place, folder: Path, runs: Path) -> dict[tuple[str, str], bool]:
    """By dataset and plan whether the table begins with the rows that a run has for the same ids."""
    found = {}
    run = runs / str([case.saved for case in CASES].index("column_wise"))
    old = torch.load(run / "whole.pt")["item"]
    for data, sharding in (("new", "row_wise"), ("other", "column_wise"), ("other", "data_parallel")):
        case = Grown("adagrad", "", sharding)
        fresh = Built(run_config(folder, data, case, sharding), place).sharded.whole_table("item")
        tables = {"item": {"dim": 8, "init": "uniform", "weights": {"path": str(run)}}}
        built = Built(run_config(folder, data, case, sharding, tables=tables), place)
        want = old.clone()
        if data == "other":
            want[[6, 7]] = old[[7, 6]]
        want = torch.cat([want, fresh[ITEMS:]])
        filled = built.pretrained["item"]
        numbers = (filled.from_file, filled.missing, filled.unused)
        right = numbers == (ITEMS - 2, NEW_ITEMS, 0)
        states = [state for name, state in whole(built).items() if name.startswith("tables.item.")]
        right = right and all(torch.equal(state, torch.full_like(state, 0.3)) for state in states)
        found[data, sharding] = right and torch.equal(built.sharded.whole_table("item"), want)
    return found


def refused(place: Place, folder: Path, run: Path, data: str, **more: Any) -> list[str]:
    """The problems of beginning with a run."""
    case = CASES[0]
    keys = {"warm_start": {"run": str(run)}, **more}
    built = Built(run_config(folder, data, case, case.loaded, **keys), place)
    try:
        warm_started(built)
    except InputError as error:
        return error.problems
    return []
