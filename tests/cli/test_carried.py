"""`evaluate predictions= columns=`: what to join and to group predictions by stands beside them."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import sharded_emb
from tests.cli.commands import run

CLICKS = ("tables.item.dim=8", "model=dlrm", "loss=binary_cross_entropy", "early_stopping=null", "steps=2")
FEATURE = ("+features.item={table: item, column: item, pooling: sum}", "features.history.pooling=mean")


def read(file: Path) -> dict[str, list[object]]:
    found: dict[str, list[object]] = pq.read_table(file).to_pydict()
    return found


def test_columns_of_a_click_log_stand_beside_its_scores(clicks: Path, tmp_path: Path) -> None:
    words = [*CLICKS, *FEATURE, "epochs=null", f"data={clicks}", f"run={tmp_path / 'run'}"]
    sharded_emb.train(sharded_emb.compose(*words))
    sharded_emb.evaluate(tmp_path / "run", f"predictions={tmp_path / 'plain.parquet'}")
    plain = read(tmp_path / "plain.parquet")
    carried = "columns=[film,rating,user]"
    sharded_emb.evaluate(tmp_path / "run", f"predictions={tmp_path / 'more.parquet'}", carried)
    found, split = read(tmp_path / "more.parquet"), read(clicks / "test")
    assert [*found] == ["user", "item", "label", "score", "film", "rating"]
    assert {name: found[name] for name in plain} == plain
    assert (found["film"], found["rating"]) == (split["film"], split["rating"])
    # each film of the log is one of its items, and a label is 1 from a rating of 4 on
    assert len({*zip(found["item"], found["film"], strict=True)}) == len({*found["item"]})
    assert found["label"] == [float(each >= 4) for each in np.array(found["rating"])]
    two = tmp_path / "two.parquet"
    run("evaluate", f"run={tmp_path / 'run'}", f"predictions={two}", carried, ranks=2)
    mine = read(two)
    assert mine.pop("score") == pytest.approx(found.pop("score"), abs=1e-6)
    assert mine == found


def test_columns_of_sequences_stand_beside_each_item_of_a_list(tiny_data: Path, tmp_path: Path) -> None:
    words = ["model=gru4rec", "model.hidden=8", "tables.item.dim=8", "loss=softmax", "steps=1", "epochs=null"]
    sharded_emb.train(sharded_emb.compose(*words, f"data={tiny_data}", f"run={tmp_path / 'run'}"))
    file = tmp_path / "top.parquet"
    sharded_emb.evaluate(tmp_path / "run", f"predictions={file}", "columns=[user]", "top_k=2")
    assert [*read(file)] == ["user", "rank", "item", "score", "row"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["columns=[flim]"], r"^columns: want columns of .*data, got 'flim'; did you mean film\?$"),
        (
            ["columns=[items]"],
            r"^columns: want columns with one value a row, got 'items', which holds list<int64>; leave",
        ),
        (["columns=[label]"], r"^columns: want other names than those of predictions, got 'label'; name the attribute"),
        (
            ["columns=[film]", "predictions=null"],
            r"^columns: want predictions=FILE, in which they stand, got none; give",
        ),
    ],
)
def test_others_are_refused(clicks: Path, tmp_path: Path, words: list[str], message: str) -> None:
    made = [*CLICKS, *FEATURE, "epochs=null", f"data={clicks}", f"run={tmp_path / 'run'}"]
    sharded_emb.train(sharded_emb.compose(*made))
    words = [f"predictions={tmp_path / 'x.parquet'}"] * ("predictions=null" not in words) + words
    with pytest.raises(sharded_emb.InputError) as wrong:
        sharded_emb.evaluate(tmp_path / "run", *words)
    (problem,) = wrong.value.problems
    assert re.match(message, problem), problem
    assert not (tmp_path / "x.parquet").exists()
