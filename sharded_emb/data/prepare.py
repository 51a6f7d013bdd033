"""Raw log -> dataset folder, by Ibis expressions on an embedded DuckDB.

The expressions keep to what Spark has as well: no ordered collect, no window over all rows, and vocabularies numbered
in this process, where the events of a piece of the log are sorted and cut, too. Only the readers of files (`reading`)
are DuckDB's own. What does not fit into memory is spilled.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from sharded_emb.data import report
from sharded_emb.data.bad_rows import BadRows
from sharded_emb.data.base import DatasetConfig
from sharded_emb.data.dataset import Dataset, Manifest, write_manifest
from sharded_emb.data.engines import running
from sharded_emb.data.fits import Fits
from sharded_emb.data.folder import staged
from sharded_emb.data.tabular import first_line
from sharded_emb.data.work import EngineConfig, How, Progress, Work
from sharded_emb.errors import InputError
from sharded_emb.vocabulary_rows import FIRST_ROW

_WORK = "work"


def prepare(config: DatasetConfig, folder: Path, *, seed: int, overwrite: bool, how: How | None = None) -> Manifest:
    """Make the dataset folder that `config` describes. Equal inputs give equal folders, whatever the machine.

    The folder is written aside and renamed: it is there whole or not at all. Raises InputError, each line on a key of
    `dataset`, `data`, `prepare` or `extend`, for raw data that cannot be read, a folder that may not be written, and
    memory or disk that are too small.
    """
    how = how or How()
    engine = how.engine
    old = _opened(how.extend)
    bad = BadRows(config.max_bad_rows)
    with staged(folder, overwrite=overwrite) as part, problems_of_engine(engine):
        with running(part / _WORK, engine) as started:
            progress = Progress(started.reader.con, shown=engine.progress)
            work = Work(started.backend, started.reader, part, started.scratch, seed, bad, progress, old)
            work.fits = Fits() if old is None else Fits.of(old, "extend")
            manifest = config.make(work)
            bad.judge()
            bad.write(part)
        dataset = Dataset(part, manifest)
        more = {
            "best_reachable": config.best_reachable(dataset, seed),
            "bad_rows": bad.by_key,
            "extends": old and {name: each.sha256 for name, each in old.manifest.vocabularies.items()},
        }
        manifest = manifest.model_copy(update=more)
        with progress.step("looking at the dataset"):
            found = report.look(dataset)
            manifest = manifest.model_copy(update={"facts": {**manifest.facts, **report.facts(found)}})
            counts = _item_counts(dataset)
            report.write(part, manifest, found, counts)
        write_manifest(part, manifest)
    for line in bad.summary():
        progress.say(line)
    return manifest


def _item_counts(dataset: Dataset) -> npt.NDArray[np.int64]:
    if "item" not in dataset.manifest.vocabularies:
        return np.zeros(0, np.int64)
    return dataset.vocabulary("item")["count"].to_numpy()[FIRST_ROW:]


def _opened(extend: Path | None) -> Dataset | None:
    if extend is None:
        return None
    try:
        return Dataset.open(extend)
    except InputError as error:
        raise InputError(*(f"extend: {line.removeprefix('data: ')}" for line in error.problems)) from error


@contextmanager
def problems_of_engine(engine: EngineConfig) -> Iterator[None]:
    """Too little memory or disk, as InputError."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        if "max_temp_directory_size" in str(error):  # the disk of the folder is full
            raise _no_room_to_spill(error) from error
        limit = engine.memory_limit or "this machine has"
        raise InputError(
            f"prepare.memory_limit: want enough for this log, got {limit} ({first_line(error)}); raise it, or set "
            "prepare.threads=1"
        ) from error
    except duckdb.IOException as error:
        raise _no_room_to_spill(error) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            "data: want room for the dataset, got a disk that is full; choose another data=FOLDER, or prepare.temp"
        ) from error


def _no_room_to_spill(error: Exception) -> InputError:
    return InputError(f"prepare.temp: want room to spill to, got {first_line(error)}; name another folder")
