"""Raw log -> dataset folder, by Ibis expressions on an embedded DuckDB.

The expressions keep to what Spark has as well: no ordered collect, no window over all rows, and vocabularies numbered
in this process. Only the readers of files (`tabular`) are DuckDB's own.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis

from sharded_emb.data.base import DatasetConfig
from sharded_emb.data.dataset import Dataset, Manifest, write_manifest
from sharded_emb.data.folder import staged

_WORK = "work"


def prepare(config: DatasetConfig, folder: Path, *, seed: int, overwrite: bool) -> Manifest:
    """Make the dataset folder that `config` describes. Equal inputs give equal folders, whatever the machine.

    The folder is written aside and renamed: it is there whole or not at all. Raises InputError, each line beginning
    with `dataset.` or `data`, for raw data that cannot be read and a folder that may not be written.
    """
    with staged(folder, overwrite=overwrite) as part:
        with _backend(part / _WORK) as backend:
            manifest = config.make(backend, part, seed)
        dataset = Dataset(part, manifest)
        manifest = manifest.model_copy(update={"best_reachable": config.best_reachable(dataset, seed)})
        write_manifest(part, manifest)
    return manifest


@contextmanager
def _backend(work: Path) -> Iterator[Any]:
    """DuckDB with its database in a file: a log may be larger than memory. The file is gone afterwards."""
    work.mkdir()
    backend = ibis.duckdb.connect(work / "prepare.duckdb", temp_directory=str(work))
    try:
        yield backend
    finally:
        backend.disconnect()
        shutil.rmtree(work)
