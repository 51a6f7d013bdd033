"""A new run that begins with the weights of another one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharded_emb.config.build import Built
from sharded_emb.config.same_numbers import require_same_numbers
from sharded_emb.config.same_rows import BEFORE, Trained, shown
from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.checkpoint_allowed import Allowed


@dataclass(frozen=True)
class Begun:
    """What a run began with. report: for result.json. lines: for the log. Both are empty where that was the seed."""

    report: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()


FROM_SEED = Begun()


def warm_started(built: Built) -> Begun:
    """Gives a model the weights, and the states unless the config says otherwise, of the run that the config names.

    Raises InputError, on every rank, for a checkpoint that is damaged, or differs in what the key `checkpoint` does not
    allow.
    """
    config, wanted = built.config, built.config.warm_start
    if wanted.run is None:
        return FROM_SEED
    checkpoints = Checkpoints(wanted.run, built.place, built.vocabularies())
    checkpoints.key = "warm_start.run"
    checkpoint = checkpoints.newest()
    require_same_numbers(built, checkpoint)
    dense = built.dense if wanted.states else None
    _, fit = checkpoints.load_what_fits(built.sharded, dense, checkpoint, Allowed.by(config.checkpoint))
    said = f"begun with the weights of {checkpoint}, {'with' if wanted.states else 'without'} the states of optimizers"
    report = {"checkpoint": str(checkpoint), "states": wanted.states, **fit.report()}
    trained = from_first_rank(lambda: Trained.on(checkpoint, built.dataset), built.place)
    if other := trained.other or trained.before:
        report[BEFORE] = other
        said += f", which {'was trained on' if trained.other else 'began with'} other rows ({shown(other)})"
    return Begun(report, [said, *fit.told()])
