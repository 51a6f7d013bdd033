"""The commands as functions, for notebooks and tests: what `import sharded_emb` offers.

    import sharded_emb

    config = sharded_emb.compose("experiment=quickstart", "data=data/tiny", "dataset.users=500", "steps=100")
    sharded_emb.prepare(config)
    outcome = sharded_emb.train(config)
    print(outcome.path, outcome.metrics["test"]["ndcg@10"])

Every function raises InputError, with all problems in one list, for what a user can mend.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharded_emb import cli
from sharded_emb.cli.words import path_word
from sharded_emb.errors import InputError

if TYPE_CHECKING:  # nothing of these is imported before the versions of what they need are checked
    from sharded_emb.config.planned import Planned
    from sharded_emb.config.run import RunConfig
    from sharded_emb.config.session import Outcome
    from sharded_emb.data.dataset import Dataset
    from sharded_emb.training.evaluation import Metrics


def compose(*overrides: str, config_dir: str | Path | None = None) -> "RunConfig":
    """The config of a run, from the words that `train` takes: `compose("experiment=sasrec_beauty", "seed=1")`.

    config_dir: a folder with groups and options of your own. Types and rules are checked here; the files that it names
    when they are used, since `prepare` may be about to make them.
    """
    cli.check_versions()
    from sharded_emb.config.run import RunConfig

    return cli.compose_all("train", _words(overrides), _folders(config_dir)).validated(RunConfig, files=False)


def prepare(config: "RunConfig", *, overwrite: bool = False, extend: str | Path | None = None) -> "Dataset":
    """Writes the dataset folder `config.data` from the raw log of `config.dataset`, and opens it.

    overwrite: replace a dataset that is there. extend: a dataset whose rows keep their numbers. Where the config has a
    stream, what is new of the log is added to it instead.
    """
    cli.check_versions()
    from sharded_emb.config.run import PrepareConfig
    from sharded_emb.config.validate import validate
    from sharded_emb.data.additions import add_part
    from sharded_emb.data.dataset import Dataset
    from sharded_emb.data.prepare import prepare as write
    from sharded_emb.data.work import How

    checked = validate(PrepareConfig, {**_tree(config), "overwrite": overwrite, "extend": extend})
    assert checked.data is not None
    how = How(checked.prepare, checked.extend)
    if checked.stream.folder is not None:
        add_part(checked.dataset, checked.data, checked.stream, how)
    else:
        write(checked.dataset, checked.data, seed=checked.seed, overwrite=overwrite, how=how)
    return Dataset.open(checked.data)


def plan(
    config: "RunConfig", *, out: str | Path | None = None, ids_per_sample: Mapping[str, float] | None = None
) -> "Planned":
    """Where the tables of a config would go on the cluster that it describes: `print(plan(config).text)`.

    out: a folder for plan.json and plan.svg. ids_per_sample: of features, on average.
    """
    cli.check_versions()
    from sharded_emb.config.planned import plan as planned
    from sharded_emb.config.run import PlanConfig
    from sharded_emb.config.validate import validate

    own = {"out": out, "ids_per_sample": {} if ids_per_sample is None else ids_per_sample}
    return planned(validate(PlanConfig, {**_tree(config), **own}))


def train(config: "RunConfig") -> "Outcome":
    """Trains and evaluates, as the command does: the run is in `Outcome.path`, its metrics in `Outcome.metrics`.

    `verify=true`, which makes no run, is the command's alone. SIGTERM and SIGINT stop it after the step, with a
    checkpoint; outside of the main thread it leaves them alone.
    """
    cli.check_versions()
    from sharded_emb.config.run import RunConfig
    from sharded_emb.config.session import train as train_session
    from sharded_emb.config.validate import validate

    tree = _tree(config)
    verifies = "verify: want false, since it makes no run to return, got true; take the command, train verify=true"
    return train_session(validate(RunConfig, tree, known=[verifies] if config.verify else []))


def evaluate(run: str | Path, *overrides: str, config_dir: str | Path | None = None) -> "Metrics":
    """The metrics of a run folder by split, with its best weights: `evaluate("runs/mine", "split=valid")`.

    The table of the command is printed, and evaluation_SPLIT.json written into the folder.
    """
    cli.check_versions()
    from sharded_emb.config.evaluating import evaluate as evaluate_session
    from sharded_emb.config.run import EvaluateConfig

    return evaluate_session(_of_run("evaluate", run, overrides, config_dir).validated(EvaluateConfig))


def export(run: str | Path, *overrides: str, config_dir: str | Path | None = None) -> Path:
    """Writes what serves a run without this package, and returns the folder: `export("runs/mine", "quantize=int8")`.

    The package `serving` in it reads it and needs torch alone; `sharded_emb.serving.standalone.Exported` is the same.
    """
    cli.check_versions()
    from sharded_emb.config.exporting import export as export_session
    from sharded_emb.config.run import ExportConfig

    return export_session(_of_run("export", run, overrides, config_dir).validated(ExportConfig))


def explore(run: str | Path, *overrides: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """What a run has made of its tables, as explore.json says it: `explore("runs/mine", "table=item", "ids=[B0001]")`.

    The page is written, and the lines of the command are printed.
    """
    cli.check_versions()
    from sharded_emb.config.exploring import explore as explore_session
    from sharded_emb.config.run import ExploreConfig

    return explore_session(_of_run("explore", run, overrides, config_dir).validated(ExploreConfig))


def _of_run(command: str, run: str | Path, overrides: Iterable[str], config_dir: str | Path | None) -> cli.Composed:
    words = _words(overrides)
    if any(word.startswith("run=") for word in words):
        raise InputError("run: want it as the first argument alone, got it among the overrides too; leave one out")
    return cli.compose_all(command, [*words, path_word("run", run)], _folders(config_dir), of_run=True)


def _words(overrides: Iterable[object]) -> list[str]:
    """Overrides as a command takes them. Raises InputError for what is no text."""
    words = [word for word in overrides if isinstance(word, str)]
    wrong = [word for word in overrides if not isinstance(word, str)]
    if wrong:
        raise InputError(*(f"overrides: want texts, as 'seed=1', 'steps=100', got {word!r}" for word in wrong))
    return words


def _tree(config: object) -> dict[str, Any]:
    """What `validate` takes. Raises InputError for what is no config."""
    from sharded_emb.config.run import RunConfig

    if not isinstance(config, RunConfig):
        raise InputError(f"config: want what sharded_emb.compose gives, got {config!r}")
    return config.model_dump()


def _folders(config_dir: str | Path | None) -> Iterable[Path]:
    return [] if config_dir is None else [Path(config_dir)]
