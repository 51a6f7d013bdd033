"""Weights of a table from a file: by row (npy, safetensors), or by raw id (Parquet).

N  rows of a chunk    D  dim
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open

from sharded_emb.component import Frozen, GivenPath
from sharded_emb.errors import InputError, nearest
from sharded_emb.vocabulary_rows import FIRST_ROW

_ROWS_AT_ONCE = 65_536
_NAMED = 5  # missing ids that a message lists
_NUMBERS = "fiu"  # kinds of NumPy's types: neither text nor truth values, nor complex
# floats of 8 bits want a scale
_TENSORS = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8")
Chunk = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


class PretrainedWeights(Frozen):
    """The key `tables.NAME.weights`.

    path: a .npy or .safetensors file, whose row i is row i of the table, a .parquet file of vectors by raw id, or the
    folder of a run, whose best checkpoint, else its last, has them, by raw id where there are vocabularies. key: the
    tensor of a .safetensors file, null where it holds one; of a run its table, null for that of the same name.
    id_column, vector_column: of a .parquet file. missing: whether ids of the vocabulary that there are no vectors for
    keep what `init` gives, or are an "error".
    """

    path: GivenPath
    key: str | None = None
    id_column: str = "id"
    vector_column: str = "vector"
    missing: Literal["init", "error"] = "init"


@dataclass(frozen=True)
class Wanted:
    """The table that is to be filled. raw_ids: of its vocabulary by row, None where it has none."""

    name: str
    rows: int
    dim: int
    raw_ids: pa.Array | None

    def problem(self, key: str, text: str) -> InputError:
        """An error on a key of `weights`."""
        return InputError(f"tables.{self.name}.weights.{key}: {text}")


@dataclass
class Filled:
    """What a file gave: rows of the table from the file, ids of the vocabulary that it has not, ids that nobody asked
    for. first_missing: raw ids."""

    from_file: int = 0
    missing: int = 0
    unused: int = 0
    first_missing: list[Any] = field(default_factory=list)


class Vectors(Protocol):
    """Vectors for rows of a table, wherever they come from."""

    @property
    def filled(self) -> Filled:
        """For how many rows, and for which ids not."""
        ...

    def chunks(self, first_row: int, end_row: int) -> Iterator[Chunk]:
        """Those for some rows (N, D), and the rows (N), piece by piece."""
        ...


class WeightsFile:
    """An opened file that fits its table. Raises InputError on `tables.NAME.weights` for one that does not."""

    def __init__(self, config: PretrainedWeights, wanted: Wanted) -> None:
        self.config, self.wanted = config, wanted
        self.path = config.path.expanduser()
        if not self.path.is_file():
            raise wanted.problem("path", f"want a file, got {config.path}, which does not exist; check the path")
        kinds = {".npy": self._open_npy, ".safetensors": self._open_safetensors, ".parquet": self._open_parquet}
        if self.path.suffix not in kinds:
            raise wanted.problem("path", f"want a file that ends with {', '.join(kinds)}, got {self.path.name}")
        self.filled = Filled()
        self._matrix: Any = None
        self._row_of_line: npt.NDArray[np.int64] | None = None
        try:
            kinds[self.path.suffix]()
        except (ValueError, OSError, EOFError, SafetensorError, pa.ArrowException) as error:
            got = (str(error).splitlines() or [type(error).__name__])[0]
            raise wanted.problem("path", f"want a whole {self.path.suffix[1:]} file, got {got}; mend it") from error

    def chunks(self, first_row: int, end_row: int) -> Iterator[Chunk]:
        """The vectors (N, D) that the file has for these rows of the table, and the rows (N), piece by piece.

        Raises InputError for a value that is not finite.
        """
        pieces = self._by_id(first_row, end_row) if self._row_of_line is not None else self._by_row(first_row, end_row)
        for rows_N, values_ND in pieces:
            if not np.isfinite(values_ND).all():
                row = rows_N[int(np.flatnonzero(~np.isfinite(values_ND).all(1))[0])]
                raise self.wanted.problem("path", f"want finite numbers, got others for row {row}; mend the file")
            yield rows_N, values_ND

    def _by_row(self, first_row: int, end_row: int) -> Iterator[Chunk]:
        for start in range(first_row, end_row, _ROWS_AT_ONCE):
            end = min(start + _ROWS_AT_ONCE, end_row)
            piece = self._matrix[start:end]
            # NumPy has no bf16
            values_ND = piece.float().numpy() if isinstance(piece, torch.Tensor) else np.asarray(piece)
            with np.errstate(over="ignore"):  # is not finite any more, and refused
                yield np.arange(start, end), values_ND.astype(np.float32)

    def _by_id(self, first_row: int, end_row: int) -> Iterator[Chunk]:
        assert self._row_of_line is not None
        line = 0
        for batch in self._matrix.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[self.config.vector_column]):
            rows_N = self._row_of_line[line : line + len(batch)]
            vectors = batch.column(0)
            sizes = pc.list_value_length(vectors)
            if vectors.null_count or not pc.all(pc.equal(sizes, self.wanted.dim)).as_py():
                raise self._wrong_dim(f"another length in lines {line} to {line + len(batch)}")
            flat = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
            chosen = (rows_N >= first_row) & (rows_N < end_row)
            yield rows_N[chosen], flat.reshape(-1, self.wanted.dim)[chosen]
            line += len(batch)

    def _open_npy(self) -> None:
        matrix = np.load(self.path, mmap_mode="r", allow_pickle=False)
        self._check_type(str(matrix.dtype), matrix.dtype.kind in _NUMBERS)
        self._check_matrix(matrix)

    def _open_safetensors(self) -> None:
        file = safe_open(self.path, framework="pt")
        keys = list(file.keys())
        key = self.config.key or (keys[0] if len(keys) == 1 else None)
        if key is None:
            raise self.wanted.problem("key", f"want one of {', '.join(keys)}, got null; name the tensor")
        if key not in keys:
            raise self.wanted.problem("key", f"want a tensor of {self.path.name}, got {key!r}{nearest(key, keys)}")
        matrix = file.get_slice(key)
        self._check_type(matrix.get_dtype(), matrix.get_dtype() in _TENSORS)
        self._check_matrix(matrix)

    def _check_type(self, got: str, holds_numbers: bool) -> None:
        if not holds_numbers:
            want = "want floats of 16, 32 or 64 bits, or whole numbers"
            raise self.wanted.problem("path", f"{want}, got {got} in {self.path.name}; convert them")

    def _check_matrix(self, matrix: Any) -> None:
        shape = tuple(matrix.shape if hasattr(matrix, "shape") else matrix.get_shape())
        if len(shape) != 2:
            raise self.wanted.problem("path", f"want a matrix, got shape {shape}; reshape it")
        if shape[1] != self.wanted.dim:
            raise self._wrong_dim(str(shape[1]))
        if shape[0] != self.wanted.rows:
            raise self.wanted.problem(
                "path",
                f"want {self.wanted.rows} rows, as the table has, got {shape[0]}; or give .parquet by raw id",
            )
        self._matrix = matrix
        self.filled.from_file = shape[0]

    def _wrong_dim(self, got: str) -> InputError:
        hint = f"; set tables.{self.wanted.name}.dim={got}" if got.isdigit() else "; mend the file"
        return self.wanted.problem("path", f"want vectors of dim {self.wanted.dim}, as the table has, got {got}{hint}")

    def _open_parquet(self) -> None:
        wanted, config = self.wanted, self.config
        if wanted.raw_ids is None:
            raise wanted.problem("path", "want .npy or .safetensors for a table without a vocabulary, got .parquet")
        file = pq.ParquetFile(self.path)
        columns = file.schema_arrow.names
        for key, column in (("id_column", config.id_column), ("vector_column", config.vector_column)):
            if column not in columns:
                hint = nearest(column, columns)
                raise wanted.problem(key, f"want a column of {self.path.name}, got {column!r}{hint}")
        vectors = file.schema_arrow.field(config.vector_column).type
        self._check_type(str(vectors), _holds_numbers(vectors))
        ids = file.read(columns=[config.id_column]).column(0).combine_chunks()
        known = wanted.raw_ids[FIRST_ROW:]
        if pa.types.is_integer(ids.type) != pa.types.is_integer(known.type):
            raise wanted.problem("id_column", f"want ids of type {known.type}, as the vocabulary has, got {ids.type}")
        ids = ids.cast(known.type)
        if len(pc.unique(ids)) != len(ids):
            raise wanted.problem("id_column", "want each id once, got some twice; mend the file")
        at = pc.index_in(ids, known)
        self._row_of_line = pc.fill_null(at, -1 - FIRST_ROW).to_numpy().astype(np.int64) + FIRST_ROW
        self._matrix = file
        missing = known.filter(pc.invert(pc.is_in(known, ids)))
        found = len(known) - len(missing)
        self.filled = Filled(found, len(missing), len(ids) - found, missing[:_NAMED].to_pylist())
        if config.missing == "error" and len(missing):
            named = ", ".join(map(str, self.filled.first_missing))
            raise wanted.problem(
                "missing", f"want vectors of all {len(known)} ids, got none for {len(missing)} of them, such as {named}"
            )


def _holds_numbers(kind: pa.DataType) -> bool:
    """Whether a column has lists of them."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
