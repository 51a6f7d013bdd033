"""Numbers of attributes: what they become, and that it stays so in a dataset that grows."""

from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest

from sharded_emb.data.attribute import bucket_names
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.fits import fits_of
from sharded_emb.data.layouts.labelled_events import LabelledEvents
from sharded_emb.data.work import How
from sharded_emb.errors import InputError
from tests.unit.test_prepare_splits import made, written


def test_numbers_are_scaled_and_bucketed(tmp_path: Path) -> None:
    raw = written(tmp_path, [("u", i, i, x) for i, x in enumerate([0, 1, 3, -7])], "user,item,time,x")
    attributes = {
        "logged": {"of": "event", "column": "x", "number": True, "scale": "log"},
        "standard": {"of": "event", "column": "x", "number": True, "scale": "standardize"},
        "halves": {"of": "event", "column": "x", "buckets": 2},
    }
    dataset = made(raw, tmp_path / "data", attributes=attributes)
    [row] = dataset.split("test").to_pylist()
    assert row["logged"] == pytest.approx([0, 0.6931472, 1.3862944, -2.0794415])
    assert sum(row["standard"]) == pytest.approx(0, abs=1e-6)
    assert sum(x * x for x in row["standard"]) / 4 == pytest.approx(1, rel=1e-6)
    names = dataset.raw_ids("halves").to_pylist()
    assert [names[each] for each in row["halves"]] == ["<1", ">=1", ">=1", "<1"]


def test_an_extended_dataset_keeps_what_all_rows_of_the_old_one_came_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, attributes = (
        "user,item,time,x",
        {
            "standard": {"of": "event", "column": "x", "number": True, "scale": "standardize"},
            "halves": {"of": "event", "column": "x", "buckets": 2},
        },
    )
    raw = written(tmp_path, [("u", i, i, x) for i, x in enumerate([0, 1, 3, -7])], head)
    old = made(raw, tmp_path / "old", attributes=attributes)
    more = written(tmp_path, [("u", i, i, x) for i, x in enumerate([100, 1, 300, -7])], head, "more.csv")
    new = made(more, tmp_path / "new", How(extend=tmp_path / "old"), attributes=attributes)
    assert new.raw_ids("halves").equals(old.raw_ids("halves"))
    assert new.manifest.fitted == old.manifest.fitted
    before, after = (each.split("test").to_pylist()[0] for each in (old, new))
    assert after["halves"] == [before["halves"][i] for i in (1, 1, 2, 3)]
    assert [after["standard"][i] for i in (1, 3)] == [before["standard"][i] for i in (1, 3)]
    anew = made(more, tmp_path / "anew", attributes=attributes)
    assert anew.raw_ids("halves").to_pylist()[2:] == ["<100", ">=100"]
    # another rule is another question
    attributes["halves"] = {**attributes["halves"], "buckets": 4}
    capsys.readouterr()
    other = made(more, tmp_path / "other", How(extend=tmp_path / "old"), attributes=attributes)
    said = "halves: buckets=4 of x (event), which was buckets=2 of x (event): its values are others than before"
    assert said in capsys.readouterr().err
    assert other.manifest.fitted is not None
    assert other.manifest.fitted["halves"].edges == [1.0, 100.0, 300.0]
    assert other.manifest.fitted["standard"] == old.manifest.fitted["standard"]
    manifest = tmp_path / "old" / "manifest.yaml"
    manifest.write_text(manifest.read_text().partition("fitted:")[0])
    with pytest.raises(
        InputError, match=r"^extend: want a dataset that says what scale=standardize of x \(event\) came"
    ):
        made(more, tmp_path / "late", How(extend=tmp_path / "old"), attributes=attributes)


def test_a_user_without_a_number_has_the_same_one_in_an_extended_dataset(tmp_path: Path) -> None:
    events = written(tmp_path, [(user, "a", time) for time, user in enumerate("uvw")])
    attributes = {"age": {"of": "user", "number": True, "scale": "standardize"}, "size": {"of": "user", "number": True}}
    users = written(tmp_path, [("u", 10, 1), ("v", 20, 3)], "user,age,size", "users.csv")
    old = made(events, tmp_path / "old", attributes=attributes, users=users)
    later = written(tmp_path, [("u", 10, 1), ("v", 20, 3), ("z", 90, 50)], "user,age,size", "later.csv")
    more = written(tmp_path, [(user, "a", time) for time, user in enumerate("uvwz")], name="more.csv")
    new = made(more, tmp_path / "new", How(extend=tmp_path / "old"), attributes=attributes, users=later)
    for name, of_w in (("age", 0), ("size", 2)):
        before, after = old.split("train")[name].to_pylist(), new.split("train")[name].to_pylist()
        assert before == after[:3]
        assert before[2] == pytest.approx(of_w)
    anew = made(more, tmp_path / "anew", attributes=attributes, users=later)
    assert anew.split("train")["size"].to_pylist()[2] == 18
    # an attribute that is left out for a while is the same when it is back
    none = made(more, tmp_path / "none", How(extend=tmp_path / "old"))
    assert none.manifest.fitted == old.manifest.fitted
    back = made(more, tmp_path / "back", How(extend=tmp_path / "none"), attributes=attributes, users=later)
    assert back.split("train")["age"].to_pylist() == new.split("train")["age"].to_pylist()


def test_numbers_that_are_all_the_same_or_too_large_have_no_scale_of_their_own(tmp_path: Path) -> None:
    attributes = {"x": {"of": "event", "number": True, "scale": "standardize"}}
    head = "user,item,time,x"
    made(written(tmp_path, [("u", i, i, 0.1) for i in range(3)], head), tmp_path / "old", attributes=attributes)
    raw = written(tmp_path, [("u", i, i, 0.2) for i in range(3)], head, "more.csv")
    new = made(raw, tmp_path / "new", How(extend=tmp_path / "old"), attributes=attributes)
    assert new.split("test")["x"].to_pylist() == [pytest.approx([0.1] * 3)]
    huge = written(tmp_path, [("u", i, i, x) for i, x in enumerate([1e308, 1e308, -1])], head, "huge.csv")
    with pytest.raises(InputError, match=r"^dataset\.attributes\.x\.scale: want numbers that can be scaled, got mean "):
        made(huge, tmp_path / "huge", attributes=attributes)


def test_a_number_at_an_edge_is_above_it_to_the_last_bit(tmp_path: Path) -> None:
    drawn = [repr(x) for x in np.random.default_rng(0).random(2000).tolist()]
    raw = written(tmp_path, [("u", i, i, x) for i, x in enumerate(drawn)], "user,item,time,x")
    dataset = made(raw, tmp_path / "data", attributes={"x": {"of": "event", "buckets": 100}})
    assert dataset.manifest.fitted is not None
    edges = dataset.manifest.fitted["x"].edges
    assert edges is not None
    assert len(edges) == 99
    names, [row] = dataset.raw_ids("x").to_pylist(), dataset.split("test")["x"].to_pylist()
    wanted = [bucket_names(edges)[bisect_right(edges, float(x))] for x in drawn]
    assert [names[each] for each in row] == wanted


def test_columns_have_the_numbers_of_their_attributes_and_histories_those_beside_their_events(tmp_path: Path) -> None:
    scaled = {"of": "event", "column": "x", "number": True, "scale": "standardize"}
    attributes = {"x": scaled, "items_x": {"of": "event", "column": "x", "number": True}}
    attributes |= {"kind": {"of": "event", "column": "x", "edges": [1]}, "user_kind": {"of": "event", "column": "x"}}
    raw = written(tmp_path, [("u", i, i, x) for i, x in enumerate([0, 1, 3, -7])], "user,item,time,x")
    found = made(raw, tmp_path / "sequences", attributes=attributes)
    fitted = found.manifest.fitted
    assert fitted is not None
    assert fits_of(["x", "items_x", "kind", "user_kind", "items"], found) == {
        name: fitted[name] for name in ("x", "items_x", "kind")
    }
    assert fitted["items_x"].mean is None
    layout = LabelledEvents(label="x", threshold=1, histories={"items": "all"}, split="random")
    labelled = made(raw, tmp_path / "labelled", layout=layout, attributes={"y": scaled, "z": attributes["kind"]})
    assert labelled.columns["items_y"].type == "list<float32>"
    fitted = labelled.manifest.fitted
    assert fitted is not None
    assert fits_of(sorted(labelled.columns), labelled) == {"y": fitted["y"], "items_y": fitted["y"], "z": fitted["z"]}
    earlier = Dataset(labelled.folder, labelled.manifest.model_copy(update={"fitted": None}))
    with pytest.raises(InputError, match=r"^data: want a dataset that says how items_y came to be, got .* of an"):
        fits_of(["items_y"], earlier)
    assert fits_of(["items"], earlier) == {}


def test_an_attribute_that_has_no_numbers_any_more_has_no_edges_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = written(tmp_path, [("u", i, i, x) for i, x in enumerate([20, 21, 22, 23])], "user,item,time,x")
    made(raw, tmp_path / "old", attributes={"x": {"of": "event", "edges": [21, 22]}})
    capsys.readouterr()
    new = made(raw, tmp_path / "new", How(extend=tmp_path / "old"), attributes={"x": {"of": "event"}})
    assert "x: no numbers, which was edges=[21.0, 22.0] of x (event): its values are others" in capsys.readouterr().err
    assert new.manifest.fitted == {}
    assert fits_of(["x"], new) == {}


@pytest.mark.parametrize("scale", [None, "standardize"])
def test_a_number_that_32_bits_do_not_hold_is_none(tmp_path: Path, scale: str | None) -> None:
    head, attributes = "user,item,time,x", {"x": {"of": "event", "number": True, "scale": scale}}
    old = written(tmp_path, [("u", i, i, x) for i, x in enumerate([1, 2, 3.4e38 if scale is None else 3])], head)
    made(old, tmp_path / "old", attributes=attributes)
    raw = written(tmp_path, [("u", i, i, x) for i, x in enumerate([1, 2, 1e300])], head, "more.csv")
    with pytest.raises(
        InputError, match=r"^dataset\.attributes\.x: want a number in column x \(`missing` says .*\), got '1e\+300' in"
    ):
        made(raw, tmp_path / "new", How(extend=tmp_path / "old"), attributes=attributes)


def test_numbers_of_users_and_items_are_columns_and_missing_ones_the_mean(tmp_path: Path) -> None:
    raw = written(tmp_path, [("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("v", "a", 1)])
    users = written(tmp_path, [("u", 10)], "user,age", "users.csv")
    prices = written(tmp_path, [("a", 1), ("b", 3)], "item,price", "items.csv")
    attributes = {"age": {"of": "user", "number": True}, "price": {"of": "item", "number": True}}
    dataset = made(raw, tmp_path / "data", attributes=attributes, users=users, items=prices)
    assert dataset.split("train")["age"].to_pylist() == [10, 10]
    price = dict(zip(dataset.raw_ids("item").to_pylist(), dataset.item_attributes()["price"].to_pylist(), strict=True))
    assert (price["a"], price["b"], price["c"]) == (1, 3, 2)
