"""What serves a run without this package, beside what the package does."""

import ast
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharded_emb.data.dataset import Dataset, VocabularyInfo
from sharded_emb.data.vocabulary_hash import hash_of
from sharded_emb.errors import InputError
from sharded_emb.ids.hash import hashed
from sharded_emb.ids.managed_collision import ManagedCollision
from sharded_emb.pooling.none import NoPooling
from sharded_emb.pooling.time_decay import TimeDecay
from sharded_emb.serving import standalone
from sharded_emb.serving.standalone import inputs, table, vocabulary
from sharded_emb.serving.tables import quantized, write_rows
from sharded_emb.serving.vocabularies import write_vocabulary

HOME = Path(standalone.__file__).parent
INT64 = st.integers(-(2**63), 2**63 - 1)


def test_it_imports_nothing_but_torch_and_python_itself() -> None:
    for file in HOME.glob("*.py"):
        tree = ast.parse(file.read_text())
        at_once = {node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            else:
                continue
            for name in names:
                known = name.partition(".")[0] in {*sys.stdlib_module_names, "torch"}
                assert known or (name == "faiss" and node not in at_once), f"{file.name}: {name}"


@given(ids=st.lists(INT64, min_size=1), rows=st.integers(3, 2**40))
@settings(deadline=None)
def test_hashed_ids_read_the_same_rows(ids: list[int], rows: int) -> None:
    wanted = hashed(np.array(ids, dtype=np.int64), rows)
    assert table.hashed(torch.tensor(ids), rows).tolist() == wanted.tolist()


@given(
    times=st.lists(st.lists(st.integers(0, 2**33), max_size=6), min_size=1, max_size=4),
    normalize=st.booleans(),
    given_now=st.booleans(),
)
@settings(deadline=None)
def test_weights_by_age_and_gaps_between_events_are_the_same(
    times: list[list[int]], normalize: bool, given_now: bool
) -> None:
    lengths = np.array([len(row) for row in times], dtype=np.int64)
    read = {"times": np.array([each for row in times for each in row], dtype=np.int64)}
    nows = [max(row, default=0) + 5 for row in times]
    if given_now:
        read["now"] = np.array(nows)
    pooling = TimeDecay(half_life_seconds=1e5, normalize=normalize)
    said = {"half_life_seconds": 1e5, "normalize": normalize}
    mine = [
        inputs._decayed(row, now if given_now else max(row, default=0), said)
        for row, now in zip(times, nows, strict=True)
    ]
    flat = np.array([each for row in mine for each in row], dtype=np.float32)
    np.testing.assert_array_equal(flat, pooling.numbers(read, lengths))
    gaps = np.array([each for row in times for each in inputs._gaps(row)], dtype=np.float32)
    np.testing.assert_array_equal(gaps, NoPooling(times="times").numbers({"times": read["times"]}, lengths))


class OneVocabulary:
    """A dataset of a vocabulary, as far as it is asked for one."""

    def __init__(self, folder: Path, raw: list[int] | list[str], sha256: str | None = None) -> None:
        kind = pa.string() if raw and isinstance(raw[0], str) else pa.int64()
        self.file = folder / "given.parquet"
        ids = pa.array([None, None, *raw], kind)
        rows = pa.array(range(len(ids)), pa.int64())
        # some rows a group, so that what is read in batches is
        pa.parquet.write_table(pa.table({"row": rows, "raw": ids}), self.file, row_group_size=3)
        found = hash_of(ids[2:])
        name = "string" if kind == pa.string() else "int64"
        self.manifest = type(
            "M", (), {"vocabularies": {"x": VocabularyInfo(rows=len(ids), raw=name, sha256=sha256 or found)}}
        )

    def vocabulary_file(self, _: str) -> Path:
        return self.file


def written(folder: Path, dataset: OneVocabulary) -> vocabulary.Vocabulary:
    found: Dataset = dataset  # type: ignore[assignment]
    return vocabulary.Vocabulary(folder, "x", write_vocabulary(folder, found, "x"))


@pytest.mark.parametrize(
    "raw",
    [
        ["b", "", "ü", "a", "a\0", "😀", "aa", "Z", "e\u0301", "\u00e9", *(f"id {n}" for n in range(40))],
        [5, -(2**63), 2**63 - 1, 0, -1, *range(100, 140)],
        [],
    ],
    ids=["texts", "numbers", "none"],
)
def test_raw_ids_have_their_rows_and_rows_their_ids(raw: list[int] | list[str], tmp_path: Path) -> None:
    found = written(tmp_path, OneVocabulary(tmp_path, raw))
    assert found.rows(raw).tolist() == [*range(2, 2 + len(raw))]
    assert [found.raw(row) for row in range(2 + len(raw))] == [None, None, *raw]
    texts, numbers = ["c", "zz", "\uffff", "\ud800", None], [7, -7, 2**40, 2**64, None]
    strangers = texts if raw and isinstance(raw[0], str) else numbers
    assert found.rows(strangers).tolist() == [1] * 5


def test_a_vocabulary_that_is_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^data: want the vocabulary that manifest.yaml describes in .*, got another"):
        written(tmp_path, OneVocabulary(tmp_path, ["a", "b"], sha256="0" * 64))


def test_whole_numbers_of_other_libraries_are_raw_ids(tmp_path: Path) -> None:
    found = written(tmp_path, OneVocabulary(tmp_path, [5, 9]))
    assert found.rows([np.int32(9), torch.tensor(5), 5]).tolist() == [3, 2, 2]
    assert found.rows([None, 2**63, 5, -(2**70)]).tolist() == [1, 1, 2, 1]
    for wrong in ("5", 5.0, True):
        with pytest.raises(TypeError, match=r"^vocabulary x: want int as raw id, got"):
            found.rows([wrong])


def test_numbers_of_8_bits_are_within_half_a_step_and_rows_of_one_number_exact(tmp_path: Path) -> None:
    rows_ND = torch.randn(500, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 500)[:, None]
    rows_ND[0], rows_ND[1], rows_ND[2] = 0, -3.25, 1e-42
    numbers_ND, scales_N2 = quantized(rows_ND)
    found_ND = numbers_ND.float() * scales_N2[:, :1] + scales_N2[:, 1:]
    step_N = (rows_ND.amax(1) - rows_ND.amin(1)) / 255
    assert ((found_ND - rows_ND).abs().amax(1) <= 0.502 * step_N + 1e-44).all()
    assert torch.equal(found_ND[:3], rows_ND[:3])
    difference = write_rows(tmp_path / "x", iter(rows_ND.split(130)), "int8")
    assert difference == float((found_ND - rows_ND).abs().max())
    said = {"rows": 500, "dim": 24, "dtype": "int8", "output": "fp32", "padding_row": None, "ids": "rows", "parts": {}}
    served = table.Table(tmp_path / "x", said)
    assert torch.equal(served.vectors(torch.tensor([499, 3, 3])), found_ND[[499, 3, 3]])
    assert torch.equal(torch.cat([chunk for _, chunk in served.chunks()]), found_ND)


def test_a_table_of_more_than_2_31_numbers_is_read_where_it_lies(tmp_path: Path) -> None:
    rows = 2**28 + 3
    with (tmp_path / "x.bin").open("wb") as file:  # holes take no room
        file.truncate(rows * 16 * 2)
        file.seek((rows - 1) * 16 * 2)
        file.write(np.arange(16, dtype=np.float16).tobytes())
    said = {"rows": rows, "dim": 16, "dtype": "fp16", "output": "fp32", "padding_row": None, "ids": "rows", "parts": {}}
    served = table.Table(tmp_path / "x", said)
    assert rows * 16 > 2**31
    assert served.vectors(torch.tensor([rows - 1, 0])).tolist() == [[*range(16)], [0] * 16]


def test_managed_ids_without_a_row_share_the_last_of_their_bucket(tmp_path: Path) -> None:
    config = ManagedCollision(buckets=3)
    bounds = config.bounds(20)
    for kind, numbers in (("ids", [-9, 4, 2**40]), ("rows", [3, 9, 15])):
        (tmp_path / f"x.{kind}").write_bytes(np.array(numbers, dtype="<i8").tobytes())
    (tmp_path / "x.bin").write_bytes(np.zeros((20, 4), dtype=np.float32).tobytes())
    said = {"rows": 20, "dim": 4, "dtype": "fp32", "output": "fp32", "padding_row": 0, "parts": {}}
    served = table.Table(tmp_path / "x", {**said, "ids": "managed_collision", "known": 3, "bounds": bounds})
    assert served.rows_of(torch.tensor([4, -9, 2**40]), raw=True).tolist() == [9, 3, 15]
    assert {*served.rows_of(torch.arange(100, 200), raw=True).tolist()} == {end - 1 for end in bounds[1:]}
    assert served.rows_of(torch.tensor([0, 1, 4]), raw=False).tolist() == [0, 1, 9]
