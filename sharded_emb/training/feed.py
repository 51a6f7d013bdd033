"""The batches of an epoch for one rank, read and made ahead of the steps, and copied ahead to a CUDA device."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch

from sharded_emb.batch import Batch
from sharded_emb.data.collate import Collate
from sharded_emb.data.prefetch import PrefetchConfig, ahead
from sharded_emb.data.read import Read
from sharded_emb.data.source import Part, Pool, Share, Source
from sharded_emb.errors import InputError


@dataclass(frozen=True)
class Fed:
    """This rank's part of a global batch.

    pieces: to be computed one after the other. samples: over all ranks. error: what was wrong with it, and there are
    no pieces then; the other ranks have to be told.
    """

    pieces: list[Batch]
    samples: int
    error: InputError | None = None

    @property
    def loss_weight(self) -> float:
        """Of this rank."""
        return sum(batch.loss_weight for batch in self.pieces)

    @property
    def ids(self) -> int:
        """Of this rank."""
        return sum(batch.ids.values().numel() for batch in self.pieces)


@dataclass(frozen=True)
class Feed:
    """Makes the batches of a rank. prefetch: how far ahead, which changes nothing else."""

    source: Source
    collate: Collate
    share: Share
    device: torch.device
    prefetch: PrefetchConfig

    def epoch(self, number: int, used: int, step: int) -> Generator[Fed]:
        """What is left of an epoch after so many samples; step: of the first global batch.

        Close it where it is left early. Raises what is no InputError when the batch would have come.
        """
        pools = self.source.pools_left(used)
        plans = (partial(self._plan, number, pool, used) for pool in pools)
        with (
            # one pool ahead of that which is used, in a thread of its own
            closing(ahead(plans, _one_ahead(self.prefetch))) as planned,
            closing(ahead(self._tasks(planned, step), self.prefetch)) as made,
        ):
            yield from _copied_ahead(made, self.device) if self.device.type == "cuda" else made

    def _plan(self, epoch: int, pool: int, used: int) -> tuple[Pool, Read] | InputError:
        """A pool, and its rows in memory; or why they are not."""
        try:
            found = self.source.pool(epoch, pool, self.share, used)
            return found, self.collate.read(found.rows, found.everyone())
        except InputError as wrong:
            return wrong

    def _tasks(self, plans: Iterator[tuple[Pool, Read] | InputError], step: int) -> Iterator[Callable[[], Fed]]:
        for plan in plans:
            if isinstance(plan, InputError):
                yield partial(Fed, [], 0, plan)
                return
            pool, read = plan
            at = 0
            for parts in pool.batches:
                yield partial(self._make, parts, read, at, step)
                at += sum(len(part.rows) for part in parts)
                step += 1

    def _make(self, parts: list[Part], read: Read, at: int, step: int) -> Fed:
        """at: where the rows of the parts begin, among those that were read."""
        samples, pieces = sum(part.global_samples for part in parts), []
        try:
            for part in parts:
                rows = slice(at, at + len(part.rows))
                pieces.append(self.collate.batch(read, rows, part.size, step, part.everyone))
                at = rows.stop
        except InputError as wrong:
            return Fed([], samples, wrong)
        return Fed([piece.pinned() for piece in pieces] if self.device.type == "cuda" else pieces, samples)


def _one_ahead(config: PrefetchConfig) -> PrefetchConfig:
    """One worker that is one ahead; none where nothing is to be made ahead."""
    return PrefetchConfig(batches=min(config.batches, 1), workers=1)


def _copied_ahead(made: Iterator[Fed], device: torch.device) -> Iterator[Fed]:
    """Each on the device, where its copy was begun before the batch ahead of it was used."""
    stream, before, raised = torch.cuda.Stream(device), None, None
    while True:
        copied = None
        try:
            if (fed := next(made, None)) is not None:
                with torch.cuda.stream(stream):
                    pieces = [piece.to(device, non_blocking=True) for piece in fed.pieces]
                    copied = replace(fed, pieces=pieces), stream.record_event()
        except Exception as error:  # of the next batch, which comes after this one
            raised = error
        if before is not None:
            yield _waited_for(*before)
        if raised is not None:
            before = None  # or its memory would be kept as long as the error is
            raise raised
        if copied is None:
            return
        before = copied


def _waited_for(fed: Fed, done: torch.cuda.Event) -> Fed:
    now = torch.cuda.current_stream()
    now.wait_event(done)
    for piece in fed.pieces:
        piece.record_stream(now)  # or the memory could be given away while this stream still reads it
    return fed
