"""Rules about places of runs: what a command writes needs one, and what a run begins with has to be there."""

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sharded_emb.config.rules import Tree
from sharded_emb.data.dataset import Dataset
from sharded_emb.errors import nearest
from sharded_emb.exploring import MANIFEST as EXPLORE_MANIFEST
from sharded_emb.models.base import NextItemConfig
from sharded_emb.replacing import LOCK
from sharded_emb.serving import MANIFEST as EXPORT_MANIFEST
from sharded_emb.training.checkpoint_files import steps
from sharded_emb.training.run_folder import RUN, taken


def place_for_run(sound: Tree) -> Iterator[str]:
    """A new run needs a folder of its own, and one that goes on has one."""
    folder: Path | None = sound.get("run")
    if sound.get("resume") and folder is None:
        yield "resume: want the folder of the run to go on with, as run=FOLDER, got none"
    if folder is None or (sound.get("resume", True) and (folder / RUN).is_file()):
        return
    if wrong := taken(folder):
        yield wrong


def start_of_run(sound: Tree) -> Iterator[str]:
    """The run to begin with has to have come as far as a checkpoint; one that goes on does without it."""
    folder: Path | None = sound["warm_start"].run if "warm_start" in sound else None
    run: Path | None = sound.get("run")
    if folder is None or (sound.get("resume") and run is not None and (run / RUN).is_file()):
        return
    if not (folder / RUN).is_file():
        hint = nearest(folder.name, (file.parent.name for file in folder.parent.glob(f"*/{RUN}")))
        yield f"warm_start.run: want a run folder, got {folder}, which has no {RUN}{hint}"
    elif not steps(folder / "checkpoints"):
        yield f"warm_start.run: want a run with a checkpoint, got {folder} without one; train it first"


def place_for_predictions(sound: Tree) -> Iterator[str]:
    """Lists of items need a place, which is asked for before the model is evaluated."""
    file: Path | None = sound.get("predictions")
    if file is None:
        return
    want = f"predictions: want a file that can be written, got {file}"
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if file.is_dir():
        yield f"{want}, which is a folder; name a file in it"
    elif not above.is_dir():
        yield f"{want}, but {above} is no folder; choose another place"
    elif not os.access(above, os.W_OK | os.X_OK):
        yield f"{want}, but {above} may not be written; choose another place"
    if not _NOT_PARQUET.isdisjoint(each.lower() for each in file.suffixes):
        named = file.with_name(file.name.partition(".")[0] + ".parquet")
        yield f"predictions: want a Parquet file, got {file}; name it {named}"


_NOT_PARQUET = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".npy", ".arrow", ".feather"})
_SHOWN = 5  # files that a message lists


@dataclass(frozen=True)
class Written:
    """A folder that a command writes of a run. name: of it in the run folder, by default. said: for a person. manifest:
    the file by which it is known, which names all others; anything else there is somebody's own, and never deleted.
    """

    name: str
    said: str
    manifest: str


EXPORT = Written("export", "an export", EXPORT_MANIFEST)
EXPLORE = Written("explore", "what explore writes", EXPLORE_MANIFEST)


def place_for(written: Written, sound: Tree, overwrite: bool) -> Iterator[str]:
    """What a command writes of a run needs a folder of its own."""
    run: Path | None = sound.get("run")
    out: Path | None = sound.get("out") or (run and run / written.name)
    if out is None:
        return
    try:
        wrong = _place_problem(written, out.resolve()) or there(written, out, overwrite)  # `.` has no name
    except OSError as error:
        wrong = f"out: want a folder that can be made, got {out} ({error.strerror}); choose another place"
    if wrong:
        yield wrong


def _place_problem(written: Written, out: Path) -> str | None:
    above = next((folder for folder in out.parents if folder.exists()), out)
    if out.is_mount():
        return f"out: want a folder beside which another can be made, got {out}, where a disk begins; name one in it"
    if out.exists() and not (out / written.manifest).is_file() and not (out.is_dir() and not any(out.iterdir())):
        want = f"want the folder of {written.said} or a new one"
        return f"out: {want}, got {out}, which exists and is none; choose another"
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return f"out: want a folder that can be made, got {out}, but {above} may not be written; choose another place"
    return None


def there(written: Written, out: Path, overwrite: bool) -> str | None:
    """Why a folder is not to be written, if it is not: what is not to be replaced, or more than that."""
    if not (out / written.manifest).is_file():
        return None
    if not overwrite:
        return f"out: want a new folder, got {out}, which holds {written.said}; overwrite=true replaces it"
    try:
        said = json.loads((out / written.manifest).read_text(encoding="utf-8"))
        ours = {written.manifest, LOCK, *map(str, said["files"])}
    except (ValueError, KeyError, TypeError):
        got = f"got {out / written.manifest}, which does not say what else of that folder is its own"
        return f"out: want the folder of {written.said} of this version, {got}; move the folder away, or choose another"
    others = _others(out, ours)
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        got = f"got {', '.join(others[:_SHOWN])}{more} in {out} too"
        return f"out: want nothing but {written.said} to overwrite, {got}; move that away"
    return None


def _others(out: Path, ours: set[str]) -> list[str]:
    """What there is in a folder besides these files and the folders that they are in, and what Python leaves beside
    code. A link is nobody's but the user's.
    """
    folders = {str(folder) for file in ours for folder in Path(file).parents}
    compiled = {f"{folder}/__pycache__" for folder in folders if f"{folder}/__init__.py" in ours}
    found = []
    for entry in out.rglob("*"):
        name, above = str(entry.relative_to(out)), str(entry.parent.relative_to(out))
        known = folders | compiled if entry.is_dir() else ours
        if entry.is_symlink() or (name not in known and not (above in compiled and entry.suffix == ".pyc")):
            found.append(name)
    return sorted(found)


def explored_table(sound: Tree) -> Iterator[str]:
    """What is looked at is a table that a feature reads, and ids are of one table."""
    if "features" not in sound:
        return
    tables = sorted({feature.table for feature in sound["features"].values()})
    table, ids = sound.get("table"), sound.get("ids")
    if table is not None and table not in tables:
        yield f"table: want a table that a feature reads, got {table!r}{nearest(table, tables)}"
    if sound.get("colour") is not None and "map" in sound and sound["map"] is None:
        yield f"colour: want null without a map, got {sound['colour']}; give map=pca"
    if ids and table is None and len(tables) > 1:
        yield f"table: want the table that ids are of, got null; there are: {', '.join(tables)}"


def explored_attributes(sound: Tree, dataset: Dataset) -> Iterator[str]:
    """What items are coloured by, and what is shown beside them, is an attribute of theirs whose values have names."""
    known = [name for name, column in dataset.manifest.item_attributes.items() if column.vocabulary is not None]
    for key in ("colour", "caption"):
        name: str | None = sound.get(key)
        if name is not None and name not in known:
            hint = nearest(name, known) if known else "; it has none"
            yield f"{key}: want an attribute of items in {dataset.folder} that has a vocabulary, got {name}{hint}"


def index_of_items(sound: Tree) -> Iterator[str]:
    """An index is of items that a model scores, and made by a library of its own."""
    if sound.get("index") is None:
        return
    if "model" in sound and not isinstance(sound["model"], NextItemConfig):
        model = type(sound["model"]).__name__
        yield f"index: want null, since {model} scores no items, got {sound['index']}; leave it out"
    elif importlib.util.find_spec("faiss") is None:
        yield "index: want faiss where it is not null, got none installed; pip install 'sharded-emb[faiss]'"
