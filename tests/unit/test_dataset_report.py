"""What a dataset says about itself: counts in its manifest, and a page with pictures."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from sharded_emb.data.charts import bars, histogram
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.layouts.labelled_events import LabelledEvents
from sharded_emb.data.prepare import prepare


def made(folder: Path, rows: list[tuple[Any, ...]], header: str = "user,item,time", **more: Any) -> Dataset:
    (folder / "log.csv").write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    prepare(EventLog.model_validate({"raw": str(folder / "log.csv"), **more}), folder / "data", seed=0, overwrite=False)
    return Dataset.open(folder / "data")


def test_cold_items_and_repeats_are_counted(tmp_path: Path) -> None:
    rows = [("u", item, step) for step, item in enumerate("aabxy")] + [
        ("v", item, step) for step, item in enumerate("bcca")
    ]
    facts = made(tmp_path, rows).manifest.facts
    # train holds a a b and b c; x and y are cold, y the target of u in test and x that in valid
    assert facts == {
        "tied_events": 0,
        "users_whose_last_event_is_tied": 0,
        "cold_items": 2,
        "rows_with_repeats_in_train": 1,
        "cold_targets_in_valid": 1,
        "rows_with_repeats_in_valid": 2,
        "cold_targets_in_test": 1,
        "rows_with_repeats_in_test": 2,
    }


def test_labelled_events_are_counted_by_their_item(tmp_path: Path) -> None:
    rows = [("u", item, step, 1) for step, item in enumerate("aabbc")]
    layout = LabelledEvents(label="label", valid_fraction=0.2, test_fraction=0.2)
    facts = made(tmp_path, rows, "user,item,time,label", layout=layout).manifest.facts
    assert (facts["cold_items"], facts["cold_targets_in_valid"], facts["cold_targets_in_test"]) == (1, 0, 1)


def test_the_report_is_one_whole_page(tmp_path: Path) -> None:
    rows = [(f"u{i % 70}", f"i<{i * i % 40}>", i // 2) for i in range(400)]
    dataset = made(tmp_path, rows)
    page = (dataset.folder / "report.html").read_text()
    root = ElementTree.fromstring(page.partition("\n")[2].replace('<meta charset="utf-8">', ""))
    titles = [heading.text for heading in root.iter("h2")]
    assert titles[:2] == ["Sizes", "Rows of vocabularies, with padding"]
    assert "Lengths in test: mean 5.7, median 6, most 6" in titles
    assert any(
        re.match(r"Popularity: the most frequent 1 of \d+ items have [0-9.]+% of the events", t or "") for t in titles
    )
    assert len(list(root.iter("svg"))) == 4
    assert "http" not in page


def test_a_histogram_has_a_bar_a_number_or_ranges_that_double() -> None:
    assert histogram(np.array([2, 4]), np.array([5, 1])) == (["2", "3", "4"], [5, 0, 1])
    labels, heights = histogram(np.arange(1, 101), np.ones(100, np.int64))
    assert labels == ["1", "2-3", "4-7", "8-15", "16-31", "32-63", "64-127"]
    assert heights == [1, 2, 4, 8, 16, 32, 37]
    assert histogram(np.array([], np.int64), np.array([], np.int64)) == ([], [])


@pytest.mark.parametrize("count", [1, 40])
def test_bars_are_svg_and_the_highest_fills_the_picture(count: int) -> None:
    root = ElementTree.fromstring(bars([str(i) for i in range(count)], list(range(1, count + 1)), "length", "rows"))
    heights = [float(bar.attrib["height"]) for bar in root.iter("rect")]
    assert len(heights) == count
    assert max(heights) == 152
    assert bars([], [], "length", "rows") == ""
