"""A run begins with the weights of another: what differs is refused, or allowed by name; tables grow."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sharded_emb.config.build import Built
from sharded_emb.config.warm_starting import warm_started
from sharded_emb.errors import InputError
from tests.distributed import growth_cases as cases
from tests.distributed.growth_cases import CASES, ITEMS, NEW_ITEMS
from tests.distributed.ranks import on_one_rank, run_ranks

GROWING = {"checkpoint": {"grow_tables": ["item"]}}
BESIDE = {"_target_": "sharded_emb.models.sasrec.SASRec", "blocks": 1, "hidden": 8, "dropout": 0.0, "beside": ["g"]}
GENRE = {"dim": 8, "rows": ITEMS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("grown")
    cases.write_datasets(path)
    on_one_rank(lambda place: cases.save_all(place, path, path / "by 1"))
    return path


@pytest.fixture(scope="module")
def grown(folder: Path) -> dict[str, Any]:
    """What is wrong, by number of ranks before and now, and by case."""
    of_two = run_ranks(cases.save_and_grow, 2, folder, folder / "by 1", folder / "by 2")
    return {
        "1 to 1": on_one_rank(lambda place: cases.grow_all(place, folder, folder / "by 1")),
        "1 to 2": {case: [odd for of_rank, _ in of_two for odd in of_rank[case]] for case in CASES},
        "weights of a run": [of_rank for _, of_rank in of_two],
        "2 to 1": on_one_rank(lambda place: cases.grow_all(place, folder, folder / "by 2")),
    }


@pytest.mark.parametrize("worlds", ["1 to 1", "1 to 2", "2 to 1"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_old_rows_and_states_stay_and_new_ones_are_as_the_seed_has_them(
    grown: dict[str, Any], case: cases.Grown, worlds: str
) -> None:
    assert grown[worlds][case] == []


def test_a_table_begins_with_the_rows_that_another_run_has_for_its_ids(grown: dict[str, Any]) -> None:
    for of_rank in grown["weights of a run"]:
        assert len(of_rank) == 3
        assert all(of_rank.values()), of_rank


def test_weights_of_a_run_that_do_not_fit(folder: Path) -> None:
    run = folder / "by 1" / "0"
    for weights, said in (
        ({"path": str(run), "key": "itm"}, f"key: want a table of {run}, got 'itm'; did you mean item?"),
        ({"path": str(folder / "old")}, f"path: want a run with a checkpoint, got {folder / 'old'} without one"),
    ):
        with pytest.raises(InputError) as raised:
            cases.run_config(folder, "new", CASES[0], "row_wise", tables={"item": {"dim": 8, "weights": weights}})
        assert raised.value.problems == [f"tables.item.weights.{said}"]


def refused(folder: Path, data: str, **more: Any) -> list[str]:
    return on_one_rank(lambda place: cases.refused(place, folder, folder / "by 1" / "0", data, **more))


def features(**more: Any) -> dict[str, Any]:
    history = {"table": "item", "column": "items", "max_length": 6}
    return {"features": {"history": history, **more}}


def test_a_table_that_nobody_lets_grow(folder: Path) -> None:
    (line,) = refused(folder, "new")
    assert line.startswith(f"tables.item.rows: want {ITEMS}, as ")
    assert line.endswith(
        f"step-4 has it, got {ITEMS + NEW_ITEMS}; checkpoint.grow_tables=[item] keeps the old ones, and fills new ones "
        "by the seed"
    )


def test_a_vocabulary_that_does_not_extend_the_old_one(folder: Path) -> None:
    (line,) = refused(folder, "other", **GROWING)
    assert line.startswith("data: want the vocabulary of item (of items) that ")
    where = f"it, got another, which differs from row 6 on, which was that of 1004 and is that of 1005; {'its rows'}"
    assert where in line
    assert f"make the dataset by prepare extend={folder / 'old'}, give that of the run, or train again" in line
    assert line.endswith(f"; or take its rows by raw id, with tables.item.weights.path={folder / 'by 1' / '0'}")


def test_everything_that_is_missing_unexpected_or_of_another_kind_is_listed_at_once(folder: Path) -> None:
    tables = {"things": {"dim": 8, "rows": ITEMS}, "genre": GENRE}
    found = refused(
        folder,
        "old",
        tables=tables,
        features={
            "history": {"table": "things", "column": "items", "max_length": 9},
            "g": {"table": "genre", "column": "items", "max_length": 9},
        },
        model=BESIDE,
        dense_optimizer={"_target_": "sharded_emb.optim.dense_sgd.DenseSGD", "lr": 0.1},
    )
    assert [line.partition(",")[0].partition(" in ")[0] for line in found] == [
        "tables.item: want the table",
        "tables.things: want it",
        "tables.genre: want it",
        "warm_start.run: want dense.model.places_LD of shape (9",
        "dense_optimizer: want AdamW",
    ]
    assert found[0].endswith("; checkpoint.allow_unexpected=[item] leaves it out")
    assert found[2].endswith("; checkpoint.allow_missing=[genre] keeps its initial rows")
    assert found[3].endswith("; named in checkpoint.allow_missing and in allow_unexpected it begins anew")
    assert found[4].endswith("got SGD; warm_start.states=false begins with fresh ones")


def test_a_state_of_another_optimizer_is_refused_even_if_its_shape_is_the_same(folder: Path) -> None:
    (line,) = refused(folder, "old", embedding_optimizer={"_target_": "adam", "lr": 0.01})
    assert line.startswith("tables.item.optimizer: want Adagrad, whose states ")


def test_names_that_fit_nothing(folder: Path) -> None:
    allowed = {"checkpoint": {"allow_missing": ["genres"], "allow_unexpected": ["dense.model.place_LD"]}}
    assert refused(folder, "old", **allowed) == [
        "checkpoint.allow_missing: want a table or a dense weight of the model, got 'genres'; there are: "
        "dense.model.blocks, dense.model.norm, dense.model.places_LD, item",
        "checkpoint.allow_unexpected: want a table or a dense weight of the checkpoint, got 'dense.model.place_LD'; "
        "did you mean dense.model.places_LD?",
    ]


def test_what_is_named_begins_anew_and_the_rest_is_as_it_was(folder: Path) -> None:
    names = ["genre", "dense.model.places_LD"]
    case, run = CASES[0], folder / "by 1" / "0"
    more = {
        "tables": {"item": {"dim": 8, "init": "uniform"}, "genre": GENRE},
        "features": {
            "history": {"table": "item", "column": "items", "max_length": 9},
            "g": {"table": "genre", "column": "items", "max_length": 9},
        },
        "model": BESIDE,
        "checkpoint": {"allow_missing": names, "allow_unexpected": names[1:]},
        "warm_start": {"run": str(run)},
    }

    def task(place: Any) -> Any:
        built = Built(cases.run_config(folder, "old", case, case.loaded, **more), place)
        fresh = cases.whole(built)
        return warm_started(built), fresh, cases.whole(built)

    begun, fresh, now = on_one_rank(task)
    assert begun.report["missing"] == names
    assert begun.report["unexpected"] == names[1:]
    assert any("genre: is not in the checkpoint, and begins anew" in line for line in begun.lines)
    old = torch.load(run / "whole.pt")
    for name, value in now.items():
        begins_anew = "genre" in name or "places_LD" in name
        assert torch.equal(value, fresh[name] if begins_anew else old[name]), name
    assert not any(name.startswith("dense_optimizer.model.places_LD") for name in now)
