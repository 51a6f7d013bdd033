"""Rows that a model was trained on, and rows that it meets: those of one dataset, or of two.

Two datasets of one log may have the same ids, and another split: what one of them tests, the other trains.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharded_emb.component import leaves
from sharded_emb.config.build import Built
from sharded_emb.config.same_numbers import NUMBERS, numbers_of, require_same_numbers
from sharded_emb.data.dataset import Dataset, Manifest
from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.errors import InputError
from sharded_emb.training import checkpoint_files as files

ROWS = "rows_of_dataset"  # in what a checkpoint says of its run
BEFORE = "other_rows"  # in what a checkpoint says of the run that it began with
_SHOWN = 3
# where raw data are, not what they are
_PLACES = frozenset({"_target_", "raw", "downloads", "sha256", "max_bad_rows", "item_attributes"})


def rows_of(manifest: Manifest) -> dict[str, Any]:
    """What the rows of a dataset's splits follow from."""
    dataset = {key: value for key, value in leaves(manifest.dataset) if key.rpartition(".")[2] not in _PLACES}
    rows = {name: split.rows for name, split in manifest.splits.items()}
    raw = sorted(file.sha256 for file in manifest.source)
    split = manifest.split.partition(":")[0]  # the rest is words on the keys of `dataset`
    found = {"raw files": raw, "split": split, "seed": manifest.seed}
    return {**found, "rows": rows, "counts": manifest.counts, "dataset": dataset}


def other_rows(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """What two datasets have not in common, each `what mine, not theirs`. A key that one version alone has does not
    tell.
    """
    found = []
    for key in ("raw files", "split", "seed"):
        if theirs[key] != mine[key]:
            found.append("other raw files" if key == "raw files" else f"{key} {mine[key]}, not {theirs[key]}")
    for key in ("rows", "counts", "dataset"):
        differ = [each for each in mine[key] if each in theirs[key] and mine[key][each] != theirs[key][each]]
        found += [f"{_named(key, each)} {_said(mine[key][each])}, not {_said(theirs[key][each])}" for each in differ]
    return found


def other_rows_of(checkpoint: Path, dataset: Dataset, *, alone: bool = False) -> list[str]:
    """What a dataset has not in common with that of a checkpoint, or with the one that its run began with; empty where
    the rows are the same, as far as the checkpoint knows. alone: whatever its run began with.
    """
    try:
        said = files.state_of(checkpoint, "data")
    except (InputError, ValueError, OSError):  # is for who loads it to name
        return []
    found = other_rows(said[ROWS], rows_of(dataset.manifest)) if ROWS in said else _by_folder(said, dataset)
    before: list[str] = [] if alone else said.get("run", {}).get("warm_start", {}).get(BEFORE, [])
    return found or before


def told_of(checkpoint: Path, dataset: Dataset) -> list[str]:
    """A line for people where a checkpoint was trained on other rows than those of a dataset."""
    if not (found := other_rows_of(checkpoint, dataset)):
        return []
    return [
        f"{checkpoint} was trained on other rows than the train split of {dataset.folder} ({shown(found)}): "
        "what is scored here may be among them"
    ]


def said_of_dataset(built: Built) -> dict[str, Any]:
    """What a checkpoint says of the dataset of its run, besides vocabularies."""
    return {NUMBERS: numbers_of(built.reading, built.dataset), ROWS: rows_of(built.dataset.manifest)}


def require_same_dataset(built: Built, checkpoint: Path | None) -> None:
    """Raises InputError, on every rank, where a run would go on with other rows or numbers than it began with. A run on
    a stream has its rows from there. checkpoint: None where there is none.
    """

    def check() -> None:
        if checkpoint is None or built.config.stream.folder is not None:
            return
        try:
            theirs = files.state_of(checkpoint, "data").get(ROWS)
        except (InputError, ValueError, OSError):
            return
        if theirs and (found := other_rows(theirs, rows_of(built.dataset.manifest))):
            run = checkpoint.parent.parent
            raise InputError(
                f"data: want the rows with which {run} was started, got others in {built.config.data} "
                f"({shown(found)}); prepare them as they were, or begin another run with "
                f"warm_start.run={run}"
            )

    from_first_rank(check, built.place)
    require_same_numbers(built, checkpoint)


def _by_folder(said: Mapping[str, Any], dataset: Dataset) -> list[str]:
    """Of a checkpoint of an earlier version: by the folder that its run read."""
    folder = Path(said["config"]["data"])
    if folder.resolve() == dataset.folder.resolve():
        return []
    try:
        return other_rows(rows_of(Dataset.open(folder).manifest), rows_of(dataset.manifest))
    except InputError:
        return [f"it read {folder}, which is not there any more"]


def shown(found: list[str]) -> str:
    """The first of them."""
    return "; ".join(found[:_SHOWN]) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def _named(key: str, each: str) -> str:
    return {"rows": f"rows of {each}", "counts": each, "dataset": f"dataset.{each}"}[key]


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
