"""When a run ends, and how often it says or saves something."""

from dataclasses import dataclass

from sharded_emb.training.state import Progress


@dataclass(frozen=True)
class Limits:
    """None for no limit, and for not by that."""

    steps: int | None
    epochs: int | None
    log_every_steps: int
    evaluate_every_epochs: int
    save_every_steps: int | None = None
    save_every_minutes: float | None = None
    evaluate_every_steps: int | None = None

    def total_steps(self, an_epoch: int | None) -> int | None:
        """At most; None where that is not known. an_epoch: the steps of one."""
        by_epochs = None if self.epochs is None or an_epoch is None else self.epochs * an_epoch
        return min((n for n in (self.steps, by_epochs) if n is not None), default=None)

    def save_after(self, step: int) -> bool:
        """Whether it is one of those."""
        return self.save_every_steps is not None and step % self.save_every_steps == 0

    def evaluate_after(self, step: int) -> bool:
        """Whether it is one of those within epochs."""
        return self.evaluate_every_steps is not None and step % self.evaluate_every_steps == 0

    def is_last(self, step: int) -> bool:
        """Whether no step may follow this one."""
        return self.steps is not None and step >= self.steps

    def reached(self, progress: Progress) -> bool:
        """Whether the run is over by one of them."""
        return self.is_last(progress.step) or (self.epochs is not None and progress.epoch >= self.epochs)
