"""conf/ is true: everything in it composes, and its files say all that there is to say, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sharded_emb.cli import compose_tree
from sharded_emb.component import Component, Frozen, component_class
from sharded_emb.config.run import EvaluateConfig, PlanConfig, PrepareConfig, RunConfig
from sharded_emb.config.where import conf_folder
from tests.configs.problems import problems

CONF = conf_folder()
OPTIONS = sorted(f"{file.parent.name}={file.stem}" for file in CONF.glob("*/*.yaml"))
# what an option leaves to its class, so that a file that begins with it may name another class
COMMENTED = {"dataset/events": ("layout.split", "layout.session_gap_seconds")}
EXPERIMENTS = [option for option in OPTIONS if option.startswith("experiment=")]


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_validates(experiment: str) -> None:
    assert problems(experiment) == []
    assert compose_tree("train", [experiment])["name"] == experiment.partition("=")[2]


@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in EXPERIMENTS])
def test_every_option_of_every_group_composes(option: str) -> None:
    RunConfig.model_validate(compose_tree("train", [option]))


def differing_keys(values: Any, config_class: type[Frozen], place: str) -> list[str]:
    """Keys of a config that a file leaves out, and keys that are none."""
    found = [f"{place}.{key}" for key in set(values) ^ {*config_class.model_fields} if key != "_target_"]
    for key, value in values.items():
        if isinstance(value, dict) and "_target_" in value:
            found += differing_keys(value, component_class(value["_target_"]), f"{place}.{key}")
    return found


@pytest.mark.parametrize("file", sorted(CONF.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_an_option_names_every_key_of_its_component(file: Path) -> None:
    values = read(file)
    if "_target_" in values:
        found = component_class(values["_target_"])
        assert issubclass(found, Component)
        commented = {f"{file.parent.name}.{key}" for key in COMMENTED.get(f"{file.parent.name}/{file.stem}", ())}
        assert {*differing_keys(values, found, file.parent.name)} == commented
        assert all(f"# {key.rpartition('.')[2]}: " in file.read_text(encoding="utf-8") for key in commented)


def test_the_files_of_the_commands_name_every_key() -> None:
    groups = {file.name for file in CONF.iterdir() if file.is_dir()}
    base = {*read(CONF / "base.yaml")} - {"defaults"}
    assert base | (groups - {"experiment"}) == {*RunConfig.model_fields}
    assert {*read(CONF / "prepare.yaml")} - {"defaults"} == {*PrepareConfig.model_fields} - {*RunConfig.model_fields}
    assert {*read(CONF / "plan.yaml")} - {"defaults"} == {*PlanConfig.model_fields} - {*RunConfig.model_fields}
    assert {*read(CONF / "evaluate.yaml")} == {*EvaluateConfig.model_fields} - {*RunConfig.model_fields}


def test_base_says_what_the_classes_would_take_without_it() -> None:
    base = read(CONF / "base.yaml")
    for name in ("batches", "evaluation", "early_stopping"):
        annotation = RunConfig.model_fields[name].annotation
        config_class: Any = annotation if isinstance(annotation, type) else annotation.__args__[0]
        assert {*base[name]} == {*config_class.model_fields}
