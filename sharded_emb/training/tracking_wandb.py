"""Weights & Biases: https://docs.wandb.ai/ref/python/."""

import secrets
from collections.abc import Mapping
from typing import Any, Literal

from sharded_emb.training.tracking import Tracked, Tracker, TrackingConfig

_ID = ".wandb-id"
_SECONDS_TO_BEGIN, _SECONDS_TO_END = 60, 100


class WandbConfig(TrackingConfig):
    """project, entity, group: as W&B has them. mode: offline writes RUN/wandb, which `wandb sync` uploads later."""

    project: str = "sharded_emb"
    entity: str | None = None
    group: str | None = None
    mode: Literal["online", "offline"] = "online"

    @property
    def needs(self) -> str:
        """The package."""
        return "wandb"

    def build(self, run: Tracked) -> Tracker:
        """A resumed run keeps its id."""
        import wandb

        file = run.path / _ID
        if not file.is_file():
            file.write_text(secrets.token_hex(4), encoding="utf-8")
        # of the process, which else waits for a network that is gone; not all versions have it
        limits = {"finish_timeout": _SECONDS_TO_END} if "finish_timeout" in wandb.Settings.model_fields else {}
        found = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group,
            mode=self.mode,
            id=file.read_text(encoding="utf-8"),
            resume="allow" if self.mode == "online" else None,
            name=run.path.name,
            dir=run.path,
            config=dict(run.config),
            settings=wandb.Settings(console="off", silent=True, init_timeout=_SECONDS_TO_BEGIN, **limits),
        )
        # a resumed run writes steps anew, which W&B's own counter would refuse
        found.define_metric("*", step_metric="step")
        return _Wandb(found)


class _Wandb(Tracker):
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self, status: str, metrics: Mapping[str, float]) -> None:
        self._run.summary.update({"status": status, **metrics})
        self._run.finish(exit_code=1 if status == "failed" else 0)
