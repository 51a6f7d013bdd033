"""When a run ends, and when it says or saves something."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """When a run ends, and how often it says or saves something. None for no limit, and for not by that."""

    steps: int | None
    epochs: int | None
    log_every_steps: int
    evaluate_every_epochs: int
    save_every_steps: int | None = None
    save_every_minutes: float | None = None
