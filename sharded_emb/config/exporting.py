"""`export`: what serves a run without this package."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import nn

from sharded_emb import versions
from sharded_emb.config.reading import item_attributes, make_reading
from sharded_emb.config.run import ExportConfig
from sharded_emb.config.run_rules import EXPORT, there
from sharded_emb.config.same_numbers import numbers_of, other_numbers
from sharded_emb.config.saved import SavedRun, saved_run
from sharded_emb.config.session import joined
from sharded_emb.config.vocabularies import vocabulary_by_table
from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.errors import InputError
from sharded_emb.losses.base import NOTHING_SEEN
from sharded_emb.replacing import replacing_folder
from sharded_emb.serving.export import Exporting, write_export
from sharded_emb.serving.tables import SERVED_IDS
from sharded_emb.training.checkpoint_entries import DENSE
from sharded_emb.training.checkpoint_rows import saved_tensors


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
    run = _opened(config)
    with replacing_folder(out, key="out") as aside:
        if wrong := there(EXPORT, out, config.overwrite):  # since when this was asked first
            raise InputError(wrong)
        said = write_export(aside, run)
    for line in _told(said):
        print(line)
    print(f"exported {run.checkpoint.name} of {config.run} to {out}")
    return out


def _opened(config: ExportConfig) -> Exporting:
    """The run, found to be whole and on the dataset that is given."""
    saved = saved_run(config)
    unknown = [
        f"tables.{table.name}.ids: want {', '.join(str(each()) for each in SERVED_IDS)}, got {table.ids}, whose rows "
        "nobody knows without its code; it cannot be exported"
        for table in saved.tables
        if type(table.ids) not in SERVED_IDS
    ]
    if unknown:
        raise InputError(*unknown)
    tables, dataset = saved.tables, saved.dataset
    poolings, model = Poolings(tables, torch.device("cpu")), config.model.build(tables)
    _load(nn.ModuleDict({"poolings": poolings, "model": model}), saved)
    reading = make_reading(config, tables, NOTHING_SEEN)
    if problems := [*other_numbers(saved.state, numbers_of(reading, dataset), saved.checkpoint)]:
        raise InputError(*problems)
    return Exporting(
        checkpoint=saved.checkpoint,
        dataset=dataset,
        reading=replace(reading, of_items=item_attributes(tables, dataset)),
        poolings=poolings,
        model=model,
        vocabularies=vocabulary_by_table(config.features, dataset),
        quantize=config.quantize,
        index=config.index,
        counts=config.evaluation.counts,
        facts=_facts(config, saved.state),
        split_alone=config.stream.folder is None and not saved.state["run"]["warm_start"],
    )


def _facts(config: ExportConfig, said: Mapping[str, Any]) -> dict[str, Any]:
    return {"experiment": config.name, "step": said["step"], "export": uuid4().hex, "versions": versions.found()}


def _load(modules: nn.ModuleDict, run: SavedRun) -> None:
    """Gives modules the dense weights of a checkpoint."""
    wanted = modules.state_dict()
    run.require_whole(f"{DENSE}.{name}" for name in wanted)
    saved = saved_tensors(run.checkpoint, DENSE)
    problems = [
        f"model: want {name} of {list(value.shape)}, as this model has it, got "
        f"{list(saved[name].shape) if name in saved else 'none'} in {run.checkpoint}; give the keys of the run"
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
