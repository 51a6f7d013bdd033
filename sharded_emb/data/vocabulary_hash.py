"""The hash of a vocabulary: of its raw ids in the order of their rows, without those of padding and of the unknown."""

import hashlib
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc


def kind_of(raw: pa.Array) -> Literal["int64", "string"]:
    """The type of raw ids."""
    return "int64" if pa.types.is_int64(raw.type) else "string"


def hash_of(raw: pa.Array) -> str:
    """Of their type, then of their values (strings: of their lengths, then of their bytes), in hexadecimal digits."""
    kind = kind_of(raw)
    digest = hashlib.sha256(kind.encode())
    if kind == "int64":
        digest.update(raw.to_numpy().astype("<i8").tobytes())
    else:
        digest.update(pc.binary_length(raw).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        digest.update("".join(raw.to_pylist()).encode())
    return digest.hexdigest()
