"""Writes the folder that serves a run.

export.json     what is in it: tables, vocabularies, features, how the model reads them, which run it is of
embeddings/     TABLE.parquet: raw id, row, vector
tables/         numbers of tables, to be mapped; see `serving.tables`
vocabulary/     raw ids by row, and rows by raw id; see `serving.vocabularies`
model.pt2       poolings and model, as `torch.export.load` reads it
items/          of a next-item model: `compared`, the items as queries are compared with them, written as a table;
                `counts`, see `serving.items`; `index.faiss`, if it was asked for; what describes items:
                FEATURE.values, and where those of each item begin, FEATURE.offsets, int64
serving/        Python that reads all this, and needs torch alone
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sharded_emb.data.columns import RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.task import Reading
from sharded_emb.data.unknown_ids import as_rows, out_of_range
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.metrics.baselines import DECAY
from sharded_emb.metrics.counts import CountsConfig
from sharded_emb.models.base import NextItemModel
from sharded_emb.replacing import LOCK
from sharded_emb.serving import MANIFEST, standalone
from sharded_emb.serving.features import description, prepared, reads_of, texts_of, vocabulary_of
from sharded_emb.serving.graph import Model, trace
from sharded_emb.serving.items import Items, check_index, described_by, write_counts, write_index
from sharded_emb.serving.standalone.exported import FORMAT
from sharded_emb.serving.standalone.table import Table as Served
from sharded_emb.serving.tables import Named, Quantized, write_numbers, write_rows, write_table, write_vectors
from sharded_emb.serving.vocabularies import write_vocabulary
from sharded_emb.tables import Table


@dataclass(frozen=True)
class Exporting:
    """A run that is to be exported. model, poolings: with the dense weights of the checkpoint. vocabularies: by table,
    where its ids are rows of one. index: of items, as faiss describes it. counts: what is added to scores. facts: of
    the run, as export.json says them. split_alone: whether the train split is all that it was ever trained on.
    """

    checkpoint: Path
    dataset: Dataset
    reading: Reading
    poolings: Poolings
    model: nn.Module
    vocabularies: Mapping[str, str]
    quantize: Quantized | None
    index: str | None
    counts: CountsConfig | None
    facts: Mapping[str, Any]
    split_alone: bool


def write_export(folder: Path, run: Exporting) -> dict[str, Any]:
    """Writes all of it into an empty folder, and returns what export.json says.

    Raises InputError for a model that cannot be exported, and for files of the dataset or the checkpoint that are not
    whole.
    """
    reading, dataset = run.reading, run.dataset
    reads = reads_of(reading, dataset)
    model = Model(run.poolings, run.model, reads, len(reading.numbers)).eval()
    if run.index is not None:
        check_index(_compared_dim(run), run.index)
    traced = trace(model)
    traced.write(folder / "model.pt2")
    # before tables, which leave a heap of the size of some of their rows to the process
    names = {vocabulary_of(read, dataset) for read in reads} | {*run.vocabularies.values()}
    vocabularies = {name: write_vocabulary(folder, dataset, name) for name in sorted(filter(None, names))}
    if not run.split_alone:  # who knows what else it has read
        vocabularies = {name: {**each, "unknown": None} for name, each in vocabularies.items()}
    tables = {table.name: _write_table(folder, table, run) for table in reading.tables}
    served = {name: Served(folder / "tables" / name, each) for name, each in tables.items()}
    described = described_by(reading, served)
    features = [description(read, traced, dataset, described) for read in reads]
    said = {
        "format": FORMAT,
        **run.facts,
        "task": reading.task,
        "labels": [label.name or label.column for label in reading.labels],
        "history": reading.sequence,
        "features": features,
        "numbers": [*reading.numbers],
        "prepared": prepared(sorted(reading.columns()), dataset),
        "texts": texts_of(reading, dataset),
        "inputs": model.names(),
        "vocabularies": vocabularies,
        "tables": tables,
    }
    if reading.task == "next_item":
        said["items"] = _write_items(folder, served, described, run)
        said["counts"] = _write_counts(folder, said["items"]["rows"], run)
    for name, each in tables.items():
        each["vectors"] = _write_vectors(folder, served[name], run)
    shutil.copytree(Path(standalone.__file__).parent, folder / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    said["files"] = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if _is_ours(file))
    (folder / MANIFEST).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    return said


def _is_ours(file: Path) -> bool:
    """Whether it is there to stay: the lock of whoever writes the folder is not."""
    return file.is_file() and file.name != LOCK


def _write_table(folder: Path, table: Table, run: Exporting) -> dict[str, Any]:
    return {**write_table(folder, table, run.checkpoint, run.quantize), "vocabulary": run.vocabularies.get(table.name)}


def _write_vectors(folder: Path, table: Served, run: Exporting) -> int:
    vocabulary, named = run.vocabularies.get(table.name), Named(None, None)
    if vocabulary is not None:
        kind = run.dataset.manifest.vocabularies[vocabulary].raw
        named = Named(run.dataset.vocabulary_file(vocabulary), kind)
    return write_vectors(folder / "embeddings" / f"{table.name}.parquet", table, named)


def _item_table(run: Exporting) -> Table:
    names = {feature.table for feature in run.reading.features if feature.name == run.reading.sequence}
    (table,) = (each for each in run.reading.tables if each.name in names)
    return table


def _compared_dim(run: Exporting) -> int:
    with torch.no_grad():
        return cast(NextItemModel, run.model).items(torch.zeros(1, _item_table(run).dim)).shape[1]


def _write_items(
    folder: Path, served: Mapping[str, Served], described: Mapping[str, RaggedColumn], run: Exporting
) -> dict[str, Any]:
    table = _item_table(run)
    items = Items(cast(NextItemModel, run.model), run.poolings, run.reading, served, table.name, described)
    (folder / "items").mkdir(exist_ok=True)
    for name, column in described.items():
        write_numbers(folder / "items" / f"{name}.values", column.values)
        write_numbers(folder / "items" / f"{name}.offsets", column.offsets)
    dtype = run.quantize or "fp32"
    write_rows(folder / "items" / "compared", items.compared(), dtype)
    said = {
        "rows": table.rows,
        "dim": _compared_dim(run),
        "output": "fp32",
        "padding_row": None,
        "ids": "rows",
        "parts": {},
        "dtype": dtype,
        "vocabulary": run.vocabularies[table.name],
        "index": run.index,
    }
    if run.index is not None:  # of what is served, in its dtype
        chunks = (items_ND for _, items_ND in Served(folder / "items" / "compared", said).chunks())
        write_index(folder / "items" / "index.faiss", chunks, run.index)
    return said


def _write_counts(folder: Path, rows: int, run: Exporting) -> dict[str, Any] | None:
    """What is added to the scores of the model, if anything is."""
    if run.counts is None:
        return None
    feature = next(each for each in run.reading.features if each.name == run.reading.sequence)
    read = RaggedColumn.from_arrow(run.dataset.split("train")[feature.column])
    ids = read.all_values()
    known = as_rows(ids, out_of_range(ids, rows), rows, feature)
    pairs = write_counts(folder / "items" / "counts", RaggedColumn(known, read.offsets - read.offsets[0]), rows)
    return {**run.counts.model_dump(), "decay": DECAY, "pairs": pairs}
