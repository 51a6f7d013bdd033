"""What there is to a run besides the numbers of its model: how far it is, and what it has found so far."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from sharded_emb.batch import UnknownCount


@dataclass
class StreamPosition:
    """How far a run is in a stream. part: the last one that was begun; rows, crc32: of it; samples: of it that were
    trained on. parts: how many are done, with those in `skipped`; trained: how many of them had rows. done: the names
    of those that were there at the last look.
    """

    part: str | None = None
    rows: int = 0
    crc32: int | None = None  # of earlier versions none
    samples: int = 0
    parts: int = 0
    trained: int = 0
    skipped: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    @property
    def under_way(self) -> bool:
        """Whether there is more of the part."""
        return self.samples < self.rows

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StreamPosition":
        """Of the values that `asdict` gives; those of earlier versions do not tell parts without rows from others."""
        trained = values.get("parts", 0) - len(values.get("skipped", []))
        return cls(**{"trained": trained, **values})


@dataclass
class Progress:
    """How far a run is: completed steps and epochs, samples over all ranks, seconds spent in steps.

    evaluated_step, best_step: of the last evaluation and of the best one; 0 where there was none. stream: of a run
    whose samples come from one.
    """

    step: int = 0
    epoch: int = 0
    samples: int = 0
    training_seconds: float = 0.0
    evaluated_step: int = 0
    best_step: int = 0
    stream: StreamPosition = field(default_factory=StreamPosition)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """Of the values that `asdict` gives."""
        return cls(**{**values, "stream": StreamPosition.from_json(values.get("stream", {}))})


class AllRanks(NamedTuple):
    """What the ranks have agreed on before a step: the loss weight and the ids of the global batch, and whether it is
    time for a checkpoint, as far as none was made after `asked_at`, the last step that was done then.
    """

    loss_weight: float
    ids: int
    minutes_over: bool
    asked_at: int


class LastSave(NamedTuple):
    """The step that was saved last, and whether the run needs that save."""

    step: int = 0
    needed: bool = False


@dataclass(frozen=True)
class RunState:
    """What a checkpoint says of its run, in JSON.

    best, since_best: of early stopping. seconds: since the run was first started, without pauses. metrics_bytes: how
    much of metrics.jsonl was written. unknown_ids: of the training split, by rank and feature. warm_start: what the run
    began with, empty where that was the seed.
    """

    progress: Progress = field(default_factory=Progress)
    best: float | None = None
    since_best: int = 0
    seconds: float = 0.0
    metrics_bytes: int = 0
    unknown_ids: Sequence[Mapping[str, UnknownCount]] = ()
    warm_start: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunState":
        """Of the same values."""
        counts = [{name: _count(count) for name, count in each.items()} for each in values["unknown_ids"]]
        return cls(**{**values, "progress": Progress.from_json(values["progress"]), "unknown_ids": counts})

    def unknown_ids_of(self, rank: int, world_size: int) -> dict[str, UnknownCount]:
        """What a rank goes on counting from: its own if there are as many ranks as before, else the first has all."""
        if len(self.unknown_ids) == world_size:
            return dict(self.unknown_ids[rank])
        found: dict[str, UnknownCount] = {}
        for counts in self.unknown_ids if rank == 0 else ():
            for name, count in counts.items():
                found[name] = found.get(name, UnknownCount()).plus(count)
        return found


def _count(values: Mapping[str, Any]) -> UnknownCount:
    """Earlier versions kept the first id that was out of range, and not the least."""
    return UnknownCount(**{"least" if key == "first" else key: value for key, value in values.items()})
