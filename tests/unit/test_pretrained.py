"""Weights from files: by row or by raw id, whatever is wrong with them said with its key."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_save_file

from sharded_emb.errors import InputError
from sharded_emb.pretrained import PretrainedWeights, Wanted, WeightsFile

ROWS, DIM = 9, 4
VECTORS = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
IDS = pa.array([None, None, 11, 12, 13, 14, 15, 16, 17], pa.int64())
WANTED = Wanted("item", ROWS, DIM, IDS)


def opened(path: Path, wanted: Wanted = WANTED, **keys: Any) -> WeightsFile:
    return WeightsFile(PretrainedWeights(path=path, **keys), wanted)


def read(file: WeightsFile, first: int = 0, end: int = ROWS) -> dict[int, list[float]]:
    found = {}
    for rows_N, values_ND in file.chunks(first, end):
        found |= {int(row): values.tolist() for row, values in zip(rows_N, values_ND, strict=True)}
    return found


def parquet(path: Path, ids: list[Any], vectors: Any, kind: pa.DataType | None = None) -> Path:
    lists = pa.array([list(map(float, each)) for each in vectors], pa.list_(pa.float64()))
    pq.write_table(pa.table({"id": pa.array(ids, kind), "vector": lists}), path, row_group_size=2)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_row_i_of_a_matrix_is_row_i_of_the_table(tmp_path: Path, kind: str, dtype: Any) -> None:
    path, values = tmp_path / f"w.{kind}", VECTORS.astype(dtype)
    np.save(path, values) if kind == "npy" else save_file({"w": values}, path)
    expected = values.astype(np.float32)
    assert read(opened(path)) == {row: expected[row].tolist() for row in range(ROWS)}
    assert read(opened(path), 3, 5) == {row: expected[row].tolist() for row in (3, 4)}
    assert opened(path).filled.from_file == ROWS


def test_bf16_is_read_from_safetensors(tmp_path: Path) -> None:
    values = torch.from_numpy(VECTORS).bfloat16()
    torch_save_file({"w": values}, tmp_path / "w.safetensors")
    assert read(opened(tmp_path / "w.safetensors")) == dict(enumerate(values.float().tolist()))


@pytest.mark.parametrize(
    ("kind", "values", "got"),
    [
        ("npy", np.full((ROWS, DIM), "a"), "<U1"),
        ("npy", VECTORS + 1j, "complex64"),
        ("npy", VECTORS > 0, "bool"),
        ("safetensors", torch.from_numpy(VECTORS + 1j), "C64"),
        ("safetensors", torch.from_numpy(VECTORS).to(torch.float8_e4m3fn), "F8_E4M3"),
        ("parquet", [["a"] * DIM] * 3, "list<element: string>"),
        ("parquet", [0.5] * 3, "double"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path: Path, kind: str, values: Any, got: str) -> None:
    path = tmp_path / f"w.{kind}"
    if kind == "npy":
        np.save(path, values)
    elif kind == "safetensors":
        torch_save_file({"w": values}, path)
    else:
        pq.write_table(pa.table({"id": [11, 12, 13], "vector": values}), path)
    want = "path: want floats of 16, 32 or 64 bits, or whole numbers, got "
    with pytest.raises(InputError, match=re.escape(f"tables.item.weights.{want}{got} in w.{kind}; convert them")):
        opened(path)


def test_vectors_by_id_go_to_the_rows_of_their_ids(tmp_path: Path) -> None:
    file = opened(parquet(tmp_path / "w.parquet", [17, 99, 12, 14], VECTORS[:4]))
    expected = {8: VECTORS[0].tolist(), 3: VECTORS[2].tolist(), 5: VECTORS[3].tolist()}
    assert read(file) == expected
    assert read(file, 4, 9) == {row: expected[row] for row in (5, 8)}
    filled = file.filled
    assert (filled.from_file, filled.missing, filled.unused) == (3, 4, 1)
    assert filled.first_missing == [11, 13, 15, 16]


def test_ids_may_be_texts(tmp_path: Path) -> None:
    words = Wanted("word", 4, DIM, pa.array([None, None, "ham", "spam"]))
    file = opened(parquet(tmp_path / "w.parquet", ["spam", "eggs"], VECTORS[:2]), words)
    assert read(file, 0, 4) == {3: VECTORS[0].tolist()}


def bad(name: str, folder: Path) -> tuple[Path, dict[str, Any], Wanted]:
    """A file that is wrong in one way, the keys to open it with, and the table."""
    npy, tensors, table = folder / "w.npy", folder / "w.safetensors", folder / "w.parquet"
    np.save(npy, VECTORS[:, :3] if name == "dim" else VECTORS[:5] if name == "rows" else VECTORS)
    save_file({"a": VECTORS, "b": VECTORS}, tensors)
    ids = {"twice": [11, 11, 12], "type": ["a", "b", "c"]}.get(name, [11, 12, 99])
    parquet(table, ids, VECTORS[:3])
    if name in ("empty", "garbage"):
        npy.write_bytes(b"" if name == "empty" else b"not a matrix at all")
    path = {"absent": folder / "x.npy", "ending": folder / "w.bin", "tensor": tensors, "key": tensors}.get(name, npy)
    (folder / "w.bin").touch()
    if name in ("twice", "type", "column", "missing", "no vocabulary"):
        path = table
    keys: dict[str, dict[str, Any]] = {
        "tensor": {"key": "c"},
        "column": {"vector_column": "vectors"},
        "missing": {"missing": "error"},
    }
    return path, keys.get(name, {}), Wanted("item", ROWS, DIM, None if name == "no vocabulary" else IDS)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("absent", r"path: want a file, got .*x\.npy, which does not exist; check the path"),
        ("ending", r"path: want a file that ends with \.npy, \.safetensors, \.parquet, got w\.bin"),
        ("dim", r"path: want vectors of dim 4, as the table has, got 3; set tables\.item\.dim=3"),
        ("rows", r"path: want 9 rows, as the table has, got 5; or give \.parquet by raw id"),
        ("empty", r"path: want a whole npy file, got "),
        ("garbage", r"path: want a whole npy file, got "),
        ("key", r"key: want one of a, b, got null; name the tensor"),
        ("tensor", r"key: want a tensor of w\.safetensors, got 'c'; there are: a, b"),
        ("twice", r"id_column: want each id once, got some twice; mend the file"),
        ("type", r"id_column: want ids of type int64, as the vocabulary has, got string"),
        ("column", r"vector_column: want a column of w\.parquet, got 'vectors'; did you mean vector\?"),
        ("missing", r"missing: want vectors of all 7 ids, got none for 5 of them, such as 13, 14, 15, 16, 17"),
        ("no vocabulary", r"path: want \.npy or \.safetensors for a table without a vocabulary, got \.parquet"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(tmp_path: Path, name: str, problem: str) -> None:
    path, keys, wanted = bad(name, tmp_path)
    with pytest.raises(InputError, match=rf"^tables\.item\.weights\.{problem}"):
        opened(path, wanted, **keys)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    values = VECTORS.copy()
    values[5, 2] = np.nan
    np.save(tmp_path / "w.npy", values)
    with pytest.raises(InputError, match=r"want finite numbers, got others for row 5"):
        read(opened(tmp_path / "w.npy"))


def test_what_is_too_large_for_fp32_is_refused(tmp_path: Path) -> None:
    values = VECTORS.astype(np.float64)
    values[5, 2] = 1e300
    np.save(tmp_path / "w.npy", values)
    with pytest.raises(InputError, match=r"want finite numbers, got others for row 5"):
        read(opened(tmp_path / "w.npy"))


def test_a_vector_of_another_length_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "w.parquet", [11, 12, 13], [VECTORS[0], VECTORS[1][:3], VECTORS[2]])
    with pytest.raises(InputError, match=r"path: want vectors of dim 4, as the table has, got another length in lines"):
        read(opened(path))
