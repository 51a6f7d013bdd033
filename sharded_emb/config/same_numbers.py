"""Numbers of a dataset have to be on the scales that a model was trained on."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sharded_emb.config.build import Built
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.fits import fits_of
from sharded_emb.data.task import Reading
from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.errors import InputError
from sharded_emb.training import checkpoint_files as files

NUMBERS = "numbers"  # in what a checkpoint says of its run


def numbers_of(reading: Reading, dataset: Dataset) -> dict[str, Any]:
    """By column that is read how its numbers came to be, where the dataset says so."""
    if dataset.manifest.fitted is None:
        return {}
    fits = fits_of(sorted(reading.columns()), dataset)
    return {name: fit.model_dump(mode="json", exclude={"rule"}) for name, fit in fits.items()}


def other_numbers(said: Mapping[str, Any], numbers: Mapping[str, Any], checkpoint: Path) -> Iterable[str]:
    """A line for each column whose numbers are others than those that a checkpoint was trained on. said: what it says
    of its run.
    """
    for column, mine in numbers.items():
        theirs = said.get(NUMBERS, {}).get(column, mine)
        if theirs != mine:
            want, got = (_said({key: each[key] for key in each if mine[key] != theirs[key]}) for each in (theirs, mine))
            yield (
                f"data: want numbers of {column} as {checkpoint} was trained on ({want}), got others ({got}); make the "
                "dataset by prepare extend=OLD_FOLDER, give that of the run, or train again"
            )


def require_same_numbers(built: Built, checkpoint: Path | None) -> None:
    """Raises InputError, on every rank, where numbers that a model reads are not what it was trained on. checkpoint:
    None where there is none; one that cannot be read is for who loads it to name.
    """

    def check() -> None:
        if checkpoint is None:
            return
        try:
            said = files.state_of(checkpoint, "data")
        except (InputError, ValueError, OSError):
            return
        if problems := [*other_numbers(said, numbers_of(built.reading, built.dataset), checkpoint)]:
            raise InputError(*problems)

    from_first_rank(check, built.place)


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
