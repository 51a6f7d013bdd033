"""`report.html` of a run: one page of all that its files say, as a browser shows it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sharded_emb.training.run_charts import curves, stacks
from sharded_emb.training.run_page import write_page

VALID = {"ndcg@10": 0.2, "hit_rate@10": 0.4, "recall@10": 0.4}
RESULT: dict[str, Any] = {
    "status": "finished",
    "seconds": 12.0,
    "steps": 1200,
    "peak_memory_bytes": 7 * 10**8,
    "metrics": {"valid": VALID, "test": {"ndcg@10": 0.1875, "hit_rate@10": 0.4}, "test_unfiltered": {"ndcg@10": None}},
    "protocol": {"test": {"ranked": "all items", "seen_items": "removed"}},
    "memory": {
        "predicted_table_bytes_by_rank": [10**6, 10**6],
        "bytes_before_tables_by_rank": [5 * 10**8, 4 * 10**8],
        "bytes_with_tables_by_rank": [6 * 10**8, 5 * 10**8],
        "peak_bytes_by_rank": [7 * 10**8, 6 * 10**8],
    },
    "times": {
        "predicted": {"lookup_seconds_by_rank": [0.001, 0.002], "communication_seconds_by_rank": [0.003, 0.004]},
        "measured": {
            "steps": 5,
            "step_seconds": 0.04,
            "lookup_seconds_by_rank": [0.001, 0.001],
            "communication_seconds_by_rank": [0.002, 0.002],
            "phase_seconds_by_rank": [
                {"lookup": 0.01, "vector_exchange": 0.03},
                {"lookup": 0.02, "vector_exchange": 0.01},
            ],
        },
    },
}
TABLE = {"rows": 761, "dim": 64, "dtype": "fp32", "sharding": "row_wise", "kernel": None, "update": "sparse"}
PLAN = {
    "world_size": 2,
    "ranks_per_host": 2,
    "device": "cpu",
    "tables": {
        "<item>": {**TABLE, "shards": [{"rank": 0}, {"rank": 1}], "weight_bytes": 8000, "optimizer_state_bytes": 0}
    },
}


def made(folder: Path) -> Path:
    """A run folder with the files that a page is made of."""
    run = folder / "a <run>"
    run.mkdir()
    lines: list[dict[str, Any]] = [
        {"step": s, "split": "train", "loss": 8 / s, "lr_factor": 1.0} for s in range(1, 1201)
    ]
    lines += [{"step": s, "split": "valid", "ndcg@10": s / 6000 if s < 900 else None} for s in range(100, 1201, 100)]
    evaluated = {
        "metrics": {name: RESULT["metrics"][name] for name in ("test", "test_unfiltered")},
        "protocol": RESULT["protocol"],
        "baselines": {"popularity": {"test": {"ndcg@10": 0.0625}}},
        "best_reachable": {"test": {"ndcg@10": 0.5}},
    }
    for name, text in {
        "metrics.jsonl": "\n".join(map(json.dumps, lines)),
        "result.json": json.dumps(RESULT),
        "plan.json": json.dumps(PLAN),
        "plan.svg": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 90"><text y="20">picture</text></svg>',
        "evaluation_test.json": json.dumps(evaluated),
        "run.yaml": "name: <quick> & co\n",
    }.items():
        (run / name).write_text(text)
    write_page(run)
    return run / "report.html"


def parsed(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.partition("\n")[2].replace('<meta charset="utf-8">', ""))


def cells(table: ElementTree.Element) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]


def test_the_page_has_everything_of_a_run_and_fetches_nothing(tmp_path: Path) -> None:
    page = made(tmp_path).read_text()
    root = parsed(page)
    assert [heading.text for heading in root.iter("h2")] == [
        "Result on valid",
        "Result on test",
        "Result on test, unfiltered",
        "Curves",
        "Plan",
        "Time of a step by phase",
        "Memory",
        "Configuration",
    ]
    tables = [cells(table) for table in root.iter("table")]
    assert ["peak memory of a rank", "700 MB"] in tables[0]
    assert tables[2] == [
        ["", "ndcg@10", "hit_rate@10"],
        ["this run", "0.1875", "0.4000"],
        ["popularity", "0.0625", ""],
        ["best reachable", "0.5000", ""],
    ]
    assert tables[4][1] == ["<item>", "761", "64", "fp32", "row_wise", "sparse", "2", "8 kB", "0 B"]
    assert tables[5][1:] == [["lookup", "2 ms", "1 ms"], ["communication", "4 ms", "2 ms"]]
    assert not re.search("http|src=|<script|<link|@import|url\\(", page)


def test_what_stands_side_by_side_was_said_at_one_time(tmp_path: Path) -> None:
    run = made(tmp_path).parent
    evaluated, ended = run / "evaluation_test.json", run / "result.json"
    protocol = {"test": {"scores": "the model's + counts"}}
    more = {"metrics": {"test": {"ndcg@10": 0.25}}, "protocol": protocol}
    evaluated.write_text(json.dumps({**json.loads(evaluated.read_text()), **more}))

    def shown() -> list[list[str]]:
        write_page(run)
        root = parsed((run / "report.html").read_text())
        return cells([*root.iter("table")][2])

    os.utime(ended, (1000, 1000))
    os.utime(evaluated, (2000, 2000))
    assert shown() == [["", "ndcg@10"], ["this run", "0.2500"], ["popularity", "0.0625"], ["best reachable", "0.5000"]]
    assert "counts" in (run / "report.html").read_text()
    os.utime(ended, (3000, 3000))  # the run went on
    assert shown() == [["", "ndcg@10", "hit_rate@10"], ["this run", "0.1875", "0.4000"]]
    assert "counts" not in (run / "report.html").read_text()


def test_a_page_is_made_without_a_file_that_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "result.json").write_text("{")
    write_page(tmp_path)
    assert "under way" in (tmp_path / "report.html").read_text()
    assert f"report.html: want JSON in {tmp_path}/result.json, got something else" in caplog.text


def test_a_page_of_a_run_that_has_only_begun_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: x\n")
    write_page(tmp_path)
    root = parsed((tmp_path / "report.html").read_text())
    assert [heading.text for heading in root.iter("h2")] == ["Configuration"]
    assert cells(next(root.iter("table"))) == [["status", "under way"]]


def test_curves_span_their_axes_and_many_points_become_means() -> None:
    root = ElementTree.fromstring(curves({"a": [(0, 1.0), (10, 3.0)], "b": [(5, 2.0)]}, "step", "loss"))
    assert [line.attrib["points"] for line in root.iter("polyline")] == ["64.0,140.0 632.0,22.0"]
    many = ElementTree.fromstring(curves({"a": [(x, float(x % 2)) for x in range(8000)]}, "step", "loss"))
    points = next(many.iter("polyline")).attrib["points"].split()
    assert len(points) == 400
    assert len({point.partition(",")[2] for point in points}) == 1
    assert curves({"a": [(0, 1.0)]}, "step", "loss") == ""


def test_the_longest_stack_fills_the_picture_and_parts_are_in_proportion() -> None:
    root = ElementTree.fromstring(stacks({"rank 0": {"x": 1.0, "y": 3.0}, "rank 1": {"x": 2.0}}, str))
    widths = [float(rect.attrib["width"]) for rect in root.iter("rect") if rect.attrib["height"] == "14"]
    assert widths[1] == pytest.approx(3 * widths[0], abs=0.2)
    assert widths[2] == pytest.approx(2 * widths[0], abs=0.2)
    assert stacks({"rank 0": {"x": 0.0}}, str) == ""


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# what a person would see as broken: text that leaves its picture, pictures of no size, a page wider than the window
LOOK = """<script>
const broken = [];
for (const svg of document.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect();
    if (frame.width < 100 || frame.height < 20) broken.push("small picture");
    for (const text of svg.querySelectorAll("text")) {
        const at = text.getBoundingClientRect();
        const inside = at.left > frame.left - 1 && at.right < frame.right + 1 && at.bottom < frame.bottom + 1;
        if (!inside) broken.push(text.textContent);
    }
}
if (document.documentElement.scrollWidth > window.innerWidth) broken.push("wide page");
document.title = JSON.stringify({broken, pictures: document.querySelectorAll("svg").length});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_shows_all_of_the_page(tmp_path: Path, width: int) -> None:
    assert BROWSER is not None
    page = made(tmp_path)
    looked = tmp_path / "looked.html"
    looked.write_text(page.read_text().replace("</body>", f"{LOOK}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [BROWSER, *options, f"--window-size={width},900", "--dump-dom", looked.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search("<title>(.*?)</title>", done.stdout)
    assert found is not None
    assert json.loads(found[1]) == {"broken": [], "pictures": 6}
