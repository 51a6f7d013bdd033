"""What `evaluate against=` may name: a baseline of the task, or the folder of a run on the same rows."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharded_emb.config.run import EvaluateConfig
from sharded_emb.config.where import from_home
from sharded_emb.errors import InputError, nearest
from sharded_emb.training.compare import BINARY_BASELINES, NEXT_ITEM_BASELINES
from sharded_emb.training.run_folder import RUN, config_of

BASELINES = {"next_item": NEXT_ITEM_BASELINES, "binary": BINARY_BASELINES}


def against_problems(sound: Mapping[str, Any]) -> Iterator[str]:
    """It has to be there, and be a model of the same task that is evaluated on the same columns."""
    against, model = sound.get("against"), sound.get("model")
    if against is None or model is None or against in BASELINES[model.task]:
        return
    names = BASELINES[model.task]
    if not (from_home(Path(against)) / RUN).is_file():
        hint = nearest(against, names)
        yield f"against: want a run folder or the name of a baseline, got {against}{hint}"
        return
    try:
        tree = config_of("against", from_home(Path(against)))
    except InputError as error:
        yield from error.problems
        return
    for what, mine, other in _compared(sound, tree):
        if mine != other:
            yield f"against: want a run with the same {what}, got {other} in {against} beside {mine}"


def _compared(sound: Mapping[str, Any], tree: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What has to be alike for rows to be the same: what is predicted."""
    model, loss, features = sound["model"], sound.get("loss"), sound.get("features", {})
    if model.task == "binary":
        mine = {} if loss is None else loss.model_dump(mode="json")
        yield "label", *(labels_of(each) for each in (mine, tree["loss"]))
        return
    history = tree["model"].get("history")
    column = tree["features"].get(history, {}).get("column")
    mine = features.get(model.history)
    yield "column of the history", None if mine is None else mine.column, column


def labels_of(loss: Mapping[str, Any]) -> Any:
    """What a loss says of its labels, besides how much they weigh."""
    tasks = loss.get("tasks")
    if tasks is None:
        return loss.get("label")
    return [f"{name} of {task.get('column')} from {task.get('at_least')} on" for name, task in tasks.items()]


def other_run(folder: Path, config: EvaluateConfig) -> dict[str, Any]:
    """The tree of another run, to be evaluated on the data and as the command says of this one."""
    tree = config_of("against", folder)
    for key in ("data", "device", "threads_per_rank", "wait_seconds", "deterministic"):
        tree[key] = config.model_dump(mode="json")[key]
    return {**tree, "run": str(folder), "split": config.split}
