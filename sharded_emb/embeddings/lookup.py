"""The lookups of a model: every table in exactly one collection, one call a collection and step. A table that is
composed of others is looked up as those, and put together from their vectors.

TorchRec's pooled and unpooled collections own their weights, so a table that any feature reads as a sequence goes to
the unpooled one and its other features are pooled after the lookup. The kernel is only ever asked for sums: its means
are wrong under several plans. Data-parallel tables are whole on every rank and need no kernel that knows of shards;
they are plain tensors here, which also avoids FBGEMM's dense CPU kernel for sequences (it corrupts memory).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.batch import CANDIDATES, Batch, Embedded, Jagged
from sharded_emb.embeddings.distinct import Distinct
from sharded_emb.embeddings.exchange import OnTheWay, Question
from sharded_emb.embeddings.local_rows import LocalRows, require_rows
from sharded_emb.pooling.none import NoPooling
from sharded_emb.tables import Feature, Table, held, part_name

_Read = tuple[Tensor, Tensor]  # of a feature: ids (N), and lengths (B)

DATA_TYPES = {"fp32": DataType.FP32, "fp16": DataType.FP16, "bf16": DataType.BF16}


def candidate_feature(table: str) -> Feature:
    """The feature through which a loss reads rows of the item table, in the same lookup as the history."""
    return Feature(name=CANDIDATES, table=table, column="", pooling=NoPooling(), max_length=None, keep="newest")


class Embeddings(nn.Module):
    """Looks up all features of a batch.

    tables: those that hold weights, by name. pooled: an EmbeddingBagCollection of sums, or None. unpooled:
    EmbeddingCollections by dim and width of column shards, which TorchRec wants alike within one. replicated: rows of
    data-parallel tables, no weights of the module: their gradients are exchanged row by row. widths: of the column
    shards of tables that are cut so. distinct_ids: the unpooled ones are asked for each id once. Sharding replaces
    pooled and unpooled in place. direct: of collections, what answers instead of them, by feature.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        replicated: frozenset[str],
        device: torch.device,
        distinct_ids: bool = False,
        widths: Mapping[str, int] = {},
    ) -> None:
        super().__init__()
        self.distinct_ids = distinct_ids
        self.features = {f.name: (f, table) for table in tables for f in table.features}
        self.order: list[str] | None = None  # of features, as the first batch has them
        self.direct: dict[str, Callable[[KeyedJaggedTensor], dict[str, Tensor]]] = {}
        self._begun: Question | None = None  # of a batch that is to come
        self.composed = [table for table in tables if table.parts]
        tables = held(tables)
        self.tables = {table.name: table for table in tables}
        sharded = [table for table in tables if table.name not in replicated]
        self.replicated = [
            LocalRows.whole(alike, device) for alike in _all_alike([t for t in tables if t.name in replicated])
        ]
        bags = [_bag_config(table) for table in sharded if table.pooled]
        self.pooled = EmbeddingBagCollection(bags, device=torch.device("meta")) if bags else None
        self.unpooled = nn.ModuleDict()
        self._of_unpooled: dict[str, list[Table]] = {}
        for name, alike in _alike([table for table in sharded if not table.pooled], widths).items():
            configs = [_sequence_config(table, distinct_ids) for table in alike]
            self.unpooled[name] = EmbeddingCollection(configs, device=torch.device("meta"))
            self._of_unpooled[name] = alike

    def collections(self) -> dict[str, Any]:
        """Those of TorchRec, by name."""
        return {**({} if self.pooled is None else {"pooled": self.pooled}), **self.unpooled}

    def forward(self, batch: Batch) -> Embedded:
        """Vectors by feature name, those that wait for `Poolings` among the sequences; see `Embedded`."""
        ids, question = batch.ids, self._taken(batch)
        # all collections are asked before any answer is awaited, so that their exchanges overlap
        question.send()
        answers: dict[str, Any] = {
            name: self.direct[name](read) if name in self.direct else question.on_the_way[name].answer()
            for name, read in question.ids.items()
        }
        pooled: dict[str, Tensor] = {}
        vectors: dict[str, Tensor] = {}
        for name, answer in answers.items():
            if name == "pooled":
                pooled = dict(answer if self.direct else answer.to_dict())
                continue
            found = dict(answer) if self.direct else {each: rows.values() for each, rows in answer.items()}
            vectors |= question.distinct[name].spread(found) if question.distinct else found
        read = _by_feature(ids)
        for rows in self.replicated:
            (pooled if rows.table.pooled else vectors).update(_of_whole(rows, read))
        for table in self.composed:
            _compose(table, pooled if table.pooled else vectors, read)
        pooled = {
            name: self.features[name][0].pooling.finish(summed.float(), read[name][1])
            for name, summed in pooled.items()
        }
        sequences = {name: self._sequence(name, vectors[name], read[name], batch) for name in vectors}
        return Embedded(pooled, sequences, batch.numbers_BA)

    @property
    def knows_ids(self) -> bool:
        """Whether ids of a batch go to other ranks, and may do so before its step: which row a managed table gives to
        an id depends on the steps before.
        """
        managed = any(table.ids.assigned for table in self.tables.values())
        return bool(self.collections()) and not self.direct and not managed

    def begin(self, batch: Batch) -> None:
        """Tells the other ranks how many ids this batch, which will be looked up later, has for each of them. All ranks
        call it together; lookups of other batches may come in between.
        """
        # one that was begun for nothing would cost time and say nothing
        assert self._begun is None
        self._begun = self._asked(batch)

    def send(self) -> None:
        """Sends the ids of the batch that was begun, if there is one. All ranks call it together."""
        if self._begun is not None:
            self._begun.send()

    def _taken(self, batch: Batch) -> Question:
        """What was begun for this very batch, or is now."""
        begun = self._begun
        if begun is None or begun.batch is not batch:
            return self._asked(batch)
        self._begun = None
        return begun

    def _asked(self, batch: Batch) -> Question:
        ids = batch.ids
        self.order = self.order or ids.keys()
        # TorchRec keeps the places of the first batch, and reads other features there if they change
        assert ids.keys() == self.order
        distinct = {name: Distinct(tables, ids) for name, tables in self._of_unpooled.items() if self.distinct_ids}
        collections = self.collections()
        read = {name: distinct[name].ids if name in distinct else ids for name in collections}
        cut = {name: OnTheWay(each, read[name]) for name, each in collections.items() if name not in self.direct}
        return Question(batch, read, distinct, cut)

    def _sequence(self, name: str, values_TD: Tensor, read: _Read, batch: Batch) -> Jagged:
        ids_T, lengths_B = read
        padding_row = self.features[name][1].padding_row
        if padding_row is not None:
            # the row is zero from the start; the mask keeps gradients out of it. Asking a GPU would be to wait for it
            real_T = ids_T != padding_row
            if values_TD.device.type != "cpu" or not real_T.all():
                values_TD = values_TD * real_T[:, None]
        lengths_B = batch.per_item.get(name, lengths_B).to(torch.int64)
        numbers_T = batch.numbers.get(name)
        return Jagged(values_TD.float(), ids_T, lengths_B, batch.extents[name], numbers_T)


def _by_feature(ids: KeyedJaggedTensor) -> dict[str, _Read]:
    """What `ids[name]` has, in a tenth of the time: all features have as many rows."""
    assert not ids.variable_stride_per_key()
    names = ids.keys()
    values, lengths_FB = ids.values().split(ids.length_per_key()), ids.lengths().view(len(names), ids.stride())
    return {name: (ids_N, lengths_B) for name, ids_N, lengths_B in zip(names, values, lengths_FB, strict=True)}


def _of_whole(rows: LocalRows, read: dict[str, _Read]) -> dict[str, Tensor]:
    """Sums or vectors by feature. One lookup for all of them, so that each row counts as read, even where a model
    leaves a feature alone, as in the collections.
    """
    starts: dict[str, int] = {}
    ids = []
    for first, part in zip(rows.firsts, rows.parts, strict=True):
        for feature in part.table.features:
            ids_N, starts[feature.name] = read[feature.name][0], first
            if len(rows.parts) > 1 and ids_N.device.type == "cpu":  # asking a GPU would be to wait for it
                require_rows(ids_N, part.table.rows)
            ids.append(ids_N + first)
    if rows.table.pooled:
        lengths = torch.cat([read[name][1] for name in starts]).to(torch.int64)
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        found = rows.sums(torch.cat(ids), offsets).chunk(len(ids))
    else:
        found = rows.vectors(torch.cat(ids)).split([len(each) for each in ids])
    return dict(zip(starts, found, strict=True))


def _compose(table: Table, vectors: dict[str, Tensor], read: dict[str, _Read]) -> None:
    """Puts the features of a composed table in the place of those of its parts, among vectors (or sums) and ids."""
    for feature in table.features:
        names = {part: part_name(feature.name, part) for part in table.ids.parts(table.rows, table.dim)}
        parts = {part: read[name] for part, name in names.items()}
        whole = table.ids.join({part: ids for part, (ids, _) in parts.items()}, table.rows)
        _, lengths_B = next(iter(parts.values()))
        read[feature.name] = whole, lengths_B
        vectors[feature.name] = table.ids.combine({part: vectors.pop(name).float() for part, name in names.items()})


def _all_alike(tables: Sequence[Table]) -> list[list[Table]]:
    """Those that one lookup reads."""
    found: dict[Hashable, list[Table]] = {}
    for table in tables:
        found.setdefault((table.pooled, table.dim, table.likeness), []).append(table)
    return [*found.values()]


def _alike(tables: Sequence[Table], widths: Mapping[str, int]) -> dict[str, list[Table]]:
    """The tables of each unpooled collection. One takes any types of sharding, but column shards of one width."""
    found: dict[str, list[Table]] = {}
    for dim in sorted({table.dim for table in tables}):
        same_dim = [table for table in tables if table.dim == dim]
        first, *others = sorted({widths[table.name] for table in same_dim if table.name in widths}) or [dim]
        found[f"dim_{dim}"] = [table for table in same_dim if widths.get(table.name, first) == first]
        found |= {f"dim_{dim}_by_{w}": [t for t in same_dim if widths.get(t.name) == w] for w in others}
    return found


def _bag_config(table: Table) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=table.name,
        num_embeddings=table.rows,
        data_type=DATA_TYPES[table.dtype],
        embedding_dim=table.dim,
        feature_names=[feature.name for feature in table.features],
        pooling=PoolingType.SUM,
        init_fn=_as_it_is,
    )


def _sequence_config(table: Table, distinct_ids: bool) -> EmbeddingConfig:
    return EmbeddingConfig(
        name=table.name,
        num_embeddings=table.rows,
        data_type=DATA_TYPES[table.dtype],
        embedding_dim=table.dim,
        feature_names=[table.name] if distinct_ids else [feature.name for feature in table.features],
        init_fn=_as_it_is,
    )


def _as_it_is(weight: Tensor) -> Tensor:
    """In place of TorchRec's initial values: rows are filled after sharding."""
    return weight
