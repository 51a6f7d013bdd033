"""The key `checkpoint`: how often a run is saved, and how much of that is kept."""

from pydantic import PositiveFloat, PositiveInt

from sharded_emb.component import Frozen


class CheckpointConfig(Frozen):
    """every_steps, every_minutes: null for not by that; the end of a run, its best step and a signal are always saved.

    keep: how many of the newest stay, besides the best one. asynchronous: training waits for a copy of the shards in
    the host's memory, not for the disk; a save that failed is told of at the next step. stop_within_seconds: after a
    signal under torchrun, which kills 30 s after it: what takes longer is given up, and the checkpoint before stands;
    null for no limit.

    The rest is about a checkpoint that a new run begins with (`warm_start`), or that is evaluated: by names of tables
    and of dense weights, or of what these are in, how the model may differ from it. allow_missing: what it has not, and
    what keeps its initial values. allow_unexpected: what it alone has. A name in both is of another kind, and begins
    anew. grow_tables: tables, or patterns of their names (`*`), with new rows behind the old ones, which keep their
    numbers.
    """

    every_steps: PositiveInt | None = None
    every_minutes: PositiveFloat | None = 15.0
    keep: PositiveInt = 2
    asynchronous: bool = False
    stop_within_seconds: PositiveFloat | None = 25.0
    allow_missing: tuple[str, ...] = ()
    allow_unexpected: tuple[str, ...] = ()
    grow_tables: tuple[str, ...] = ()
