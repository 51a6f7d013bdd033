"""Ids on their way to the ranks that own their rows, step by step, so that other work can be done in between."""

from dataclasses import dataclass
from typing import Any

from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.batch import Batch
from sharded_emb.embeddings.distinct import Distinct


class OnTheWay:
    """The ids of one batch for one of TorchRec's sharded collections; to make it tells the other ranks how many there
    are. All ranks do the same with their collections, in the same order.
    """

    def __init__(self, collection: Any, ids: KeyedJaggedTensor) -> None:
        self._collection, self._context = collection, collection.create_context()
        self._counts = collection.input_dist(self._context, ids)
        self._ids: Any = None

    def send(self) -> None:
        """Waits to hear how many ids will come from each rank, and sends those of this one."""
        if self._ids is None:
            self._ids = self._counts.wait()

    def answer(self) -> Any:
        """Waits for the ids, looks them up and sends the vectors back; what TorchRec's forward pass returns."""
        self.send()
        return self._collection.compute_and_output_dist(self._context, self._ids.wait())


@dataclass(frozen=True)
class Question:
    """What the collections are asked for a batch.

    ids: by collection, distinct ones where `distinct` has the collection. on_the_way: of the collections that are cut.
    """

    batch: Batch
    ids: dict[str, KeyedJaggedTensor]
    distinct: dict[str, Distinct]
    on_the_way: dict[str, OnTheWay]

    def send(self) -> None:
        """See `OnTheWay`; what was sent is not sent again."""
        for each in self.on_the_way.values():
            each.send()
