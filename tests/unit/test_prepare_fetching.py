"""Raw data from the web and from object storage: resumed, checked, and clear about what is missing."""

import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from sharded_emb.data import download
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.locations import local_files
from sharded_emb.data.prepare import prepare
from sharded_emb.data.work import Progress
from sharded_emb.errors import InputError

LOG = b"user,item,time\n" + b"".join(b"u%d,i%d,%d\n" % (i % 50, i * 7 % 31, i) for i in range(4000))


class Server(http.server.ThreadingHTTPServer):
    """Serves LOG as any path. cut_after: bytes after which an answer breaks off, once for each in the list. failures:
    codes to answer with first, 0 for none. gate: what has to be set before the rest of an answer comes.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.tag, self.ranges = LOG, '"one"', True
        self.cut_after: list[int] = []
        self.failures: list[int] = []
        self.asked: list[str | None] = []
        self.gate = threading.Event()
        self.gate.set()

    def url(self, path: str = "log.csv") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        if self.server.failures and (code := self.server.failures.pop(0)):
            self.send_error(code)
            return
        body, start = self.server.body, 0
        wanted = self.headers.get("Range")
        if wanted and self.server.ranges and self.headers.get("If-Range") == self.server.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("ETag", self.server.tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + self.server.cut_after.pop(0) if self.server.cut_after else len(body)
        self.wfile.write(body[start : start + 1000])
        self.wfile.flush()
        self.server.gate.wait()
        self.wfile.write(body[start + 1000 : end])

    def log_message(self, *_: Any) -> None:
        """Not on the terminal."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "WAIT_SECONDS", 0.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def made(raw: str, folder: Path, **more: Any) -> Dataset:
    config = EventLog.model_validate({"raw": raw, "downloads": str(folder.parent / "downloads"), **more})
    prepare(config, folder, seed=0, overwrite=False)
    return Dataset.open(folder)


def test_a_log_from_a_url_is_that_of_its_file_and_is_fetched_once(server: Server, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(LOG)
    local = made(str(tmp_path / "log.csv"), tmp_path / "local")
    one = made(server.url(), tmp_path / "one", sha256=hashlib.sha256(LOG).hexdigest())
    made(server.url(), tmp_path / "two")
    assert one.split("test").equals(local.split("test"))
    assert one.manifest.source == local.manifest.source
    assert server.asked == [None]


def test_a_download_that_breaks_off_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cut_after = [10_000, 5_000]
    dataset = made(server.url(), tmp_path / "data", sha256=hashlib.sha256(LOG).hexdigest())
    assert server.asked == [None, "bytes=10000-", "bytes=15000-"]
    assert dataset.manifest.counts["events"] == 4000


def test_a_later_prepare_goes_on_too_and_nothing_is_left_half(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TRIES", 1)
    server.cut_after = [10_000]
    message = r"^dataset\.raw: want http://.*, got 10,000 of [0-9,]+ bytes; run it again to go on behind 10,000 bytes$"
    with pytest.raises(InputError, match=message):
        made(server.url(), tmp_path / "data")
    [folder] = (tmp_path / "downloads").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == ["log.csv.part", "log.csv.part.json"]
    made(server.url(), tmp_path / "data")
    assert server.asked[1] == "bytes=10000-"
    assert [file.name for file in folder.iterdir()] == ["log.csv"]
    assert (folder / "log.csv").read_bytes() == LOG


def test_another_version_of_the_file_comes_whole(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TRIES", 1)
    server.cut_after = [10_000]
    with pytest.raises(InputError):
        made(server.url(), tmp_path / "data")
    server.body, server.tag = LOG.replace(b"u1,", b"w1,"), '"two"'
    dataset = made(server.url(), tmp_path / "data", sha256=hashlib.sha256(server.body).hexdigest())
    assert "w1" in dataset.raw_ids("user").to_pylist()


def test_a_server_without_ranges_and_one_that_fails_at_first(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut_after, server.failures = False, [10_000], [503]
    made(server.url(), tmp_path / "data", sha256=hashlib.sha256(LOG).hexdigest())
    assert server.asked == [None, None, "bytes=10000-"]


def test_what_a_server_refuses_is_an_error_at_once(server: Server, tmp_path: Path) -> None:
    server.failures = [404] * 9
    with pytest.raises(InputError, match=r"^dataset\.raw: want http://.*/gone\.csv, got HTTP 404 Not Found; check it$"):
        made(server.url("gone.csv"), tmp_path / "data")
    assert len(server.asked) == 1


def test_a_rest_that_a_server_refuses_is_fetched_anew_or_an_error(server: Server, tmp_path: Path) -> None:
    server.cut_after, server.failures = [5000] * 4, [0, 0, 0, 0, 416]
    with pytest.raises(
        InputError, match=r"^dataset\.raw: want http://.*, got HTTP 416 Requested Range Not Satisfiable;"
    ):
        made(server.url(), tmp_path / "data")
    server.cut_after, server.failures = [5000], [0, 416]  # the part is of another file
    made(server.url(), tmp_path / "data", sha256=hashlib.sha256(LOG).hexdigest())
    assert server.asked[-3:] == [None, "bytes=5000-", None]


def test_what_a_kill_has_cut_off_of_the_notes_on_a_download_is_fetched_anew(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TRIES", 1)
    server.cut_after = [10_000]
    with pytest.raises(InputError):
        made(server.url(), tmp_path / "data")
    [notes] = (tmp_path / "downloads").rglob("*.json")
    notes.write_text("")
    made(server.url(), tmp_path / "data", sha256=hashlib.sha256(LOG).hexdigest())


@pytest.mark.parametrize("place", ["url", "object"])
def test_two_that_want_one_file_fetch_it_once(
    place: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, found = Progress(None, shown=False), list[Path]()
    if place == "object":
        memory = fsspec.filesystem("memory")
        memory.pipe({"/shared/log.csv": LOG})
        opened = memory.open

        def open_late(*given: Any, **named: Any) -> Any:
            server.asked.append(None)
            server.gate.wait()
            return opened(*given, **named)

        monkeypatch.setattr(type(memory), "open", lambda _, *given, **named: open_late(*given, **named))
    raw = server.url() if place == "url" else "memory://shared/log.csv"
    server.gate.clear()
    threads = [
        threading.Thread(target=lambda: found.extend(local_files("dataset.raw", raw, tmp_path, progress)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    server.gate.set()
    for thread in threads:
        thread.join()
    assert [file.read_bytes() == LOG for file in found] == [True] * 3
    assert len(server.asked) == 1
    assert [file.name for file in found[0].parent.iterdir()] == ["log.csv"]


def test_another_hash_is_an_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=rf"^dataset\.sha256: want {'0' * 64} of .*, got [0-9a-f]{{64}}; delete the file"
    ):
        made(server.url(), tmp_path / "data", sha256="0" * 64)
    assert not (tmp_path / "data").exists()


def test_objects_are_read_by_fsspec_one_or_many(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    head, *lines = LOG.splitlines(keepends=True)
    memory.pipe({"/logs/1.csv": head + b"".join(lines[:1500]), "/logs/2.csv": head + b"".join(lines[1500:])})
    memory.pipe({"/whole/log.csv": LOG})
    whole = made("memory://whole/log.csv", tmp_path / "whole")
    for name, place in (("pattern", "memory://logs/*.csv"), ("folder", "memory://logs")):
        assert made(place, tmp_path / name).split("test").equals(whole.split("test"))
    with pytest.raises(
        InputError, match=r"^dataset\.raw: want objects, got memory://none/\*\.csv, which nothing matches"
    ):
        made("memory://none/*.csv", tmp_path / "none")
    with pytest.raises(InputError, match=r"^dataset\.raw: want memory://none/log\.csv, got FileNotFoundError: "):
        made("memory://none/log.csv", tmp_path / "none")


@pytest.mark.parametrize(("protocol", "extra", "library"), [("s3", "s3", "s3fs"), ("gs", "gcs", "gcsfs")])
def test_a_missing_library_is_named_with_what_installs_it(
    protocol: str, extra: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)  # as where it is not installed
    message = (
        rf"^dataset\.raw: want a library for {protocol}://, got none \(.*\); pip install 'sharded-emb\[{extra}\]'$"
    )
    with pytest.raises(InputError, match=message):
        made(f"{protocol}://bucket/log.csv", tmp_path / "data")


def test_a_protocol_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^dataset\.raw: want a URL that fsspec knows, got wonder://a/log\.csv: "):
        made("wonder://a/log.csv", tmp_path / "data")


def test_patterns_and_lists_of_files_are_read_in_their_order(tmp_path: Path) -> None:
    head, *lines = LOG.splitlines(keepends=True)
    for name, part in (("a1.csv", lines[:1000]), ("a2.csv", lines[1000:2000]), ("b.csv", lines[2000:])):
        (tmp_path / name).write_bytes(head + b"".join(part))
    (tmp_path / "log.csv").write_bytes(LOG)
    whole = made(str(tmp_path / "log.csv"), tmp_path / "whole")
    config = EventLog(raw=[str(tmp_path / "a*.csv"), str(tmp_path / "b.csv")])
    prepare(config, tmp_path / "listed", seed=0, overwrite=False)
    assert Dataset.open(tmp_path / "listed").split("test").equals(whole.split("test"))
    with pytest.raises(InputError, match=r"^dataset\.raw: want files, got .*c\*\.csv, which none matches; "):
        made(str(tmp_path / "c*.csv"), tmp_path / "none")
