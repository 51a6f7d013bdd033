"""How much of everything a table is: what a step reads of it, and the bytes of a shard.

All numbers are expectations over a global batch: ids are taken to fall on all rows alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sharded_emb.tables import Table

ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
# a block of 32 has one byte besides; of vectors that are no multiples of it blocks are smaller, and take up to 1.25
WIRE_BYTES = {**ELEMENT_BYTES, "fp8": 33 / 32, "int8": 33 / 32}
ID_BYTES = 8
DEFAULT_CACHE_LOAD_FACTOR = 0.2  # TorchRec's
_LENGTH_BYTES = 8
_IN_HOSTS = ("uvm", "uvm_caching")  # kernels
# of FBGEMM's cache, on the device: of which table each row is; which row is in each place, and when it was read
_CACHED_TABLE_BYTES, _CACHE_PLACE_BYTES = 4, 8 + 8


@dataclass(frozen=True)
class Workload:
    """What a step is. batch: samples of a global batch. pieces: that it is computed in, one after the other.

    ids: of a sample, on average, by feature. candidates: by table, ids that every rank reads besides, once a piece.
    forward, backward: dtypes of vectors and gradients between ranks; fp32 for what tables give.
    """

    batch: int
    ids: Mapping[str, float]
    candidates: Mapping[str, int] = field(default_factory=dict)
    pieces: int = 1
    forward: str = "fp32"
    backward: str = "fp32"


class Bytes(NamedTuple):
    """Of a shard. input: ids on the device. output: vectors, and their gradients."""

    weights: float
    state: float
    input: float
    output: float

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self)


@dataclass(frozen=True)
class Reads:
    """What a step reads of a table, over all ranks. ids: that are looked up. bags: samples times features, each with a
    length. vectors: that a lookup of the whole table gives: bags of a pooled table, else ids.
    """

    ids: float
    bags: float
    vectors: float
    pieces: int
    vector_bytes: float
    gradient_bytes: float


def reads(table: Table, workload: Workload, world_size: int) -> Reads:
    """Those of a table under a workload."""
    names = [feature.name.partition(":")[0] for feature in table.features]
    ids = workload.batch * sum(workload.ids[name] for name in names if name in workload.ids)
    ids += workload.candidates.get(table.name.partition(":")[0], 0) * world_size * workload.pieces
    bags = float(workload.batch * len(names))
    own = ELEMENT_BYTES[table.output_dtype]
    return Reads(
        ids=ids,
        bags=bags,
        vectors=bags if table.pooled else ids,
        pieces=workload.pieces,
        vector_bytes=min(own, WIRE_BYTES[workload.forward]),
        gradient_bytes=min(own, WIRE_BYTES[workload.backward]),
    )


def weight_bytes(table: Table) -> int:
    """Of all its rows."""
    return table.rows * table.dim * ELEMENT_BYTES[table.dtype]


def state_bytes(table: Table) -> int:
    """Of the optimizer state of all rows."""
    return sum(_state(table, table.rows, table.dim).values())


def _state(table: Table, rows: int, columns: int) -> dict[str, int]:
    """Bytes of what there is a number of a row, and an element."""
    per: Sequence[str] = () if table.freeze else [*table.optimizer.states().values()]
    numbers = {"row": rows, "element": rows * columns}
    return {each: per.count(each) * count * ELEMENT_BYTES[table.state_dtype] for each, count in numbers.items()}


def state_places(table: Table, rows: int, columns: int) -> tuple[int, int]:
    """Bytes of the optimizer state of a shard on the device and in the memory of the host. What there is a row, FBGEMM
    always has on the device.
    """
    state = _state(table, rows, columns)
    if table.kernel in _IN_HOSTS:
        return state["row"], state["element"]
    return state["row"] + state["element"], 0


def on_device(table: Table) -> float:
    """The part of a table's rows that is in a rank's memory, and not in that of its host."""
    return {"uvm": 0.0, "uvm_caching": table.cache_load_factor or DEFAULT_CACHE_LOAD_FACTOR}.get(table.kernel or "", 1)


def on_host(table: Table, rows: int, columns: int) -> int:
    """Bytes of a shard in the memory of the rank's host: all rows, also behind a cache, and some optimizer state."""
    if table.kernel not in _IN_HOSTS:
        return 0
    return rows * columns * ELEMENT_BYTES[table.dtype] + state_places(table, rows, columns)[1]


def shard_bytes(table: Table, read: Reads, rows: int, columns: int) -> Bytes:
    """Of a shard with so many rows and columns."""
    share = rows / table.rows
    ids, vectors, bags = read.ids * share, vectors_of(table, read, share), read.bags
    there = on_device(table)
    weights = there * rows * columns * ELEMENT_BYTES[table.dtype]
    if table.kernel == "uvm_caching":
        weights += rows * (_CACHED_TABLE_BYTES + there * _CACHE_PLACE_BYTES)
    return Bytes(
        weights=weights,
        state=state_places(table, rows, columns)[0],
        input=(ids * ID_BYTES + bags * _LENGTH_BYTES) / read.pieces,
        output=2 * vectors * columns * read.vector_bytes / read.pieces,
    )


def replica_bytes(table: Table, read: Reads, world_size: int) -> Bytes:
    """Of a data-parallel table on one rank, which reads for its own samples; the gradients of all ranks meet there."""
    mine = 1 / world_size / read.pieces
    touched = different_rows(read.ids, table.rows)
    return Bytes(
        weights=weight_bytes(table),
        state=state_bytes(table),
        input=(read.ids * ID_BYTES + read.bags * _LENGTH_BYTES) * mine,
        output=2 * read.vectors * table.dim * 4 * mine + touched * (table.dim * 4 + ID_BYTES),
    )


def different_rows(ids: float, rows: int) -> float:
    """How many rows so many ids are, if they fall on all alike."""
    return -rows * math.expm1(-ids / rows)


def received_bytes(table: Table, read: Reads, world_size: int) -> float:
    """Of the vectors and gradients that every rank has for its own samples, wherever the table is."""
    return 2 * read.vectors * table.dim * read.vector_bytes / world_size / read.pieces


def vectors_of(table: Table, read: Reads, share: float) -> float:
    """That a lookup of a share of the rows gives: a partial sum of every bag, or only the vectors of its own rows."""
    return read.bags if table.pooled else read.ids * share


def length_bytes(read: Reads) -> float:
    """Of the lengths that go along with ids."""
    return read.bags * _LENGTH_BYTES
