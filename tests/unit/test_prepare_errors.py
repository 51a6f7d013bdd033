"""What a person can get wrong about raw data and folders: each message begins with the key."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sharded_emb.data import prepare as prepare_module
from sharded_emb.data.atomic import AtomicFiles
from sharded_emb.data.base import DatasetConfig
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.prepare import prepare, problems_of_engine
from sharded_emb.data.sequence_text import SequenceText
from sharded_emb.data.work import EngineConfig
from sharded_emb.errors import InputError


def attempt(config: DatasetConfig, folder: Path, overwrite: bool = False) -> None:
    prepare(config, folder, seed=0, overwrite=overwrite)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "log.txt").write_text("u a b c\nv a b\n")
    return tmp_path / "log.txt"


@pytest.fixture
def atomic(tmp_path: Path) -> Path:
    folder = tmp_path / "atomic"
    folder.mkdir()
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "x.inter").write_text(header + "u\ta\t5\t1\nu\tb\t3\t2\nu\tc\t4\t3\n")
    return folder


@pytest.mark.parametrize("config", [SequenceText(), AtomicFiles(), EventLog()])
def test_no_raw_data_is_named(config: DatasetConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^dataset\.raw: missing; want .*, give it as dataset\.raw=PATH$"):
        attempt(config, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_gets_the_nearest_name(text: Path, tmp_path: Path) -> None:
    assert text.is_file()
    message = r"^dataset\.raw: want a text file .*, got .*logg\.txt, which does not exist; did you mean log\.txt\?$"
    with pytest.raises(InputError, match=message):
        attempt(SequenceText(raw=str(tmp_path / "logg.txt")), tmp_path / "data")


def test_what_leaves_no_event_is_named(atomic: Path, tmp_path: Path) -> None:
    for more, key in (
        ({"keep": {"rating": {"least": 100}}}, "dataset.keep"),
        ({"time_from": 100, "keep": {"rating": {"least": 1}}}, "dataset.keep, dataset.time_from"),
    ):
        config = AtomicFiles.model_validate({"raw": str(atomic), **more})
        with pytest.raises(InputError, match=rf"^{key}: want events of .* that stay, got none; let more stay$"):
            attempt(config, tmp_path / "data")


def test_a_rule_that_leaves_no_id_is_named(atomic: Path, tmp_path: Path) -> None:
    config = AtomicFiles.model_validate({"raw": str(atomic), "vocabularies": {"item": {"min_count": 2}}})
    message = r"^dataset\.vocabularies\.item: want a rule that leaves an id, got .* none of 3; the most .* 1 times$"
    with pytest.raises(InputError, match=message):
        attempt(config, tmp_path / "data")


def test_a_text_may_be_the_one_file_of_a_folder_or_an_archive(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "log.txt").write_text(text.read_text())
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        archive.write(text, "inside/log.txt")
    for raw in (folder, tmp_path / "raw.zip"):
        attempt(SequenceText(raw=str(raw)), tmp_path / f"of {raw.name}")
        assert Dataset.open(tmp_path / f"of {raw.name}").manifest.counts == {"users": 2, "items": 3, "events": 5}
    (folder / "other.txt").touch()
    with pytest.raises(InputError, match=r"^dataset\.raw: want one text file, got .* with 2 files; name one$"):
        attempt(SequenceText(raw=str(folder)), tmp_path / "data")


def test_a_log_without_an_event(text: Path, atomic: Path, tmp_path: Path) -> None:
    (atomic / "x.inter").write_text((atomic / "x.inter").read_text().splitlines()[0] + "\n")
    text.write_text("")
    filtered = SequenceText(raw=str(text), min_user_events=5)
    for config, raw in ((SequenceText(raw=str(text)), text), (filtered, text), (AtomicFiles(raw=str(atomic)), atomic)):
        with pytest.raises(InputError) as caught:
            attempt(config, tmp_path / "data")
        assert caught.value.problems == [f"dataset.raw: want events, got none in {raw}; give a log that holds some"]
    assert {*tmp_path.iterdir()} == {text, atomic}


def test_a_filter_that_leaves_nothing(text: Path, tmp_path: Path) -> None:
    message = r"^dataset\.min_user_events: want users and items with enough events, got none left with 9 a user "
    with pytest.raises(InputError, match=message):
        attempt(SequenceText(raw=str(text), min_user_events=9), tmp_path / "data")
    assert list(tmp_path.iterdir()) == [text]


def test_a_folder_without_inter_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^dataset\.raw: want a folder with NAME\.inter, got .* with none; "):
        attempt(AtomicFiles(raw=str(tmp_path)), tmp_path / "data")


def test_all_missing_columns_are_named_at_once(atomic: Path, tmp_path: Path) -> None:
    config = AtomicFiles(raw=str(atomic), user="user", time="timestmp")
    with pytest.raises(InputError) as caught:
        attempt(config, tmp_path / "data")
    assert caught.value.problems == [
        "dataset.user: want a column of x.inter, got 'user'; did you mean user_id?",
        "dataset.time: want a column of x.inter, got 'timestmp'; did you mean timestamp?",
    ]


def test_a_header_without_types(atomic: Path, tmp_path: Path) -> None:
    (atomic / "x.inter").write_text("user_id\titem_id:tokn\n1\t2\n")
    with pytest.raises(InputError) as caught:
        attempt(AtomicFiles(raw=str(atomic)), tmp_path / "data")
    want = "dataset.raw: want a header of tab-separated name:type in x.inter"
    assert caught.value.problems == [
        f"{want}, got 'user_id'; types are token, float, token_seq, float_seq",
        f"{want}, got 'item_id:tokn'; did you mean token?",
    ]


def test_an_attribute_without_its_table(atomic: Path, tmp_path: Path) -> None:
    config = AtomicFiles.model_validate({"raw": str(atomic), "attributes": {"age": {"of": "user"}}})
    message = r"^dataset\.raw: want x\.user beside x\.inter, got none, but dataset\.attributes\.age\.column reads it; "
    with pytest.raises(InputError, match=message):
        attempt(config, tmp_path / "data")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u,d,soon", r"^dataset\.time: want a number below 2\^62 or a date, got 'soon' in line 3 of log\.csv$"),
        ("u,d,", r"^dataset\.time: want a number below 2\^62 or a date, got none in line 3 of log\.csv$"),
        (
            "u,d,4611686018427387904",
            r"^dataset\.time: want a number below 2\^62 or a date, got '4611686018427387904' in",
        ),
        ("u,d,nan", r"^dataset\.time: want a number below 2\^62 or a date, got 'nan' in line 3 of log\.csv$"),
        ("u,,5", r"^dataset\.raw: want the item of each event, got none in line 3 of log\.csv$"),
        ("u,d", r"^dataset\.raw: want csv of 3 columns, got 'u,d' \(Expected .*\) in line 3 of log\.csv$"),
        ("u,d,5,6", r"^dataset\.raw: want csv of 3 columns, got 'u,d,5,6' \(Expected .*\) in line 3 of log\.csv$"),
    ],
)
def test_a_bad_line_of_an_event_log(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"user,item,time\nu,a,1\n{line}\nu,b,2\n")
    with pytest.raises(InputError) as caught:
        attempt(EventLog(raw=str(tmp_path / "log.csv")), tmp_path / "data")
    first, how_many = caught.value.problems
    assert re.search(message, first)
    assert how_many.startswith("dataset.max_bad_rows: want at most 0 malformed rows, got 1 row; mend them, or raise it")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("u a b\nv\n", r"^dataset\.raw: want `user item item \.\.\.`, got 'v' alone in line 2 of log\.txt\n"),
        ("u a\nv b\nu c\n", r"^dataset\.raw: want each user on one line of .*, got user u again in line 3; "),
    ],
)
def test_a_bad_line_of_sequence_text(lines: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(lines)
    with pytest.raises(InputError, match=message):
        attempt(SequenceText(raw=str(tmp_path / "log.txt")), tmp_path / "data")


def test_a_label_that_the_source_has_not(text: Path, tmp_path: Path) -> None:
    layout = {"_target_": "sharded_emb.data.layouts.labelled_events.LabelledEvents", "label": "rating"}
    config = SequenceText.model_validate({"raw": str(text), "layout": layout})
    with pytest.raises(InputError, match=r"^dataset\.layout\.label: want .* got 'rating'; there are: item, user"):
        attempt(config, tmp_path / "data")


def test_an_existing_dataset_is_kept_unless_overwrite(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    attempt(SequenceText(raw=str(text)), folder)
    before = (folder / "manifest.yaml").read_text()
    with pytest.raises(InputError, match=r"^data: want a new folder, got .*, which holds a dataset; overwrite=true "):
        attempt(SequenceText(raw=str(text)), folder)
    text.write_text("w a b c d\n")
    attempt(SequenceText(raw=str(text)), folder, overwrite=True)
    assert (folder / "manifest.yaml").read_text() != before
    written = ["manifest.yaml", "report.html", "test", "train", "valid", "vocabulary"]
    assert sorted(entry.name for entry in folder.iterdir()) == written
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "log.txt"]


def test_nothing_but_a_dataset_is_ever_replaced(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    with pytest.raises(
        InputError, match=r"^data: want a dataset folder or a new one, got .*, which exists and is none"
    ):
        attempt(SequenceText(raw=str(text)), folder, overwrite=True)
    attempt(SequenceText(raw=str(text)), tmp_path / "data")
    (tmp_path / "data" / "runs").mkdir()
    with pytest.raises(InputError, match=r"^data: want nothing but a dataset to overwrite, got runs in .* too; "):
        attempt(SequenceText(raw=str(text)), tmp_path / "data", overwrite=True)
    assert (folder / "chapter.txt").read_text() == "years of work"


def test_a_place_that_cannot_be_written(text: Path) -> None:
    with pytest.raises(InputError, match=r"^data: want a place to write to, got .*log\.txt.data: .*; choose another$"):
        attempt(SequenceText(raw=str(text)), text / "data")


def test_a_crash_leaves_nothing_and_keeps_the_old_dataset(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise RuntimeError("the disk is gone")

    folder = tmp_path / "data"
    attempt(SequenceText(raw=str(text)), folder)
    before = (folder / "manifest.yaml").read_text()
    monkeypatch.setattr(prepare_module, "write_manifest", crash)
    for target, overwrite in ((folder, True), (tmp_path / "new", False)):
        with pytest.raises(RuntimeError, match="the disk is gone"):
            attempt(SequenceText(raw=str(text)), target, overwrite=overwrite)
    assert (folder / "manifest.yaml").read_text() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "log.txt"]


@pytest.mark.parametrize("rename", [0, 1])
def test_a_kill_while_a_dataset_takes_the_name_of_another_loses_neither(
    rename: int, text: Path, tmp_path: Path
) -> None:
    folder, old = tmp_path / "data", tmp_path / ".data.old"
    attempt(SequenceText(raw=str(text)), folder)
    before = (folder / "manifest.yaml").read_text()
    text.write_text("w a b c d\n")
    _killed_at(rename, text, folder)
    if rename:
        with pytest.raises(
            InputError, match=r"^data: want a dataset .*/data, which a prepare that was killed has moved to .*; move "
        ):
            Dataset.open(folder)
    with pytest.raises(InputError, match=r"^data: want a new folder, got .*, which holds a dataset; overwrite=true "):
        attempt(SequenceText(raw=str(text)), folder)
    assert (folder / "manifest.yaml").read_text() == before
    attempt(SequenceText(raw=str(text)), folder, overwrite=True)
    assert not old.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "log.txt"]
    assert Dataset.open(folder).manifest.counts["users"] == 1


def test_a_folder_that_is_no_dataset_is_not_put_in_the_place_of_one(text: Path, tmp_path: Path) -> None:
    (tmp_path / ".data.old").mkdir()
    (tmp_path / ".data.old" / "chapter.txt").write_text("years of work")
    attempt(SequenceText(raw=str(text)), tmp_path / "data")
    assert (tmp_path / ".data.old" / "chapter.txt").read_text() == "years of work"


_KILLED_AT = """
import os, sys
from pathlib import Path
from sharded_emb.data import prepare as module
from sharded_emb.data.sequence_text import SequenceText

left, rename = [int(sys.argv[3])], Path.rename

def killed(self, target):
    if Path(sys.argv[2]) in (self, Path(target)):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
    return rename(self, target)

Path.rename = killed
module.prepare(SequenceText(raw=sys.argv[1]), Path(sys.argv[2]), seed=0, overwrite=True)
"""


def _killed_at(rename: int, text: Path, folder: Path) -> None:
    """An overwriting prepare that ends before so many of its renames of the folder."""
    command = [sys.executable, "-c", _KILLED_AT, str(text), str(folder), str(rename)]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, timeout=120, check=False)
    assert ran.returncode == 9


_KILLED = """
import sys, time
from pathlib import Path
from sharded_emb.data import prepare as module
from sharded_emb.data.sequence_text import SequenceText

def wait(*_):
    print("writing", flush=True)
    time.sleep(60)

module.write_manifest = wait
module.prepare(SequenceText(raw=sys.argv[1]), Path(sys.argv[2]), seed=0, overwrite=False)
"""


def test_a_killed_prepare_leaves_no_folder_and_the_next_one_cleans_up(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    command = [sys.executable, "-c", _KILLED, str(text), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    with pytest.raises(InputError, match=r"^data: want .* for itself, got another prepare that writes it; "):
        attempt(SequenceText(raw=str(text)), folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.05)
    assert not folder.exists()
    attempt(SequenceText(raw=str(text)), folder)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "log.txt"]


FULL = "Out of Memory Error: failed to offload data block\nThis limit was set by the 'max_temp_directory_size' setting."


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            duckdb.OutOfMemoryException("Out of Memory Error: no block"),
            "prepare.memory_limit: want enough for this log, ",
        ),
        (
            duckdb.OutOfMemoryException(FULL),
            "prepare.temp: want room to spill to, got Out of Memory Error: failed to off",
        ),
        (
            duckdb.IOException("IO Error: no folder"),
            "prepare.temp: want room to spill to, got IO Error: no folder; name",
        ),
        (OSError(errno.ENOSPC, "No space left"), "data: want room for the dataset, got a disk that is full; choose"),
    ],
)
def test_too_little_memory_or_disk_is_named_by_its_key(error: Exception, says: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(says)}"), problems_of_engine(EngineConfig()):
        raise error


def test_other_errors_of_the_system_stay_what_they_are() -> None:
    with pytest.raises(PermissionError), problems_of_engine(EngineConfig()):
        raise PermissionError(errno.EACCES, "not yours")
