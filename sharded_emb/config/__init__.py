"""The run's configuration: typed, frozen, every problem reported together, each line beginning with its key."""

from sharded_emb.config.run import EvaluateConfig, PrepareConfig, RunConfig
from sharded_emb.config.validate import validate
from sharded_emb.config.where import conf_folder

__all__ = ["EvaluateConfig", "PrepareConfig", "RunConfig", "conf_folder", "validate"]
