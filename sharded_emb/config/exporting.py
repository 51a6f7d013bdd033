"""`export`: what serves a run without this package."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import nn

from sharded_emb import versions
from sharded_emb.config.build import resolve_tables
from sharded_emb.config.reading import item_attributes, make_reading
from sharded_emb.config.run import ExportConfig
from sharded_emb.config.run_rules import export_there
from sharded_emb.config.session import joined
from sharded_emb.config.vocabularies import vocabulary_by_table
from sharded_emb.data.dataset import Dataset
from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.errors import InputError
from sharded_emb.losses.base import NOTHING_SEEN
from sharded_emb.replacing import replacing_folder
from sharded_emb.serving.export import Exporting, write_export
from sharded_emb.serving.tables import SERVED_IDS
from sharded_emb.tables import Table, held
from sharded_emb.training import checkpoint_files as files
from sharded_emb.training.checkpoint_entries import DENSE, TABLES
from sharded_emb.training.checkpoint_rows import SavedRows, saved_tables, saved_tensors
from sharded_emb.training.checkpoint_vocabularies import other_vocabulary, vocabularies_of


def export(config: ExportConfig) -> Path:
    """Writes the folder `out`, or `export` in the run folder, of the best checkpoint of a run, else its last. Of many
    ranks the first does the work. Returns where it is.

    Raises InputError on every rank for a checkpoint, a dataset or a model that does not do.
    """
    with joined(config) as place:
        return from_first_rank(lambda: _export(config), place, slowly=True)


def _export(config: ExportConfig) -> Path:
    assert config.run is not None
    out = (config.out or config.run / "export").resolve()
    checkpoint = files.newest(config.run / "checkpoints")
    if checkpoint is None:
        raise InputError(f"run: want a run with a checkpoint, got {config.run} without one; train it first")
    run = _opened(config, checkpoint)
    with replacing_folder(out, key="out") as aside:
        if wrong := export_there(out, config.overwrite):  # since when this was asked first
            raise InputError(wrong)
        said = write_export(aside, run)
    for line in _told(said):
        print(line)
    print(f"exported {checkpoint.name} of {config.run} to {out}")
    return out


def _opened(config: ExportConfig, checkpoint: Path) -> Exporting:
    """The run, found to be whole and on the dataset that is given."""
    assert config.data is not None
    _require_whole(checkpoint, [".metadata", files.STATE])
    said, dataset = files.state_of(checkpoint, "run"), Dataset.open(config.data)
    tables = resolve_tables(config, dataset, None, device="cpu")
    unknown = [
        f"tables.{table.name}.ids: want {', '.join(str(each()) for each in SERVED_IDS)}, got {table.ids}, whose rows "
        "nobody knows without its code; it cannot be exported"
        for table in tables
        if type(table.ids) not in SERVED_IDS
    ]
    misfits = [other_vocabulary(each, said, checkpoint) for each in vocabularies_of(dataset, tables).values()]
    if problems := [*unknown, *filter(None, misfits), *_table_problems(tables, checkpoint)]:
        raise InputError(*problems)
    _require_whole(checkpoint, [f"{TABLES}.{table.name}.weight" for table in held(tables)])
    poolings, model = Poolings(tables, torch.device("cpu")), config.model.build(tables)
    _load(nn.ModuleDict({"poolings": poolings, "model": model}), checkpoint)
    reading = make_reading(config, tables, NOTHING_SEEN)
    return Exporting(
        checkpoint=checkpoint,
        dataset=dataset,
        reading=replace(reading, of_items=item_attributes(tables, dataset)),
        poolings=poolings,
        model=model,
        vocabularies=vocabulary_by_table(config.features, dataset),
        quantize=config.quantize,
        index=config.index,
        counts=config.evaluation.counts,
        facts=_facts(config, said),
    )


def _facts(config: ExportConfig, said: Mapping[str, Any]) -> dict[str, Any]:
    return {"experiment": config.name, "step": said["step"], "export": uuid4().hex, "versions": versions.found()}


def _require_whole(checkpoint: Path, names: list[str]) -> None:
    if wrong := [line for name in names for line in files.damage(checkpoint, entry=name)]:
        got = f"got {checkpoint} with a damaged {', '.join(dict.fromkeys(wrong))}"
        raise InputError(f"run: want a whole checkpoint, {got}; remove it to take the one before")


def _table_problems(tables: list[Table], checkpoint: Path) -> list[str]:
    """Tables have the rows and the dim that were trained."""
    found, known = [], saved_tables(checkpoint)
    for table in held(tables):
        if table.name not in known:
            found.append(f"tables.{table.name}: want a table of {checkpoint}, got one that it has not")
            continue
        saved = SavedRows(checkpoint, table.name)
        if (saved.rows, saved.dim) != (table.rows, table.dim):
            shapes = f"want {saved.rows} x {saved.dim}, as {checkpoint} has it, got {table.rows} x {table.dim}"
            found.append(f"tables.{table.name}: {shapes}; give the dataset and the keys of the run")
    return found


def _load(modules: nn.ModuleDict, checkpoint: Path) -> None:
    """Gives modules the dense weights of a checkpoint."""
    wanted = modules.state_dict()
    _require_whole(checkpoint, [f"{DENSE}.{name}" for name in wanted])
    saved = saved_tensors(checkpoint, DENSE)
    problems = [
        f"model: want {name} of {list(value.shape)}, as this model has it, got "
        f"{list(saved[name].shape) if name in saved else 'none'} in {checkpoint}; give the keys of the run"
        for name, value in wanted.items()
        if name not in saved or saved[name].shape != value.shape
    ]
    if problems:
        raise InputError(*problems)
    modules.load_state_dict({name: saved[name] for name in wanted})


def _told(said: Mapping[str, Any]) -> list[str]:
    """A line a table, and one of the items."""
    lines = []
    for name, each in said["tables"].items():
        parts = [each, *each["parts"].values()]
        dtype = "/".join(dict.fromkeys(part["dtype"] for part in parts if part["dtype"]))
        largest = max(part.get("largest_difference", 0.0) for part in parts)
        off = f", numbers at most {largest:.2g} off" if largest else ""
        lines.append(f"table {name}: {each['rows']:,} x {each['dim']} {dtype}{off}, {each['vectors']:,} vectors by id")
    if (items := said.get("items")) is not None:
        index = "" if items["index"] is None else f", index {items['index']}"
        lines.append(f"items as they are compared: {items['rows']:,} x {items['dim']} {items['dtype']}{index}")
    return lines
