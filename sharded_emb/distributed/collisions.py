"""Gives rows of managed tables to ids as they are met: TorchRec's managed collision in buckets that are dealt to ranks.

TorchRec's own sharded modules hash ids to as many parts as there are ranks, so who has which row depends on them; they
are row-wise alone, and forget what a history longer than 1.25 times that of the first batch holds. Here ids go to the
rank of their bucket and come back as rows, and then any table serves, on any plan.

N  ids of this rank    U  distinct ones among them    R  received from all ranks    W  ranks
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    LFU_EvictionPolicy,
    LRU_EvictionPolicy,
    MCHEvictionPolicy,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from sharded_emb.batch import Batch
from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.process_group import Place
from sharded_emb.ids.managed_collision import NO_ID, ManagedCollision
from sharded_emb.initializers import mixed
from sharded_emb.tables import Table
from sharded_emb.vocabulary_rows import FIRST_ROW


def _policy(config: ManagedCollision) -> MCHEvictionPolicy:
    if config.eviction == "lfu":
        return LFU_EvictionPolicy()
    kind = LRU_EvictionPolicy if config.eviction == "lru" else DistanceLFU_EvictionPolicy
    return kind(decay_exponent=config.decay_exponent)


class Bucket(MCHManagedCollisionModule):
    """The rows [first, end) of a table, the last of which all ids share that have none of their own.

    waiting: the distinct ids of the steps since rows changed hands, how often each was met, and when: int64 (3, U).
    given: how often a row was given to an id so far, a scalar on the host.
    """

    def __init__(self, config: ManagedCollision, first: int, end: int, device: torch.device) -> None:
        super().__init__(
            zch_size=end - first,
            device=device,
            eviction_policy=_policy(config),
            eviction_interval=config.every_steps,
            output_global_offset=first,
        )
        self.last = end - 1
        self.waiting: list[Tensor] = []
        self.given = torch.tensor(0)

    def meet(self, ids_U: Tensor, counts_U: Tensor, step: int) -> None:
        """Remembers what a step has met."""
        known = ids_U != NO_ID
        self.waiting.append(torch.stack([ids_U, counts_U, torch.full_like(ids_U, step)])[:, known])

    def change_hands(self, step: int) -> Tensor:
        """Gives rows to the ids that have earned them. Returns the rows with a new owner."""
        ids_N, counts_N, steps_N = torch.cat(self.waiting, 1)
        self.waiting = []
        if not ids_N.numel():
            return ids_N
        ids_U, at_N = torch.unique(ids_N, return_inverse=True)
        counts_U = torch.zeros_like(ids_U).index_add_(0, at_N, counts_N)
        steps_U = torch.zeros_like(ids_U).scatter_reduce_(0, at_N, steps_N, "amax", include_self=False)
        self._current_iter = step
        self._update_and_evict(ids_U, counts_U, {"last_access_iter": steps_U})
        changed = self.evict()
        assert changed is not None
        self.given += changed.numel()
        return changed

    def rows(self, ids_N: Tensor) -> Tensor:
        """The row of each id."""
        found = self.remap({"": JaggedTensor(values=ids_N, lengths=torch.ones_like(ids_N))})[""].values()
        return torch.where(ids_N == NO_ID, self.last, found)

    @property
    def owned(self) -> Tensor:
        """How many rows have an owner: a scalar."""
        # the last row is nobody's, so that a search that finds nothing ends there
        return (self._mch_sorted_raw_ids != NO_ID).sum()

    def tensors(self) -> dict[str, Tensor]:
        """Who has which row, and what the eviction policy knows of them."""
        names = [name for name, _, _ in self._eviction_policy.metadata_info]
        named = {name: self._mch_metadata[name] for name in names if name in self._mch_metadata}
        rows = {"ids": self._mch_sorted_raw_ids, "rows": self._mch_remapped_ids_mapping}
        return {**rows, "given": self.given, **named}


class ManagedTable:
    """Which rows the ids of a table have. buckets: those of this rank, by number."""

    def __init__(self, table: Table, place: Place) -> None:
        assert isinstance(table.ids, ManagedCollision)
        self.table, self.config, self.place = table, table.ids, place
        self.bounds = self.config.bounds(table.rows)
        self.buckets = {
            number: Bucket(self.config, self.bounds[number], self.bounds[number + 1], place.device)
            for number in range(self.config.buckets)
            if self._owner(number) == place.rank
        }

    def _owner(self, bucket: int) -> int:
        return bucket * self.place.world_size // self.config.buckets

    def due(self, step: int) -> bool:
        """Whether rows change hands in this step; the first is 1."""
        return (step - 1) % self.config.every_steps == 0

    def assign(self, ids_N: Tensor, step: int | None) -> tuple[Tensor, Tensor]:
        """The row of each id, after all ranks' ids of the step were met, and the rows of this rank that changed hands.

        step: None where nothing is trained and nothing changes. All ranks call it together.
        """
        ids_U, at_N, counts_U = torch.unique(ids_N, return_inverse=True, return_counts=True)
        bucket_U = self._bucket(ids_U)
        order_U = bucket_U.argsort(stable=True)
        sizes = self._sizes(bucket_U)
        met_R2, received = self._exchanged(torch.stack([ids_U, counts_U], 1)[order_U], sizes)
        rows_R, changed = self._owned_rows(met_R2, step)
        rows_U1, _ = self._exchanged(rows_R[:, None], received, sizes)
        rows_U = torch.empty_like(ids_U)
        rows_U[order_U] = rows_U1[:, 0]
        return rows_U[at_N], changed

    def _bucket(self, ids_U: Tensor) -> Tensor:
        return (mixed(ids_U) & NO_ID) % self.config.buckets

    def _sizes(self, bucket_U: Tensor) -> list[int]:
        """How many of the ids each rank is to have."""
        sizes = [0] * self.place.world_size
        for bucket, size in enumerate(bucket_U.bincount(minlength=self.config.buckets).tolist()):
            sizes[self._owner(bucket)] += size
        return sizes

    def _exchanged(self, sent: Tensor, sizes: list[int], received: list[int] | None = None) -> tuple[Tensor, list[int]]:
        """What all ranks sent to this one, by rank, and how much each."""
        if self.place.world_size == 1:
            return sent, sizes
        if received is None:
            theirs = torch.empty(self.place.world_size, dtype=torch.int64)
            dist.all_to_all_single(theirs, torch.tensor(sizes), group=self.place.control)
            received = theirs.tolist()
        found = sent.new_empty(sum(received), sent.shape[1])
        dist.all_to_all_single(found, sent.contiguous(), received, sizes)
        return found, received

    def _owned_rows(self, met_R2: Tensor, step: int | None) -> tuple[Tensor, Tensor]:
        """The rows of ids that belong to buckets of this rank, and those that changed hands."""
        ids_R, counts_R = met_R2.unbind(1)
        bucket_R, rows_R = self._bucket(ids_R), torch.empty_like(ids_R)
        changed = [ids_R.new_empty(0)]
        for number, bucket in self.buckets.items():
            mine = bucket_R == number
            if step is not None:
                bucket.meet(ids_R[mine], counts_R[mine], step)
                if self.due(step):
                    changed.append(bucket.change_hands(step))
            rows_R[mine] = bucket.rows(ids_R[mine])
        return rows_R, torch.cat(changed)


class Collisions:
    """All managed tables of a model."""

    def __init__(self, tables: Iterable[Table], place: Place) -> None:
        self.tables = [ManagedTable(table, place) for table in tables if table.ids.assigned]
        self.place = place

    def rows(self, batches: Sequence[Batch], step: int | None) -> tuple[list[Batch], dict[str, Tensor]]:
        """The batches with rows in place of ids, and, by table, the rows that changed hands anywhere.

        batches: the pieces of one step. step: None where nothing is trained and nothing changes.
        """
        if not self.tables:
            return list(batches), {}
        values = [batch.ids.values().clone() for batch in batches]
        changed = {}
        for managed in self.tables:
            places = [(which, at) for which, batch in enumerate(batches) for at in _managed(managed.table, batch.ids)]
            ids = [values[which][start:end][kept] for which, (start, end, kept) in places]
            rows_N, mine = managed.assign(torch.cat(ids), step)
            for rows, (which, (start, end, kept)) in zip(rows_N.split([len(i) for i in ids]), places, strict=True):
                values[which][start:end][kept] = rows
            if step is not None and managed.due(step):
                changed[managed.table.name] = torch.cat(all_values(mine.cpu(), self.place)).sort().values
        return [_with_values(batch, each) for batch, each in zip(batches, values, strict=True)], changed

    def state_dict(self) -> dict[str, Any]:
        """Of the buckets of this rank."""
        found: dict[str, Any] = {}
        for name, bucket in self._buckets():
            found |= {f"{name}.{key}": values for key, values in bucket.tensors().items()}
            # of no fixed size, which a tensor of a checkpoint has to be
            found[f"{name}.waiting"] = torch.cat([torch.empty(3, 0, dtype=torch.int64), *_on_host(bucket)], 1).numpy()
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The tensors were read in place; what is left is what waits, in buckets of which there is a state."""
        for name, bucket in self._buckets():
            if (waiting := state.get(f"{name}.waiting")) is not None:
                bucket.waiting = [torch.from_numpy(waiting).to(self.place.device)]

    def _buckets(self) -> Iterable[tuple[str, Bucket]]:
        for managed in self.tables:
            for number, bucket in managed.buckets.items():
                yield f"{managed.table.name}.{number}", bucket

    def counts(self) -> dict[str, dict[str, int]]:
        """By table, over all ranks: rows that an id has, rows to give, and how often one was given."""
        found = {}
        for managed in self.tables:
            owned = sum(int(bucket.owned) for bucket in managed.buckets.values())
            given_here = sum(int(bucket.given) for bucket in managed.buckets.values())
            by_rank = all_values((owned, given_here), self.place)
            given = managed.table.rows - FIRST_ROW - managed.config.buckets
            found[managed.table.name] = {
                "owned": sum(owned for owned, _ in by_rank),
                "rows": given,
                "given": sum(changed for _, changed in by_rank),
            }
        return found


def _on_host(bucket: Bucket) -> list[Tensor]:
    return [each.cpu() for each in bucket.waiting]


def _managed(table: Table, ids: KeyedJaggedTensor) -> Iterable[tuple[int, int, Tensor]]:
    """By feature of the table where its ids begin and end among those of a batch, and which of them get a row."""
    offsets, keys = ids.offset_per_key(), ids.keys()
    for feature in table.features:
        at = keys.index(feature.name)
        found = ids.values()[offsets[at] : offsets[at + 1]]
        kept = torch.ones_like(found, dtype=torch.bool) if feature.raw else (found < 0) | (found >= FIRST_ROW)
        yield offsets[at], offsets[at + 1], kept


def _with_values(batch: Batch, values: Tensor) -> Batch:
    ids = batch.ids
    known = ids.length_per_key_or_none()  # without it, asking for it waits for the device
    found = KeyedJaggedTensor(keys=ids.keys(), values=values, lengths=ids.lengths(), length_per_key=known)
    return replace(batch, ids=found)
