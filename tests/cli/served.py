"""What an export says of the rows of a split, beside what `evaluate` says of them."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml

from sharded_emb.data.dataset import Dataset

TOP_K = 20


def load(folder: Path) -> Any:
    """The export in a folder, read by the code that lies in it."""
    name = f"serving_{abs(hash(folder))}"
    spec = importlib.util.spec_from_file_location(
        name, folder / "serving" / "__init__.py", submodule_search_locations=[str(folder / "serving")]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Exported(folder)


def columns(run: Path, exported: Any, rows: int, split: str = "test") -> dict[str, list[Any]]:
    """Of the first rows of a split, by raw ids, without the events that a next-item model is to find."""
    dataset = Dataset.open(yaml.safe_load((run / "run.yaml").read_text())["data"])
    found, table = {}, dataset.split(split)
    for name, vocabulary in exported.columns.items():
        values = table[name].to_pylist()[:rows]
        if vocabulary is not None:
            raw = dataset.raw_ids(vocabulary).to_pylist()
            # nobody's id, where the data have the row of what is unknown
            raw[:2] = ["\0", "\0"] if isinstance(raw[2], str) else [-(2**62)] * 2
            values = [[raw[i] for i in each] if isinstance(each, list) else raw[each] for each in values]
        if exported.said["task"] == "next_item":
            values = [each[:-1] for each in values]
        found[name] = values
    return found


def listed(file: Path, rows: int) -> list[list[tuple[Any, float]]]:
    """The lists of the first users in what `evaluate predictions=` has written."""
    found: dict[Any, list[tuple[Any, float]]] = {}
    for user, item, score in zip(*(pq.read_table(file)[n].to_pylist() for n in ("user", "item", "score")), strict=True):
        found.setdefault(user, []).append((item, score))
    return [*found.values()][:rows]


def require_same_lists(mine: list[Any], theirs: list[Any], tolerance: float) -> None:
    """The same scores in the same order, and the same items but where scores are as good as equal."""
    assert len(mine) == len(theirs) > 0
    for one, other in zip(mine, theirs, strict=True):
        assert len(one) == len(other) > 0
        np.testing.assert_allclose([s for _, s in one], [s for _, s in other], rtol=tolerance, atol=tolerance)
        by_item = dict(other)
        assert all(abs(by_item.get(item, other[-1][1]) - score) <= 4 * tolerance * abs(score) for item, score in one)


def probabilities(file: Path, rows: int) -> np.ndarray:
    """Of the first rows in what `evaluate predictions=` has written, a column a task."""
    table = pq.read_table(file)
    return np.stack([table[name].to_numpy() for name in table.column_names if name.startswith("score")], 1)[:rows]


def said_by(exported: Any, asked: dict[str, list[Any]], at_once: int) -> np.ndarray:
    """The probabilities of rows, some at a time."""
    count = len(next(iter(asked.values())))
    parts = [{n: v[at : at + at_once] for n, v in asked.items()} for at in range(0, count, at_once)]
    return torch.cat([exported.probabilities(part) for part in parts]).reshape(count, -1).numpy()


def manifest(folder: Path) -> dict[str, Any]:
    """export.json."""
    found: dict[str, Any] = json.loads((folder / "export.json").read_text())
    return found
