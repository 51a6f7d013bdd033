"""Spark gives the dataset that DuckDB gives. Needs the extra [spark] and Java, else it is skipped and says so."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.criteo_like import write
from sharded_emb.cli import compose_tree
from sharded_emb.data.atomic import AtomicFiles
from sharded_emb.data.base import DatasetConfig
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.engines import _megabytes
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.layouts.labelled_events import LabelledEvents
from sharded_emb.data.layouts.next_item import NextItem
from sharded_emb.data.prepare import prepare
from sharded_emb.data.work import EngineConfig, How
from sharded_emb.errors import InputError

SPARK = How(EngineConfig(engine="spark", threads=2, memory_limit="1.5GB"))
needs_pyspark = pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="the extra [spark] is not there")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not there")


@pytest.mark.parametrize(("size", "want"), [("1.5GB", "1536m"), ("2 GiB", "2048m"), ("512MB", "512m"), ("900KB", "1m")])
def test_the_jvm_is_told_whole_megabytes(size: str, want: str) -> None:
    assert _megabytes(size) == want


def same(config: DatasetConfig, folder: Path) -> Dataset:
    """The dataset of DuckDB, once Spark has given the same one."""
    prepare(config, folder / "duckdb", seed=0, overwrite=False)
    prepare(config, folder / "spark", seed=0, overwrite=False, how=SPARK)
    one, other = Dataset.open(folder / "duckdb"), Dataset.open(folder / "spark")
    assert one.manifest == other.manifest
    for split in one.manifest.splits:
        assert one.split(split).equals(other.split(split)), split
    for table in one.manifest.vocabularies:
        assert one.vocabulary(table).equals(other.vocabulary(table)), table
    assert one.item_attributes().equals(other.item_attributes())
    assert sorted(entry.name for entry in folder.iterdir()) == ["duckdb", "spark"]
    return one


@needs_pyspark
@needs_java
def test_scales_buckets_and_fills_are_the_same_from_spark_and_kept_when_extended(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    numbers = draw.random(600).tolist()  # of 16 digits and more, at edges and between
    lines = [f"u{at % 40},i{at % 30},{at},{number!r}" for at, number in enumerate(numbers)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,x", *lines]))
    ages = [f"u{user},{draw.normal():.6f}" for user in range(35)]
    (tmp_path / "users.csv").write_text("\n".join(["user,age", *ages]))
    attributes = {
        "scaled": {"of": "event", "column": "x", "number": True, "scale": "log_standardize"},
        "even": {"of": "event", "column": "x", "buckets": 50},
        "cut": {"of": "event", "column": "x", "edges": sorted(numbers[:5])},
        "age": {"of": "user", "number": True, "scale": "standardize"},
    }
    values = {"raw": str(tmp_path / "log.csv"), "users": str(tmp_path / "users.csv"), "attributes": attributes}
    config = EventLog.model_validate(values)
    (tmp_path / "both").mkdir()
    fitted = same(config, tmp_path / "both").manifest.fitted
    how = replace(SPARK, extend=tmp_path / "both" / "duckdb")
    prepare(config, tmp_path / "more", seed=0, overwrite=False, how=how)
    assert Dataset.open(tmp_path / "more").manifest.fitted == fitted


@needs_pyspark
@needs_java
def test_sequences_of_ml100k_are_the_same_from_spark(real_data: Path, tmp_path: Path) -> None:
    attributes = {"genres": {"of": "item", "column": "class"}, "rating": {"of": "event", "number": True}}
    values: dict[str, Any] = {"raw": str(real_data / "ml-100k"), "attributes": attributes, "min_item_events": 5}
    dataset = same(AtomicFiles.model_validate(values), tmp_path)
    assert dataset.manifest.counts["users"] == 943


@needs_pyspark
@needs_java
@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        NextItem(split="by_time", session_gap_seconds=3600),
        NextItem(split="by_user"),
        LabelledEvents(label="rating", threshold=4, histories={"items": "positive", "all": "all"}, history_length=5),
    ],
    ids=["by time, sessions", "by user", "labelled"],
)
def test_layouts_are_the_same_from_spark(layout: Any, real_data: Path, tmp_path: Path) -> None:
    attributes = {"age": {"of": "user", "edges": [18, 40]}, "genres": {"of": "item", "column": "class"}}
    values = {"raw": str(real_data / "ml-100k"), "attributes": attributes, "layout": layout, "ties": "random"}
    same(AtomicFiles.model_validate(values), tmp_path)


@needs_pyspark
@needs_java
def test_bad_rows_and_dates_are_the_same_from_spark(tmp_path: Path) -> None:
    dates = ["1970-01-01T00:00:09.25Z", "1970-01-01", "1970-01-01 02:00:07.7+02:00", "1969-12-31T23:59:59.999999"]
    times = ["5", "1.5", "soon", "nan", "", *dates, "-3", "9223372036854775808"]
    lines = [f"u{i % 2},i{i},{time}" for i, time in enumerate(times)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "log.csv").write_text("user,item,time\n" + "\n".join([*lines, "u1,short"]) + "\n")
    layout = NextItem(session_gap_seconds=3.6)
    config = EventLog(raw=str(tmp_path / "in"), max_bad_rows=10, time_from=-0.5, time_to=7.7, layout=layout)
    (tmp_path / "out").mkdir()
    dataset = same(config, tmp_path / "out")
    assert dataset.manifest.bad_rows == {"dataset.raw": 1, "dataset.time": 4}
    assert sorted(dataset.raw_ids("item").to_pylist()[2:]) == ["i0", "i1", "i6", "i8"]


def test_spark_without_pyspark_says_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pyspark"] + ["pyspark", "pyspark.sql"]:
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "log.csv").write_text("user,item,time\nu,a,1\n")
    message = r"^prepare\.engine: want pyspark for spark, got none; pip install 'sharded-emb\[spark\]'$"
    with pytest.raises(InputError, match=message):
        prepare(EventLog(raw=str(tmp_path / "log.csv")), tmp_path / "data", seed=0, overwrite=False, how=SPARK)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log.csv"]


_WITHOUT_JAVA = """
import sys
from dataclasses import replace
from pathlib import Path
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.prepare import prepare
from sharded_emb.data.work import EngineConfig, How
from sharded_emb.errors import InputError

how = How(EngineConfig(engine="spark"))
try:
    prepare(EventLog(raw=sys.argv[1]), Path(sys.argv[2]), seed=0, overwrite=False, how=how)
except InputError as error:
    print(error)
"""


@needs_pyspark
def test_spark_without_java_names_it(tmp_path: Path) -> None:
    # in a process of its own: a Java that was started once serves all sessions of a process
    (tmp_path / "log.csv").write_text("user,item,time\nu,a,1\n")
    command = [sys.executable, "-c", _WITHOUT_JAVA, str(tmp_path / "log.csv"), str(tmp_path / "data")]
    environment = {"PATH": str(tmp_path), "JAVA_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert re.match(r"prepare\.engine: want Java for spark, got none: .*; apt-get install openjdk-17", ran.stdout)


@needs_pyspark
@needs_java
def test_a_separator_is_no_pattern_on_spark(tmp_path: Path) -> None:
    texts = ["Drama|War", "War|Comedy", "a.b|c", "x::y.z", "|", "plain"]
    lines = [f"{at % 3},{at % 5},{at},{texts[at % 6]},{at % 2}" for at in range(60)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,genres,label", *lines]))
    kinds = {
        name: {"of": "event", "column": "genres", "separator": by} for name, by in (("a", "|"), ("b", "."), ("c", "::"))
    }
    values = {"raw": str(tmp_path / "log.csv"), "attributes": kinds, "layout": LabelledEvents(label="label")}
    (tmp_path / "both").mkdir()
    made = same(EventLog.model_validate(values), tmp_path / "both")
    assert made.raw_ids("a").to_pylist()[2:] == ["War", "Comedy", "Drama", "a.b", "c", "plain", "x::y.z"]


@needs_pyspark
@needs_java
def test_rows_of_no_user_are_the_same_from_spark(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", 300)
    tree = compose_tree("prepare", ["dataset=criteo", f"dataset.raw={tmp_path / 'train.txt'}"])["dataset"]
    values = {key: each for key, each in tree.items() if key != "_target_"}
    values["vocabularies"] = {"C3": {"min_count": 2}}
    lists = {"of": "event", "column": "C1", "separator": "0"}  # texts cut at their zeros, some of which are empty
    values["attributes"] |= {f"parts{at}": lists for at in range(3)}
    (tmp_path / "both").mkdir()
    assert same(EventLog.model_validate(values), tmp_path / "both").manifest.counts == {"events": 300}
