"""What comes after the lookups, as a graph that torch alone loads: poolings and the model, by `torch.export`.

B  rows    T  events over all rows    L  longest row    D  dim    A  columns of numbers
"""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export, save

from sharded_emb.batch import Embedded, Extent, Jagged
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.errors import InputError, RunFailedError
from sharded_emb.models.base import NextItemModel
from sharded_emb.tables import Feature, Table

BEHIND = 3  # events of the row that comes behind those of a caller: a graph may insist on so many places
_LARGEST = 1e-5  # difference of graph and model, relative to the largest number, or to 1 if that is less
_PLACES = ".places"


@dataclass(frozen=True)
class Read:
    """A feature as the graph reads it. summed: as sums over each row, else as a sequence. most: events of a row, None
    for any number. asked: the last is what is asked for. single: one a row. numbers: whether there is one an event.
    """

    feature: Feature
    table: Table
    summed: bool
    most: int | None
    asked: bool
    single: bool
    numbers: bool

    @property
    def name(self) -> str:
        """Of the feature."""
        return self.feature.name

    def named(self) -> list[str]:
        """Its inputs: sums (B, D) and lengths; or values (T, D), ids (T), lengths (B), and, of which their number alone
        is read, as many places as the longest row has at least, and as many rows as have an event.
        """
        if self.summed:
            return [f"{self.name}.sums", f"{self.name}.lengths"]
        more = [*["filled"] * (not self.asked), *["numbers"] * self.numbers]
        return [f"{self.name}.{each}" for each in ("values", "ids", "lengths", "places", *more)]


class Model(nn.Module):
    """Poolings and model of a run: inputs by name to logits (B), or (B, tasks), or to queries (B, D)."""

    def __init__(self, poolings: Poolings, model: nn.Module, reads: Sequence[Read], columns: int = 0) -> None:
        super().__init__()
        self.poolings, self.model = poolings, model
        self.next_item = isinstance(model, NextItemModel)
        self.reads, self.columns = list(reads), columns

    def names(self) -> list[str]:
        """Of all inputs, in their order."""
        return [name for read in self.reads for name in read.named()] + ["numbers"] * bool(self.columns)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """See the class."""
        pooled = {
            read.name: read.feature.pooling.finish(inputs[f"{read.name}.sums"], inputs[f"{read.name}.lengths"])
            for read in self.reads
            if read.summed
        }
        sequences = {read.name: _jagged(read.name, inputs) for read in self.reads if not read.summed}
        embedded = self.poolings(Embedded(pooled, sequences, inputs.get("numbers")))
        return cast(NextItemModel, self.model).queries(embedded) if self.next_item else self.model(embedded)

    def random_inputs(self, lengths_B: Sequence[int], values: int = BEHIND) -> dict[str, Tensor]:
        """For rows of so many events, as far as features may have them, and one before what is asked for. values:
        the most that describe an item.
        """
        found: dict[str, Tensor] = {}
        items: dict[str, int] = {}
        for read in self.reads:
            most, least = 1 if read.single else read.most, 2 * read.asked
            lengths = [max(least, length if most is None else min(length, most)) for length in lengths_B]
            if (of := read.feature.of) is not None:
                lengths = [min(1 + each % values, read.most or values) for each in range(items[of])]
            items[read.name] = sum(lengths)
            found |= _random(read, lengths)
        if self.columns:
            found["numbers"] = torch.randn(len(lengths_B), self.columns)
        return {name: found[name] for name in self.names()}


def _jagged(name: str, inputs: Mapping[str, Tensor]) -> Jagged:
    lengths_B = inputs[f"{name}.lengths"]
    # of a sequence that is predicted each row has an event at least: the one that is asked for
    filled = inputs.get(f"{name}.filled", lengths_B)
    extent = Extent(inputs[f"{name}.places"].shape[0], filled.shape[0])
    values_TD, ids_T = inputs[f"{name}.values"], inputs[f"{name}.ids"]
    return Jagged(values_TD, ids_T, lengths_B, extent, inputs.get(f"{name}.numbers"))


def _random(read: Read, lengths: Sequence[int]) -> dict[str, Tensor]:
    name, dim, count = read.name, read.table.dim, sum(lengths)
    of_rows = {f"{name}.lengths": torch.tensor(lengths)}
    if read.summed:
        return {f"{name}.sums": torch.randn(len(lengths), dim), **of_rows}
    found = {
        f"{name}.values": torch.randn(count, dim),
        f"{name}.ids": torch.ones(count, dtype=torch.int64),
        f"{name}.places": torch.arange(max(lengths)),
        f"{name}.filled": torch.arange(sum(length > 0 for length in lengths)),
        **of_rows,
    }
    return found | ({f"{name}.numbers": torch.rand(count)} if read.numbers else {})


@dataclass(frozen=True)
class Traced:
    """A graph. fixed: by sequence how many places it takes, None where these are BEHIND or more."""

    program: ExportedProgram
    fixed: dict[str, int | None]

    def write(self, file: Path) -> None:
        """As `torch.export.load` reads it."""
        room = io.BytesIO()  # what writes into a file says of a full disk nothing that a person would know it by
        save(self.program, room)
        file.write_bytes(room.getbuffer())


def trace(model: Model) -> Traced:
    """The graph of a model in evaluation mode, found the same as the model on batches of several sizes.

    Raises InputError for one that no graph can be made of, and RunFailedError where graph and model differ.
    """
    traced = _traced(model, BEHIND + 1)
    unrolled = [
        read for read in model.reads if not read.single and traced.fixed.get(read.name) not in (None, read.most)
    ]
    for read in unrolled:
        if read.most is None:
            key = f"features.{read.name}.max_length"
            raise InputError(f"{key}: want a number, since a graph of this model unrolls rows, got null; train with 50")
    if unrolled:  # as by recurrent nets: a graph has as many places as the longest row that it was made of
        traced = _traced(model, max(read.most or 0 for read in unrolled))
    _require_same(model, traced)
    return traced


def _traced(model: Model, longest: int) -> Traced:
    """The graph that is made of rows of so many events."""
    example = model.random_inputs([longest, BEHIND, 2], values=BEHIND + 1)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet("torch.export", "torch._export", "torch.fx"):
            warnings.simplefilter("ignore")  # of what the export of a GRU itself does
            shapes = {name: {0: Dim.AUTO} for name in example}
            program = export(model, (example,), dynamic_shapes=(shapes,), strict=False)
    except Exception as error:  # whatever a model of one's own does that a graph cannot
        raise InputError(f"model: want one that torch.export takes, got {str(error).splitlines()[0]}") from error
    graph = cast(nn.Module, program.module())
    places = {name: len(values) for name, values in example.items() if name.endswith(_PLACES)}
    return Traced(program, {name.removesuffix(_PLACES): _fixed(name, places, model, graph) for name in places})


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Without what these say of sizes that are 1, as they are meant to be."""
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _fixed(name: str, places: Mapping[str, int], model: Model, graph: nn.Module) -> int | None:
    """The places that a graph insists on for a sequence."""
    inputs = model.random_inputs([BEHIND, BEHIND, 2])
    few = len(inputs[name])
    inputs |= {other: torch.arange(count) for other, count in places.items() if other != name}
    try:
        with torch.no_grad():
            graph(inputs)
    except AssertionError:
        return places[name]
    return None if few < places[name] else places[name]


def _require_same(model: Model, traced: Traced) -> None:
    """Raises InputError for a graph that does not take any number of rows, RunFailedError unless it says what the model
    says.
    """
    graph, fixed = cast(nn.Module, traced.program.module()), traced.fixed
    for lengths in ([0, BEHIND, BEHIND], [5, 1, 0, BEHIND, BEHIND], [1, 2, 9, 4, BEHIND, BEHIND]):
        inputs = model.random_inputs(lengths, values=len(lengths))
        inputs |= {f"{name}{_PLACES}": torch.arange(count) for name, count in fixed.items() if count is not None}
        with torch.no_grad():
            wanted = model(inputs)
            try:
                got = graph(inputs)
            except Exception as error:  # of the guards of the graph, or of what it does
                said = str(error).splitlines()[0]
                raise InputError(f"model: want one for any number of rows and events, got a graph: {said}") from error
        difference = float((wanted - got).abs().max())
        if not difference <= _LARGEST * max(1.0, float(wanted.abs().max())):
            raise RunFailedError(f"model: its graph differs from it by {difference:g} in rows of {lengths} events")
