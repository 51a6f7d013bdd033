"""A checkpoint that does not belong to the data or the model is refused with its key, not loaded as far as it goes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharded_emb.config.build import Built
from sharded_emb.data.dataset import Dataset, read_manifest, write_manifest
from sharded_emb.data.vocabulary import describe
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.checkpoint_vocabularies import Vocabulary
from tests.distributed import next_item_cases as cases
from tests.distributed.next_item_config import config
from tests.distributed.next_item_data import ITEMS, write_dataset
from tests.distributed.ranks import on_one_rank


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(path)
    return path


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    on_one_rank(lambda place: cases.save_run(place, folder, path, "row_wise"))
    return path


def load(folder: Path, run: Path, vocabularies: dict[str, Vocabulary] | None = None, **overrides: Any) -> None:
    def task(place: Place) -> None:
        built = Built(config(folder, **overrides), place)
        checkpoints = Checkpoints(run, place, vocabularies or built.vocabularies())
        checkpoints.load(built.sharded, None, checkpoints.newest())

    on_one_rank(task)


def test_the_checkpoint_of_another_vocabulary(folder: Path, run: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other")
    file = tmp_path / "other" / "vocabulary" / "item.parquet"
    item = pq.read_table(file)
    item = item.set_column(1, "raw", pa.array([None, None, *range(ITEMS - 2)], pa.int64()))
    pq.write_table(item, file)
    manifest, said = read_manifest(tmp_path / "other"), describe(item)
    vocabularies = {**manifest.vocabularies, "item": said}
    write_manifest(tmp_path / "other", manifest.model_copy(update={"vocabularies": vocabularies}))
    other = Vocabulary("item", "item", ITEMS, said.sha256, Dataset.open(tmp_path / "other"))
    with pytest.raises(
        InputError, match=r"^data: want the vocabulary of item \(of items\) that .*step-5 was trained on, or one that "
    ):
        load(folder, run, vocabularies={"item": other})


def test_another_dim(folder: Path, run: Path) -> None:
    with pytest.raises(InputError, match=r"^tables\.item\.dim: want 8, as .*step-5 has it, got 16$"):
        load(folder, run, tables={"item": {"dim": 16}})


def test_another_length_of_history(folder: Path, run: Path) -> None:
    with pytest.raises(InputError, match=r"^run: want dense\.model\.places_LD of shape \(9, 8\), got \(6, 8\) in "):
        load(folder, run, features={"history": {"table": "item", "column": "items", "max_length": 9}})


def test_a_damaged_byte_is_named_with_its_file_and_table(folder: Path, run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged, symlinks=True)
    file = damaged / "checkpoints" / "step-5" / "__0_0.distcp"
    pieces = json.loads(file.with_name("manifest.json").read_text())["pieces"]
    (at,) = [offset + size // 2 for _, name, offset, size, _ in pieces if name == "tables.item.weight"]
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    said = (
        r"^run: want a whole checkpoint, got .*step-5 with a damaged __0_0\.distcp \(tables\.item\.weight\); no earlier"
    )
    with pytest.raises(InputError, match=said):
        load(folder, damaged)


def test_a_sharded_table_loads_as_a_data_parallel_one(folder: Path, run: Path) -> None:
    load(folder, run, sharding="data_parallel")


def test_the_same_model_loads(folder: Path, run: Path) -> None:
    load(folder, run)


def test_a_kernel_that_moves_all_rows_does_not_go_on_from_one_that_moves_those_that_it_reads(
    folder: Path, run: Path, tmp_path: Path
) -> None:
    dense = {"type": "row_wise", "kernel": "dense"}

    def resume(place: Place, run: Path, sharding: str | dict[str, Any]) -> None:
        built = Built(config(folder, sharding), place)
        checkpoints = Checkpoints(run, place, built.vocabularies())
        checkpoints.resume(built.sharded, built.dense, checkpoints.newest())

    want = (
        r"^tables\.item\.update: want a step to move the rows that it reads, as in .*step-5, got all rows; leave "
        r"update, and the kernel of sharding, as they were$"
    )
    with pytest.raises(InputError, match=want):
        on_one_rank(lambda place: resume(place, run, dense))
    load(folder, run, sharding=dense)  # to evaluate moves nothing
    state = run / "checkpoints" / "step-5" / "state.json"
    assert json.loads(state.read_text())["all_rows"] == {"item": False}
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    on_one_rank(lambda place: resume(place, tmp_path / "run", "table_wise"))
