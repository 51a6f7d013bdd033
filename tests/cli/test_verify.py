"""`train verify=true`: a sharded model beside an unsharded one, on this machine and these data; it can fail."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sharded_emb.config import build
from sharded_emb.tables import Table
from tests.cli.commands import run
from tests.cli.in_process import Commands

HEAD = "20 steps on {ranks} ranks and in one unsharded process, largest difference:"


def lines(out: str) -> dict[str, list[str]]:
    """By what is compared the words behind it."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("  ")}


def test_a_sharded_model_is_the_unsharded_one_and_no_run_is_made(start: Commands, tiny_data: Path) -> None:
    ended = start("train", f"data={tiny_data}", "verify=true", "sharding=row_wise", "model.dropout=0.5")
    assert (ended.code, ended.out.splitlines()[0]) == (0, HEAD.format(ranks=1))
    found = lines(ended.out)
    assert set(found) == {"item", "dense", "losses"}
    assert found["item"][0] == "row_wise"
    assert 0 <= float(found["item"][1]) <= 1e-5
    assert not (start.folder / "runs").exists()
    said = "dropout was off: ranks draw its masks, so other numbers of ranks train to other weights with it"
    assert ended.out.splitlines()[-1] == said
    assert said not in start("train", f"data={tiny_data}", "verify=true", "model.dropout=0").out


def test_what_differs_fails_and_is_named(start: Commands, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = start("train", f"data={tiny_data}", "verify=true", "verify_tolerance=1e-14")
    assert ended.code == 1
    assert "more than 1e-14: FAILED" in ended.out

    replicated = build.replicated

    def faster(tables: Sequence[Table]) -> list[Table]:
        def twice(optimizer: Any) -> Any:
            return optimizer.model_copy(update={"lr": 1.001 * optimizer.lr})

        return [replace(table, optimizer=twice(table.optimizer)) for table in replicated(tables)]

    monkeypatch.setattr(build, "replicated", faster)
    ended = start("train", f"data={tiny_data}", "verify=true")
    assert ended.code == 1
    assert lines(ended.out)["item"][-1] == "FAILED"


def test_two_ranks_with_every_kind_of_ids_are_one_unsharded_process(real_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    raw = "+dataset.attributes.film={of: event, column: item_id, raw: true}"
    run("prepare", "experiment=din_ml100k", f"dataset.raw={real_data}/ml-100k", f"data={data}", raw)
    words = ["tables.year.ids=quotient_remainder", "tables.occupation={rows: 9, ids: hash, dim: 8}"]
    words += ["+tables.film={rows: 602, dim: 64, ids: managed_collision}", "tables.age.sharding=data_parallel"]
    words += ["+features.film={table: film, column: items_film, pooling: mean}", "clip_norm=1.0", "accumulation=2"]
    words += ["tables.genre.sharding=grid", "tables.genre.optimizer={_target_: adam, lr: 0.001}"]
    out = run("train", "experiment=din_ml100k", f"data={data}", "verify=true", *words, ranks=2)
    found = lines(out)
    assert out.splitlines()[0] == HEAD.format(ranks=2)
    tables = {"item", "genre", "year:quotient", "year:remainder", "gender", "age", "occupation", "film"}
    assert set(found) == {*tables, "dense", "losses"}
    assert found["age"][0] == "data_parallel"
    assert not [what for what, said in found.items() if said[-1] == "FAILED"]
