"""The hash of a vocabulary: of its raw ids in the order of their rows, without those of padding and of the unknown."""

import hashlib
from typing import Literal

import numpy as np
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
        lengths = pc.binary_length(raw).to_numpy(zero_copy_only=False).astype("<i8")
        digest.update(lengths.tobytes())
        digest.update(_bytes(raw.cast(pa.large_string())))
    return digest.hexdigest()


def _bytes(texts: pa.LargeStringArray) -> memoryview:
    """Of all texts, one after the other, as they are in memory."""
    _, offsets, letters = texts.buffers()
    if not len(texts) or letters is None:
        return memoryview(b"")
    bounds = np.frombuffer(offsets, np.int64)[texts.offset :][: len(texts) + 1]
    return memoryview(letters)[bounds[0] : bounds[-1]]
