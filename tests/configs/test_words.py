"""What is wrong with the words of a command line, or with the files that they name."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sharded_emb.cli import compose_tree
from sharded_emb.cli.words import parse_override, path_word
from sharded_emb.config.where import conf_folder
from sharded_emb.errors import InputError
from sharded_emb.tables import TableConfig
from tests.configs.problems import problems

MODELS = ", ".join(sorted(file.stem for file in (conf_folder() / "model").glob("*.yaml")))


def config_dir(folder: Path, **files: str) -> Path:
    """A folder with options of one's own; a key `model__mine` is the file model/mine.yaml."""
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("steps", "steps: want KEY=VALUE, got 'steps'"),
        ("=3", "=3: want KEY=VALUE, got '=3'"),
        ("model=sasrce", "model: want an option, got 'sasrce'; did you mean sasrec?"),
        ("model=transformer", f"model: want an option, got 'transformer'; there are: {MODELS}"),
        ("model=null", f"model: want an option, got null; there are: {MODELS}"),
        ("loss=[softmax,sampled_softmax]", "loss: want an option, got ['softmax', 'sampled_softmax']; "
         "did you mean sampled_softmax?"),
        ("model@other=din", "model@other: want GROUP=OPTION, got 'model@other=din'"),
        ("steps=1,2", "steps: want one value, got 1,2; train --multirun tries each, and a key that takes a list has it "
         "as [1,2]"),
        ("hydra.verbose=true", "hydra.verbose: unknown key; settings of Hydra itself do nothing here"),
        ("~early_stoping", "early_stoping: unknown key; did you mean early_stopping?"),
        ("~tables.item.foo", f"tables.item.foo: unknown key; there are: {', '.join(sorted(TableConfig.model_fields))}"),
    ],
)  # fmt: skip
def test_a_word_that_is_no_override_is_named(word: str, problem: str) -> None:
    assert problems(word) == [problem]


def test_a_key_given_twice_is_named_unless_it_says_the_same() -> None:
    assert problems("steps=5", "steps=6", "model=sasrec", "model=din") == [
        "steps: want one value, got 5 and 6; leave one out",
        "model: want one value, got sasrec and din; leave one out",
    ]
    assert problems("steps=5", "steps=5") == []


def test_an_unknown_option_does_not_hide_the_other_problems() -> None:
    assert problems("model=sasrce", "tables.item.dim=6", "model.dropot=1") == [
        "model: want an option, got 'sasrce'; did you mean sasrec?",
        "tables.item.dim: want a multiple of 4, got 6; try 8",
        "model.dropot: unknown key; did you mean dropout?",
    ]
    assert problems("model=transformer", "tables.item.dim=6", "model.layers=1") == [
        f"model: want an option, got 'transformer'; there are: {MODELS}",
        "tables.item.dim: want a multiple of 4, got 6; try 8",
    ]


def test_an_experiment_like_no_other_leaves_nothing_to_say_of_keys() -> None:
    (problem,) = problems("experiment=x", "features.genres.pooling=max")
    names = ", ".join(sorted(file.stem for file in (conf_folder() / "experiment").glob("*.yaml")))
    assert problem == f"experiment: want an option, got 'x'; there are: {names}"


def test_a_value_with_blanks_and_brackets_is_text() -> None:
    raw = "/data/logs (2024)/it's.csv"
    assert compose_tree("prepare", [f"dataset.raw={raw}"])["dataset"]["raw"] == raw
    assert problems("model.hidden=[64") == ["model.hidden: want an integer, got '[64'"]


def test_an_overlay_may_be_null_and_a_key_may_be_deleted() -> None:
    assert problems("experiment=null", "~early_stopping", "++steps=3", "+epochs=2") == []


def test_a_config_dir_that_is_not_there_is_named_with_the_other_problems(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert problems("model=mine", "seed=x", config_dirs=[nowhere]) == [
        f"--config-dir: want a folder, got {nowhere}, which is none",
        "model: want an option, got 'mine'; it may be in the folder that is missing",
        "seed: want an integer, got 'x'",
    ]


def test_a_file_that_is_no_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    own = config_dir(tmp_path, model__mine="_target_: a.B\n  dim: 3\n", model__twice="a: 1\na: 2\n")
    assert problems("model=mine", "loss=sofmax", config_dirs=[own]) == [
        "loss: want an option, got 'sofmax'; did you mean softmax?",
        f"model: want YAML in {own}/model/mine.yaml, got: mapping values are not allowed here in line 2, column 6; "
        "mend the file",
    ]
    assert problems("model=twice", config_dirs=[own]) == [
        f"model: want YAML in {own}/model/twice.yaml, got: found duplicate key a in line 2, column 1; mend the file"
    ]


def test_a_typo_in_a_yaml_file_is_named_by_its_key(tmp_path: Path) -> None:
    text = "# @package _global_\nepohcs: 3\ntables: {item: {dim: 6}}\nmodel: {dropot: 1}\n"
    assert problems("experiment=mine", config_dirs=[config_dir(tmp_path, experiment__mine=text)]) == [
        "tables.item.dim: want a multiple of 4, got 6; try 8",
        "model.dropot: unknown key; did you mean dropout?",
        "epohcs: unknown key; did you mean epochs?",
    ]


def test_references_that_lead_nowhere_and_open_values_are_named(tmp_path: Path) -> None:
    text = "_target_: sharded_emb.models.sasrec.SASRec\nhidden: ${tables.itm.dim}\nheads: ???\nblocks: ${now:%H}\n"
    found = problems("model=mine", "steps=x", config_dirs=[config_dir(tmp_path, model__mine=text)])
    assert found[0].startswith("model.hidden: want a reference that leads somewhere, got ${tables.itm.dim} (")
    assert "model.heads: missing; give it as model.heads=VALUE" in found
    assert "steps: want an integer, got 'x'" in found


def test_references_are_resolved(tmp_path: Path) -> None:
    text = "_target_: sharded_emb.models.sasrec.SASRec\nhidden: ${tables.item.dim}\n"
    own = config_dir(tmp_path, model__mine=text)
    assert compose_tree("train", ["model=mine", "tables.item.dim=24"], own)["model"]["hidden"] == 24


def test_an_option_that_another_file_names_has_to_be_there(tmp_path: Path) -> None:
    own = config_dir(tmp_path, model__mine="defaults:\n  - sasrce\n  - _self_\n")
    assert problems("model=mine", config_dirs=[own]) == [
        "model: want an option in the defaults of model/mine, got model/sasrce; did you mean sasrec?"
    ]


def test_a_group_of_ones_own_needs_no_plus(tmp_path: Path) -> None:
    own = config_dir(tmp_path, size__tiny="# @package _global_\ntables: {item: {dim: 4}}\n")
    assert compose_tree("train", ["size=tiny"], own)["tables"]["item"]["dim"] == 4


def test_a_whole_file_takes_other_options_in_place_of_its_own(tmp_path: Path) -> None:
    whole = compose_tree("train", ["experiment=sasrec_beauty"])
    own = config_dir(tmp_path, run=yaml.safe_dump(whole))
    words = ["embedding_optimizer=sgd", "sharding=row_wise", "model.dropout=0.5"]
    assert compose_tree("run", words, own) == {
        **whole,
        "embedding_optimizer": yaml.safe_load((conf_folder() / "embedding_optimizer" / "sgd.yaml").read_text()),
        "sharding": {"type": "row_wise"},
        "model": {**whole["model"], "dropout": 0.5},
    }
    with pytest.raises(InputError, match=r"^experiment: want none, since run\.yaml is whole as it is"):
        compose_tree("run", ["experiment=din_ml100k"], own)


def test_the_file_to_start_from_has_to_be_there(tmp_path: Path) -> None:
    own = config_dir(tmp_path, mine="steps: 3\n")
    with pytest.raises(InputError, match=r"^--config-name: want the name of a YAML file of .*, got mien; did you mean"):
        compose_tree("mien", [], own)


def test_evaluate_wants_a_run_folder(tmp_path: Path) -> None:
    assert problems("split", command="evaluate") == [
        "split: want KEY=VALUE, got 'split'",
        "run: missing; want a run folder, as run=FOLDER",
    ]
    assert problems("run=", command="evaluate") == ["run: missing; want a run folder, as run=FOLDER"]
    for name in ("mine", "mien", "mined"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "run.yaml").write_text("- 1\n")
    assert problems(f"run={tmp_path}/mien", command="evaluate") == [
        f"run: want a run folder, got {tmp_path}/mien, which has no run.yaml; did you mean mine?"
    ]
    assert problems(f"run={tmp_path}/mine", command="evaluate") == [
        f"run: want a mapping in {tmp_path}/mine/run.yaml, got something else"
    ]
    (tmp_path / "mine" / "run.yaml").write_text(yaml.safe_dump(compose_tree("train", ["experiment=din_ml100k"])))
    assert problems(f"run={tmp_path}/mine", "split=valid,test", command="evaluate") == [
        "split: want one value, got valid,test; give one after the other, and a key that takes a list has it as "
        "[valid,test]"
    ]
    assert problems(f"run={tmp_path}/mine", "split=tset", "top_k=0", command="evaluate") == [
        "split: want train, valid or test, got 'tset'; did you mean test?",
        "top_k: want a number above 0, got 0",
    ]


@pytest.mark.parametrize("path", ["/a/b", "/a,b/0", "/a b/it's, [so] {x}", "/a=b/~c", '/é,"x"'])
def test_a_path_is_one_word_whatever_it_is_called(path: str) -> None:
    found = parse_override(path_word("run", Path(path)))
    assert found is not None
    assert not found.is_sweep_override()
    assert found.value() == path


def test_an_empty_mapping_leaves_nothing_of_one_but_what_other_words_say() -> None:
    def tree(*words: str) -> dict[str, Any]:
        return compose_tree("prepare", ["dataset=criteo", "dataset.raw=x", *words])["dataset"]

    assert len(tree()["vocabularies"]) == 26
    assert tree("dataset.vocabularies={}")["vocabularies"] == {}
    for words in (("dataset.vocabularies={}", "dataset.vocabularies.C3.min_count=4"),):
        for each in (words, words[::-1]):
            assert tree(*each)["vocabularies"] == {"C3": {"min_count": 4}}
    clicks = ["dataset=labelled_events", "dataset.raw=x", "dataset.layout.histories={}"]
    assert compose_tree("prepare", clicks)["dataset"]["layout"]["histories"] == {}
    assert compose_tree("train", ["tables.item.init={}"]) == compose_tree("train", [])  # a class stays what it is
