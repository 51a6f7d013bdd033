"""The published forms of MovieLens, Amazon Reviews and Taobao, by their options of `dataset`."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sharded_emb.config.where import conf_folder
from sharded_emb.data.atomic import AtomicFiles
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.prepare import prepare
from sharded_emb.errors import InputError

REVIEW = {"reviewerName": "A. N.", "reviewText": 'so "good"', "summary": "good", "reviewTime": "09 13, 2009"}


def reviews(*events: tuple[str, str, int], **more: Any) -> bytes:
    keys = ("reviewerID", "asin", "unixReviewTime")
    rows = [{**dict(zip(keys, event, strict=True)), "overall": 5.0, **REVIEW, **more} for event in events]
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


ASINS = ("A1", [("0B", 10), ("7A", 20), ("0B", 30)])
FORMS = {
    "movielens_100k": ("u.data", b"196\t242\t3\t30\n22\t5\t1\t5\n196\t51\t5\t10\n196\t7\t4\t20\n", (196, [51, 7, 242])),
    "movielens_1m": (
        "ratings.dat",
        b"1::1193::5::30\n2::5::1::5\n1::661::3::10\n1::914::3::20\n",
        (1, [661, 914, 1193]),
    ),
    "movielens_20m": (
        "ratings.csv",
        b"userId,movieId,rating,timestamp\r\n1,2,3.5,30\r\n2,5,1.0,5\r\n1,29,3.5,10\r\n1,32,0.5,20\r\n",
        (1, [29, 32, 2]),
    ),
    "amazon_2014": (
        "reviews_Beauty_5.json.gz",
        reviews(("A1", "7A", 20), ("A2", "7A", 5), ("A1", "0B", 10), ("A1", "0B", 30), helpful=[2, 3]),
        ("A1", ["0B", "7A", "0B"]),
    ),
    "amazon_2014_ratings": (
        "ratings_Beauty.csv",
        b"A1,7A,5.0,20\nA2,7A,1.0,5\nA1,0B,5.0,10\nA1,0B,4.0,30\n",
        ("A1", ["0B", "7A", "0B"]),
    ),
    "amazon_2018": (
        "All_Beauty.json.gz",
        reviews(("A1", "7A", 20), ("A2", "7A", 5), ("A1", "0B", 10), ("A1", "0B", 30), style={"Size:": " 3 oz"}),
        ("A1", ["0B", "7A", "0B"]),
    ),
    "amazon_2018_ratings": (
        "All_Beauty.csv",
        b"7A,A1,5.0,20\n7A,A2,1.0,5\n0B,A1,5.0,10\n0B,A1,4.0,30\n",
        ("A1", ["0B", "7A", "0B"]),
    ),
    "amazon_2023": (
        "All_Beauty.jsonl.gz",
        gzip.compress(
            "".join(
                json.dumps({"user_id": "AE1", "parent_asin": asin, "asin": "B0", "timestamp": time, "rating": 5.0})
                + "\n"
                for asin, time in (("7A", 20_250), ("0B", 10_999), ("0B", 30_000))
            ).encode()
            + b'{"user_id": "AE2", "parent_asin": "7A", "timestamp": 5000}\n'
        ),
        ("AE1", ["0B", "7A", "0B"]),
    ),
    "amazon_2023_ratings": (
        "All_Beauty.csv",
        b"user_id,parent_asin,rating,timestamp\nAE1,7A,5.0,20250\nAE2,7A,1.0,5\nAE1,0B,5.0,10999\nAE1,0B,4.0,30000\n",
        ("AE1", ["0B", "7A", "0B"]),
    ),
    "taobao": (
        "UserBehavior.csv",
        b"1,2268318,2520377,pv,30\n2,5,9,buy,5\n1,2333346,2520771,cart,10\n1,2576651,149192,fav,20\n",
        (1, [2333346, 2576651, 2268318]),
    ),
}


def config_of(option: str, raw: Path) -> EventLog:
    values = yaml.safe_load((conf_folder() / "dataset" / f"{option}.yaml").read_text())
    values.pop("_target_")
    return EventLog.model_validate({**values, "raw": str(raw)})


def made(config: EventLog, folder: Path) -> Dataset:
    prepare(config, folder, seed=0, overwrite=False)
    return Dataset.open(folder)


def config_with(option: str, raw: Path, **attributes: dict[str, Any]) -> EventLog:
    values = config_of(option, raw).model_dump(exclude={"attributes"})
    return EventLog.model_validate({**{k: v for k, v in values.items() if k != "_target_"}, "attributes": attributes})


def words(dataset: Dataset, table: str, rows: list[Any]) -> list[Any]:
    known = dataset.raw_ids(table).to_pylist()
    return [[known[each] for each in row] if isinstance(row, list) else known[row] for row in rows]


@pytest.mark.parametrize("option", FORMS)
def test_a_published_form_becomes_sequences_in_order_of_time(option: str, tmp_path: Path) -> None:
    name, data, wanted = FORMS[option]
    (tmp_path / name).write_bytes(data)
    dataset = made(config_of(option, tmp_path / name), tmp_path / "data")
    users, items = dataset.raw_ids("user").to_pylist(), dataset.raw_ids("item").to_pylist()
    [row] = dataset.split("test").to_pylist()  # the other user has one event alone
    assert (users[row["user"]], [items[item] for item in row["items"]]) == wanted
    assert row["times"] == [10, 20, 30]
    assert dataset.manifest.counts["users"] == 2


def test_movielens_100k_is_the_same_in_the_form_of_grouplens_and_of_recbole(real_data: Path, tmp_path: Path) -> None:
    lines = (real_data / "ml-100k" / "ml-100k.inter").read_text().splitlines(keepends=True)[1:]
    (tmp_path / "u.data").write_text("".join(lines))
    one = made(config_of("movielens_100k", tmp_path / "u.data"), tmp_path / "one")
    prepare(AtomicFiles(raw=str(real_data / "ml-100k")), tmp_path / "two", seed=0, overwrite=False)
    two = Dataset.open(tmp_path / "two")
    assert one.manifest.vocabularies == two.manifest.vocabularies
    assert all(one.split(split).equals(two.split(split)) for split in ("train", "valid", "test"))


def test_a_separator_of_several_letters_cuts_the_header_too(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user::item::time\n1::a::2\n1::b::1\n1::c::3\n")
    dataset = made(EventLog(raw=str(tmp_path / "log.csv"), separator="::"), tmp_path / "data")
    assert [dataset.raw_ids("item").to_pylist()[i] for i in dataset.split("test")["items"].to_pylist()[0]] == [*"bac"]


def test_a_published_file_of_another_shape_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1\t2\t3\n")
    with pytest.raises(
        InputError, match=r"^dataset\.raw: want tsv of 4 columns, got '1.t2.t3' .* in line 1 of u\.data"
    ):
        made(config_of("movielens_100k", tmp_path / "u.data"), tmp_path / "data")


def movielens_1m(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "README").write_text("about the data")
    (folder / "ratings.dat").write_bytes(b"1::10::5::3\n1::20::4::1\n2::10::3::2\n1::30::2::2\n")
    movies = '10::"Nixon" (1995)::Drama\n20::Misérables, Les (1995)::Drama|Musical\n30::Babe::Comedy\n'
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    (folder / "users.dat").write_bytes(b"1::F::1::10::48067\n2::M::56::16::70072\n")
    return folder


def test_the_folder_of_movielens_1m_holds_its_tables_of_users_and_items(tmp_path: Path) -> None:
    attributes = {
        "gender": {"of": "user"},
        "genres": {"of": "item", "separator": "|"},
        "title": {"of": "item"},
        "rating": {"of": "event", "number": True},
    }
    dataset = made(config_with("movielens_1m", movielens_1m(tmp_path / "ml-1m"), **attributes), tmp_path / "data")
    [row] = dataset.split("test").to_pylist()
    assert (words(dataset, "item", row["items"]), row["rating"]) == ([20, 30, 10], [4.0, 2.0, 5.0])
    assert words(dataset, "gender", [row["gender"]]) == ["F"]
    items = dataset.item_attributes()
    genres = words(dataset, "genres", items["genres"].to_pylist())
    by_item = dict(zip(dataset.raw_ids("item").to_pylist(), genres, strict=True))
    assert {item: by_item[item] for item in (10, 20, 30)} == {10: ["Drama"], 20: ["Drama", "Musical"], 30: ["Comedy"]}
    assert {*words(dataset, "title", items["title"].to_pylist()[2:])} == {
        '"Nixon" (1995)',
        "Misérables, Les (1995)",
        "Babe",
    }


def test_a_zip_archive_stands_for_its_folder(tmp_path: Path) -> None:
    folder = movielens_1m(tmp_path / "in" / "ml-1m")
    shutil.make_archive(str(tmp_path / "ml-1m"), "zip", folder.parent)
    attributes = {"gender": {"of": "user"}}
    one = made(config_with("movielens_1m", tmp_path / "ml-1m.zip", **attributes), tmp_path / "one")
    two = made(config_with("movielens_1m", folder, **attributes), tmp_path / "two")
    assert one.split("test").equals(two.split("test"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "ml-1m.zip", "one", "two"]
    (tmp_path / "ml-1m.zip").write_bytes((tmp_path / "ml-1m.zip").read_bytes()[:200])
    with pytest.raises(InputError, match=r"^dataset\.raw: want a zip archive in .*ml-1m\.zip, got .*; get it anew"):
        made(config_of("movielens_1m", tmp_path / "ml-1m.zip"), tmp_path / "three")


def test_columns_of_flags_are_one_attribute_of_many_values(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1\t10\t5\t1\n1\t20\t5\t2\n1\t30\t5\t3\n")
    rows = [(10, {6}), (20, {6, 7}), (30, set())]  # columns that hold 1
    lines = ["|".join([str(item), "T", "1995", "", "", *("01"[i in ones] for i in range(19))]) for item, ones in rows]
    (tmp_path / "u.item").write_text("\n".join(lines) + "\n")
    config = config_with("movielens_100k", tmp_path, genres={"of": "item", "flags": ["Crime", "Documentary"]})
    dataset = made(config, tmp_path / "data")
    genres = words(dataset, "genres", dataset.item_attributes()["genres"].to_pylist())
    assert dict(zip(dataset.raw_ids("item").to_pylist()[2:], genres[2:], strict=True)) == {
        10: ["Crime"],
        20: ["Crime", "Documentary"],
        30: [],
    }


def test_an_archive_without_the_log_names_what_it_holds(tmp_path: Path) -> None:
    folder = movielens_1m(tmp_path / "ml-1m")
    (folder / "ratings.dat").rename(folder / "rating.dat")
    with pytest.raises(InputError, match=r"^dataset\.raw: want ratings\.dat in .*; did you mean rating\.dat\?$"):
        made(config_of("movielens_1m", folder), tmp_path / "data")
