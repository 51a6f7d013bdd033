"""Saves that training does not wait for: a copy of what is saved, and a thread that writes it."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard

from sharded_emb.distributed.process_group import Place


class Copies:
    """Copies of entries in the host's memory, which is kept from one save to the next: new memory is slow to touch."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, int], Tensor] = {}

    def of(self, held: Mapping[str, Any]) -> dict[str, Any]:
        """The same entries, apart from the model's own memory. Those of the last call are overwritten."""
        return {name: self._entry(name, value) for name, value in held.items()}

    def memory(self) -> list[Tensor]:
        """Where the copies are, in the order of the entries and their shards."""
        return list(self._memory.values())

    def _entry(self, name: str, value: Any) -> Any:
        if isinstance(value, ShardedTensor):
            shards = [
                Shard(self._tensor(name, number, shard.tensor), _on_host(shard.metadata))
                for number, shard in enumerate(value.local_shards())
            ]
            whole = value.metadata()
            metadata = replace(whole, shards_metadata=[_on_host(each) for each in whole.shards_metadata])
            return ShardedTensor._init_from_local_shards_and_global_metadata(shards, metadata)
        return self._tensor(name, 0, value) if isinstance(value, Tensor) else value

    def _tensor(self, name: str, number: int, value: Tensor) -> Tensor:
        memory = self._memory.get((name, number))
        if memory is None or memory.shape != value.shape or memory.dtype != value.dtype:
            memory = self._memory[name, number] = value.detach().new_empty(value.shape, device="cpu")
        return memory.copy_(value.detach())


def _on_host(shard: ShardMetadata) -> ShardMetadata:
    placement = shard.placement
    assert placement is not None
    return ShardMetadata(shard.shard_offsets, shard.shard_sizes, f"rank:{placement.rank()}/cpu")


class Background:
    """Does one thing after the other in a thread of each rank, all ranks together.

    place: this rank's, with a group of its own: what two threads exchange in one group gets mixed up.
    """

    def __init__(self, place: Place) -> None:
        self.place = replace(place, control=dist.new_group(backend="gloo", timeout=place.timeout))
        self.copies = Copies()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether the work under way has failed on this rank. Others may not know yet."""
        return self._error is not None

    def start(self, work: Callable[[], None]) -> None:
        """Begins with a piece of work; that before it is done, see `wait`."""
        assert self._thread is None

        def attempt() -> None:
            try:
                if self.place.device.type == "cuda":  # of a thread, which else begins with the first one
                    torch.cuda.set_device(self.place.device)
                work()
            except BaseException as error:  # raised where somebody waits
                self._error = error

        self._thread = threading.Thread(target=attempt, name="save", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the work under way is done. Raises what it raised."""
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error
