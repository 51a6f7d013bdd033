"""Rows that a model was trained on, and rows that it meets: those of one dataset, or of two.

Two datasets of one log may have the same ids, and another split: what one of them tests, the other trains.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
_OF_WEIGHTS = "other_rows_of_weights"  # in what it says of its run: by table, where weights of it are of another run
_HARD = "hard_negatives"  # in what it says of its run: a digest of their lists
_ALL = ("train", "valid", "test", "items")
_SHOWN = 3
# where raw data are, not what they are
_PLACES = frozenset({"_target_", "raw", "downloads", "sha256", "max_bad_rows", "users", "items", "item_attributes"})


def rows_of(manifest: Manifest, columns: Iterable[str]) -> dict[str, Any]:
    """What the rows of a dataset's splits are, in these columns, and what they follow from."""
    dataset = {key: value for key, value in leaves(manifest.dataset) if key.partition(".")[0] not in _PLACES}
    wanted, splits = set(columns), manifest.splits
    digests = {**{name: split.digests for name, split in splits.items()}, "items": manifest.item_digests}
    return {
        "split": manifest.split.partition(":")[0],  # the rest is words on the keys of `dataset`
        "rows": {name: split.rows for name, split in splits.items()},
        "counts": manifest.counts,
        "seed": manifest.seed,
        "dataset": dataset,
        "digests": {
            name: {column: digest for column, digest in by_column.items() if column in wanted}
            for name, by_column in digests.items()
        },
    }


def other_rows(theirs: Mapping[str, Any], manifest: Manifest, splits: Iterable[str]) -> list[str]:
    """How the rows of these splits differ, each `what mine, not theirs`: first what may tell a person why. A dataset of
    an earlier version is known by how many rows it has alone.
    """
    read = {column for of_split in theirs["digests"].values() for column in of_split}
    mine = rows_of(manifest, read)
    known = {
        split: [column for column in theirs["digests"][split] if column in mine["digests"][split]]
        for split in splits
        if split in theirs["digests"] and split in mine["digests"]
    }
    if read and any(known.values()):
        differ = [
            f"column {column} of {split}"
            for split, columns in known.items()
            for column in columns
            if theirs["digests"][split][column] != mine["digests"][split][column]
        ]
    else:
        differ = [key for key in ("split", "rows", "counts") if theirs[key] != mine[key]]
    return [*_why(theirs, mine), *differ] if differ else []


def _why(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """A key that one version alone has does not tell."""
    found = [f"{key} {mine[key]}, not {theirs[key]}" for key in ("split", "seed") if theirs[key] != mine[key]]
    for key in ("rows", "counts", "dataset"):
        differ = [each for each in mine[key] if each in theirs[key] and mine[key][each] != theirs[key][each]]
        found += [f"{_named(key, each)} {_said(mine[key][each])}, not {_said(theirs[key][each])}" for each in differ]
    return found


@dataclass(frozen=True)
class Trained:
    """What a checkpoint was trained on, beside the train split of the dataset in `folder`, as far as it knows. other:
    how the rows differ. before: how those differed that its run began with, or what that began with. unknown: the
    folder that a run of an earlier version read, where that is no dataset any more.
    """

    checkpoint: Path
    folder: Path
    other: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    unknown: Path | None = None

    @classmethod
    def on(cls, checkpoint: Path, dataset: Dataset) -> "Trained":
        """By what the checkpoint says."""
        said = _state(checkpoint)
        if said is None:
            return cls(checkpoint, dataset.folder)
        before: list[str] = [
            *said.get("run", {}).get("warm_start", {}).get(BEFORE, []),
            *(line for lines in said.get(_OF_WEIGHTS, {}).values() for line in lines),
        ]
        if (theirs := said.get(ROWS)) is None:  # of an earlier version: by the folder that its run read
            folder = Path(said["config"]["data"])
            if folder.resolve() == dataset.folder.resolve():
                return cls(checkpoint, dataset.folder, before=before)
            try:
                theirs = rows_of(Dataset.open(folder).manifest, dataset.columns)
            except InputError:
                return cls(checkpoint, dataset.folder, before=before, unknown=folder)
        return cls(checkpoint, dataset.folder, other_rows(theirs, dataset.manifest, ["train"]), before)

    @property
    def protocol(self) -> str | None:
        """What there is to know of metrics; None where it is nothing."""
        if self.other:
            return "other rows than the train split of these data"
        if self.before:
            return "these data, after other rows by what it began with"
        return None if self.unknown is None else "rows that are not known to be these data's"

    @property
    def warnings(self) -> list[str]:
        """The same for people."""
        folder, scored = self.folder, "what is scored here may be among them"
        if self.other:
            what = f"was trained on other rows than the train split of {folder} ({shown(self.other)}): {scored}"
        elif self.before:
            began = f"began with one trained on other rows than those of {folder} ({shown(self.before)})"
            what = f"is of a run that {began}: {scored}"
        elif self.unknown is not None:
            what = f"read {self.unknown}, which is none any more: whether {folder} has its rows is not known"
        else:
            return []
        return [f"{self.checkpoint} {what}"]


def said_of_dataset(built: Built) -> dict[str, Any]:
    """What a checkpoint says of the dataset of its run, besides vocabularies."""
    of_items = {feature.column for feature in built.reading.item_features}
    rows = rows_of(built.dataset.manifest, built.reading.columns() | of_items)
    return {
        NUMBERS: numbers_of(built.reading, built.dataset),
        ROWS: rows,
        _OF_WEIGHTS: _others_of_weights(built),
        _HARD: None if built.hard is None else built.hard.digest,
    }


def weights_of_other_rows(facts: Mapping[str, Any]) -> Iterator[str]:
    """What there is to say where weights are of a run that has seen other rows. facts: what a checkpoint says."""
    for name, other in facts.get(_OF_WEIGHTS, {}).items():
        yield (
            f"tables.{name}.weights: they are of a run on other rows than the train split of these data "
            f"({shown(other)}): what is evaluated may be among them"
        )


def _others_of_weights(built: Built) -> dict[str, list[str]]:
    runs = {name: Trained.on(each, built.dataset) for name, each in built.of_runs.items() if each is not None}
    return {name: other for name, trained in runs.items() if (other := trained.other or trained.before)}


def require_same_dataset(built: Built, checkpoint: Path | None) -> None:
    """Raises InputError, on every rank, where a run would go on with other rows, numbers or hard negatives than before.
    A run on a stream has its rows from there. checkpoint: None where there is none.
    """

    def check() -> None:
        if checkpoint is None:
            return
        said = _state(checkpoint) or {}
        if built.hard is not None and said.get(_HARD) not in (None, built.hard.digest):
            raise InputError(
                f"loss.hard.path: want the negatives with which {checkpoint.parent.parent} was started, got others; "
                "write them as they were, or begin another run"
            )
        if built.config.stream.folder is not None:
            return
        theirs = said.get(ROWS)
        if theirs and (found := other_rows(theirs, built.dataset.manifest, _ALL)):
            run = checkpoint.parent.parent
            raise InputError(
                f"data: want the rows with which {run} was started, got others in {built.config.data} "
                f"({shown(found)}); prepare them as they were, or begin another run with warm_start.run={run}"
            )

    from_first_rank(check, built.place)
    require_same_numbers(built, checkpoint)


def shown(found: list[str]) -> str:
    """The first of them."""
    return "; ".join(found[:_SHOWN]) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def _state(checkpoint: Path) -> dict[str, Any] | None:
    """None for one that cannot be read, which is for who loads it to name."""
    try:
        return files.state_of(checkpoint, "data")
    except (InputError, ValueError, OSError):
        return None


def _named(key: str, each: str) -> str:
    return {"rows": f"rows of {each}", "counts": each, "dataset": f"dataset.{each}"}[key]


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
