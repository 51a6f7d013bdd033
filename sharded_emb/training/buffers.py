"""Buffers of a model that somebody wrote: what a step changes besides weights.

A checkpoint keeps one of each, and every rank goes on from it: they have to be the same on all ranks, as weights are.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded
from sharded_emb.errors import InputError

log = logging.getLogger("sharded_emb")


class Buffers:
    """Those of all that is trained and no table, as they are before the first step. Raises InputError for one that no
    checkpoint can hold.
    """

    def __init__(self, sharded: Sharded) -> None:
        self._modules, self._place = nn.ModuleDict(sharded.dense()), sharded.place
        _require_dense(self._modules.state_dict())
        self._told = set[str]()
        self._before = {name: _hash(each) for name, each in self._unsaved().items()}

    def _unsaved(self) -> dict[str, Tensor]:
        kept = self._modules.state_dict().keys()
        return {name: each for name, each in self._modules.named_buffers() if name not in kept}

    def check(self) -> None:
        """Raises InputError on every rank for a buffer that is another one there. One that no checkpoint keeps and that
        has changed is warned of, once.
        """
        _require_same(dict(self._modules.named_buffers()), self._place)
        for name, each in self._unsaved().items():
            if name in self._told or _hash(each) == self._before.get(name):  # or it was None before
                continue
            self._told.add(name)
            if self._place.rank == 0:
                log.warning(
                    "model: buffer %s has changed and is in no checkpoint (persistent=False): a run that goes on, "
                    "`evaluate` and `export` begin with what the model is built with",
                    name,
                )


def _require_dense(kept: Mapping[str, Tensor]) -> None:
    for name, each in kept.items():
        if isinstance(each, Tensor) and each.layout != torch.strided:
            raise InputError(
                f"model: want dense numbers where a checkpoint keeps them, got {name} of {each.layout}; register it "
                "with persistent=False, and build it with the model"
            )


def _require_same(buffers: Mapping[str, Tensor], place: Place) -> None:
    if place.world_size == 1 or not buffers:
        return
    first, *others = all_values({name: _hash(each) for name, each in buffers.items()}, place)
    for rank, there in enumerate(others, start=1):
        for name in first:
            if there.get(name) != first[name]:
                raise InputError(
                    f"model: want buffers that are the same on every rank, got another {name} on rank {rank} than on "
                    "rank 0; a step may not keep there what it has read of a batch, of which a rank has a part"
                )


def _hash(buffer: Tensor) -> str:
    digest = hashlib.sha256(f"{buffer.dtype} {tuple(buffer.shape)} {buffer.layout}".encode())
    for part in _dense_parts(buffer.detach()):
        values = part.resolve_conj().resolve_neg().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _dense_parts(values: Tensor) -> Sequence[Tensor]:
    if values.layout == torch.sparse_coo:
        values = values.coalesce()
        return values.indices(), values.values()
    if values.layout in (torch.sparse_csr, torch.sparse_bsr):
        return values.crow_indices(), values.col_indices(), values.values()
    if values.layout in (torch.sparse_csc, torch.sparse_bsc):
        return values.ccol_indices(), values.row_indices(), values.values()
    return (values.int_repr() if values.is_quantized else values,)
