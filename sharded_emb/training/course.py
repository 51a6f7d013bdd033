"""Which samples a run trains on one after the other: a split, epoch after epoch."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sharded_emb.batch import UnknownCount
from sharded_emb.data.collate import Collate
from sharded_emb.data.prefetch import PrefetchConfig
from sharded_emb.data.source import Share, Source
from sharded_emb.training.feed import Fed, Feed
from sharded_emb.training.state import Progress


@dataclass(frozen=True)
class Fetching:
    """How a rank makes its batches."""

    share: Share
    device: torch.device
    prefetch: PrefetchConfig


class Course(Protocol):
    """Goes by `Progress` alone, so that a run goes on from that of its checkpoint; all ranks call it together."""

    @property
    def unknown(self) -> dict[str, UnknownCount]:
        """Of this rank, by feature, as far as unknown ids are no error."""
        ...

    @property
    def over(self) -> bool:
        """Whether no sample will follow."""
        ...

    @property
    def batches_per_epoch(self) -> int | None:
        """None where that is not known."""
        ...

    def policy(self, feature: str) -> str:
        """What becomes of unknown ids of a feature."""
        ...

    def begins(self, progress: Progress, pause: Callable[[], bool]) -> bool:
        """Waits for the next samples; whether there are any. pause: is called again and again meanwhile, and says
        whether to give up.
        """
        ...

    def batches(self, progress: Progress, fetching: Fetching) -> Generator[Fed]:
        """This rank's part of the global batches that are left of an epoch, or of a part of a stream."""
        ...

    def passed(self, progress: Progress, samples: int) -> None:
        """So many more were trained on, over all ranks."""
        ...

    def evaluates(self, progress: Progress, every_epochs: int) -> bool:
        """Whether the run is where it is to be evaluated."""
        ...

    def where(self, progress: Progress) -> str:
        """For people: `epoch 1.50`."""
        ...

    def result(self, progress: Progress) -> dict[str, Any]:
        """What result.json says of it."""
        ...


@dataclass(frozen=True)
class Epochs:
    """A split, again and again."""

    source: Source
    collate: Collate
    over = False

    @property
    def unknown(self) -> dict[str, UnknownCount]:
        """See `Course`."""
        return self.collate.unknown

    @property
    def batches_per_epoch(self) -> int | None:
        """See `Course`."""
        return self.source.batches_per_epoch

    def policy(self, feature: str) -> str:
        """See `Course`."""
        return self.collate.policy(feature)

    def begins(self, progress: Progress, pause: Callable[[], bool]) -> bool:  # noqa: ARG002
        """They are there."""
        return True

    def batches(self, progress: Progress, fetching: Fetching) -> Generator[Fed]:
        """See `Course`."""
        feed = Feed(self.source, self.collate, fetching.share, fetching.device, fetching.prefetch)
        return feed.epoch(progress.epoch, progress.samples % self.source.samples, progress.step + 1)

    def passed(self, progress: Progress, samples: int) -> None:
        """See `Course`."""
        progress.samples += samples
        progress.epoch = progress.samples // self.source.samples

    def evaluates(self, progress: Progress, every_epochs: int) -> bool:
        """At the end of an epoch."""
        return progress.samples % self.source.samples == 0 and progress.epoch % every_epochs == 0

    def where(self, progress: Progress) -> str:
        """See `Course`."""
        return f"epoch {progress.samples / self.source.samples:.2f}"

    def result(self, progress: Progress) -> dict[str, Any]:
        """See `Course`."""
        return {"epochs": progress.epoch}
