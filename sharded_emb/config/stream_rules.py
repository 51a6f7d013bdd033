"""Rules about what a run reads besides its dataset: a stream, a file of negatives."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from sharded_emb.config.reading import hard_config
from sharded_emb.config.vocabularies import vocabulary_by_table
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.stream import StreamConfig
from sharded_emb.errors import InputError
from sharded_emb.losses.hard import check
from sharded_emb.models.base import NextItemConfig

Tree = Mapping[str, Any]


def stream_problems(sound: Tree) -> Iterator[str]:
    """A stream has to be a folder by now, if only an empty one: a mistyped name would be waited for."""
    stream: StreamConfig | None = sound.get("stream")
    if stream is None or stream.folder is None:
        return
    folder = stream.folder.expanduser()
    if not folder.is_dir():
        got = "is a file" if folder.exists() else "does not exist"
        yield f"stream.folder: want a folder of parts, got {stream.folder}, which {got}; make it, or check the path"
    if sound.get("verify"):
        yield "verify: want false with stream.folder, since what is compared is trained on the train split, got true"


def adds(sound: Tree) -> bool:
    """Whether `prepare` is to add to a stream."""
    stream: StreamConfig | None = sound.get("stream")
    return stream is not None and stream.folder is not None


def addition_problems(sound: Tree) -> Iterator[str]:
    """What is added to a stream has the rows of a dataset, which stays as it is."""
    data: Path | None = sound.get("data")
    if data is None:
        yield "data: missing; want the dataset folder whose vocabularies the stream is to have, as data=FOLDER"
    else:
        try:
            Dataset.open(data)
        except InputError as error:
            yield from error.problems
    for key, wanted in (("overwrite", False), ("extend", None)):
        if sound.get(key, wanted) != wanted:
            yield f"{key}: want none with stream.folder, which leaves the dataset as it is, got {sound[key]}"


def hard_problems(sound: Tree, dataset: Dataset) -> Iterator[str]:
    """Hard negatives come by raw ids of the vocabulary of what is scored."""
    model, loss, features = sound.get("model"), sound.get("loss"), sound.get("features", {})
    hard = None if loss is None else hard_config(loss)
    if hard is None or not isinstance(model, NextItemConfig) or model.history not in features:
        return
    table = features[model.history].table
    name = vocabulary_by_table(features, dataset).get(table)
    if name is None:
        yield f"loss.hard: want a table with a vocabulary, whose raw ids the file has, got {table}; leave hard out"
    else:
        raw = dataset.manifest.vocabularies[name].raw
        yield from check(hard, pa.int64() if raw == "int64" else pa.string())
