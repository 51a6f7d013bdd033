"""Hydra's sweepers, and those of its plugins, with jobs of ours in place of Hydra's launchers."""

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from sharded_emb.cli.jobs import Jobs, Objective
from sharded_emb.cli.sweep_words import SweepWords
from sharded_emb.config.groups import Groups
from sharded_emb.config.where import conf_folder
from sharded_emb.errors import InputError, nearest

_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class _Loader:
    """What a sweeper asks Hydra's own loader."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def get_group_options(self, group_name: str, *_: Any, **__: Any) -> list[str]:
        """The options of a group, for `model=glob(*)`."""
        return self._groups.options(group_name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:  # noqa: ARG002
        """Nothing: jobs are composed and checked all together, when they are launched."""
        return master_config


def make_sweeper(config: DictConfig, jobs: Jobs, groups: Groups) -> Any:
    """The sweeper of a config, which starts these jobs. Raises InputError for one that cannot be made."""
    context = HydraContext(_Loader(groups), Callbacks())
    try:
        found = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=lambda _: None, config=config
        )
    except HydraException as error:
        raise InputError(f"hydra.sweeper: {' '.join(str(error).split())}") from error
    # plugins wrap what sweeps, to import it late
    getattr(found, "sweeper", found).launcher = jobs
    return found


def sweeper_config(words: SweepWords, objective: Objective) -> DictConfig:
    """What a sweeper reads. What is best, how many are tried at a time, and the seed of a sampler are filled in unless
    they are given. Raises InputError for what Hydra cannot compose, and for the direction that is not the metric's.
    """
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            _refuse_unknown_sweeper(words.of_sweeper)
            node = compose(overrides=words.of_sweeper, return_hydra_config=True).hydra.sweeper
    except HydraException as error:
        raise InputError(f"hydra.sweeper: {' '.join(str(error).split())}") from error
    OmegaConf.set_struct(node, False)
    given = {word.partition("=")[0].lstrip("+") for word in words.of_sweeper}
    if "direction" in node:
        best = "maximize" if objective.sign > 0 else "minimize"
        got = getattr(node.direction, "name", node.direction)
        if "hydra.sweeper.direction" in given and got != best:
            how = "leave it out, or name another early_stopping.metric"
            raise InputError(f"hydra.sweeper.direction: want {best}, as {objective.metric} has it, got {got}; {how}")
        node.direction = best
    if "n_jobs" in node and "hydra.sweeper.n_jobs" not in given:
        node.n_jobs = words.launcher.at_once
    sampler = node.get("sampler")
    if sampler is not None and "seed" in sampler and sampler.seed is None and node.get("storage") is None:
        sampler.seed = 0  # the same tries when a sweep is resumed; a study that is kept goes on with others
    launcher = {"_target_": _BASIC_LAUNCHER}  # until Jobs takes its place
    tree = {"sweep": {"dir": None}, "sweeper": node, "launcher": launcher}
    return OmegaConf.create({"words": [*words.fixed, *words.tried], "hydra": tree})


def _refuse_unknown_sweeper(words: Sequence[str]) -> None:
    known = GlobalHydra.instance().config_loader().get_group_options("hydra/sweeper")
    for word in words:
        key, _, name = word.partition("=")
        if key == "hydra/sweeper" and name not in known:
            how = "; pip install 'sharded-emb[optuna]'" if name == "optuna" else nearest(name, known)
            raise InputError(f"hydra/sweeper: want a sweeper that is installed, got {name!r}{how}")
