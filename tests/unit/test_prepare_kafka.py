"""Topics of Kafka are read once, message by message. The broker is that which librdkafka brings for tests."""

import json
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sharded_emb.data import kafka
from sharded_emb.data.additions import Added, add_part
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.locations import local_files
from sharded_emb.data.prepare import prepare
from sharded_emb.data.stream import StreamConfig
from sharded_emb.data.work import How, Progress
from sharded_emb.errors import InputError

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the extra [kafka] is not installed")
PARTITIONS = 4  # of a topic, in that broker
QUIET = Progress(None, shown=False)
FIRST = [(user, item, 10 * user + item) for user in range(6) for item in range(5)]
LATER = [(user, 7 - user, 200 + user) for user in range(5)]


class Broker:
    """Takes messages over TCP."""

    def __init__(self) -> None:
        self.producer = confluent_kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": ""})
        broker = next(iter(self.producer.list_topics(timeout=10).brokers.values()))
        self.address = f"{broker.host}:{broker.port}"

    def send(self, topic: str, messages: Iterable[tuple[int, bytes | None]]) -> None:
        """Each with the number of its partition."""
        for partition, value in messages:
            self.producer.produce(topic, value, key=b"k", partition=partition)
        assert self.producer.flush(10) == 0

    def events(self, topic: str, events: Iterable[tuple[int, int, int]]) -> None:
        """Those of a user in one partition."""
        keys = ("user", "item", "time")
        self.send(topic, [(e[0] % PARTITIONS, json.dumps(dict(zip(keys, e, strict=True))).encode()) for e in events])


@pytest.fixture(scope="module")
def broker() -> Broker:
    return Broker()


def files(place: str, folder: Path) -> list[Path]:
    return local_files("dataset.raw", place, folder, QUIET)


def sequences(dataset: Dataset, table: Any) -> list[list[int]]:
    raw = dataset.raw_ids("item").to_pylist()
    return sorted([raw[row] for row in row_list] for row_list in table.column("items").to_pylist())


def test_a_dataset_and_a_stream_have_each_message_once(broker: Broker, tmp_path: Path) -> None:
    broker.events("shop", FIRST)
    log = {"raw": f"kafka://{broker.address}/shop", "downloads": str(tmp_path / "downloads")}
    config = EventLog.model_validate({**log, "min_user_events": 1, "min_item_events": 1})
    prepare(config, tmp_path / "data", seed=0, overwrite=False)
    dataset = Dataset.open(tmp_path / "data")
    train = pq.read_table(tmp_path / "data" / "train")
    assert sequences(dataset, train) == [[0, 1, 2]] * 6

    def add(folder: str = "downloads") -> Added:
        stream = StreamConfig(folder=tmp_path / "stream", context=1)
        there = config.model_copy(update={"downloads": str(tmp_path / folder)})
        return add_part(there, tmp_path / "data", stream, How())

    assert add().part is None
    broker.events("shop", LATER)
    added = add()
    assert (added.samples, added.new) == (5, PARTITIONS)
    assert added.part is not None
    raw = dataset.raw_ids("item").to_pylist()
    new = [raw[row[-1]] for row in pq.read_table(added.part).column("items").to_pylist()]
    assert sorted(item for item in new if item is not None) == [3, 4]  # 5, 6 and 7 are no items of the dataset
    assert add().part is None
    with pytest.raises(InputError, match=r"want messages that were not read yet, got shop-00000-.*put the files"):
        add("elsewhere")


def test_who_reads_a_topic_that_is_being_read_waits_and_goes_on_behind(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.send("busy", [(0, b"first")])
    place, write, others = f"kafka://{broker.address}/busy", kafka._Reader.write, []

    def slowly(*given: Any) -> None:
        if not others:
            broker.send("busy", [(0, b"second")])
            others.append(threading.Thread(target=files, args=(place, tmp_path)))
            others[0].start()
            others[0].join(1)
            assert others[0].is_alive()
        write(*given)

    monkeypatch.setattr(kafka._Reader, "write", slowly)
    files(place, tmp_path)
    others[0].join()
    assert [path.read_bytes() for path in files(place, tmp_path)] == [b"first\n", b"second\n"]


def test_a_file_has_the_messages_of_a_stretch_as_lines(broker: Broker, tmp_path: Path) -> None:
    broker.send("texts", [(1, b'{"a":\n 1}'), (1, None), (0, b"broken"), (1, b'{"a": "x\\ny"}\r\n')])
    place = f"kafka://{broker.address}/texts"
    found = files(place, tmp_path)
    assert [kafka.Stretch.of(path.name) for path in found] == [
        kafka.Stretch("texts", 0, 0, 1),
        kafka.Stretch("texts", 1, 0, 3),
    ]
    assert found[0].read_bytes() == b"broken\n"
    assert [json.loads(line) for line in found[1].read_text().splitlines()] == [{"a": 1}, {"a": "x\ny"}]
    (found[0].parent / "texts-00000-00000000000000000001-00000000000000000002.jsonl.part").write_text("cut o")
    broker.send("texts", [(0, b"{}")])
    assert [path.suffix for path in files(place, tmp_path)] == [".jsonl"] * 3


def test_the_client_is_told_what_a_file_says(broker: Broker, tmp_path: Path) -> None:
    broker.send("told", [(0, b"{}")])
    told, place = tmp_path / "client.yaml", f"kafka://{broker.address}/told?client={tmp_path / 'client.yaml'}"
    told.write_text("fetch.min.bytes: 1\nclient.id: trainer\n")
    assert len(files(place, tmp_path)) == 1
    told.write_text("fetch.mni.bytes: 1\n")
    with pytest.raises(InputError, match=r'got No such configuration property: "fetch.mni.bytes"; check it'):
        files(place, tmp_path)
    told.write_text("- a\n")
    with pytest.raises(InputError, match=r"want keys of librdkafka in .*client.yaml, got list; check it"):
        files(place, tmp_path)
    told.unlink()
    with pytest.raises(InputError, match=r"want YAML for the Kafka client in .*client.yaml, got .*No such file"):
        files(place, tmp_path)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("kafka://host:9092", "want kafka://HOST:PORT/TOPIC or"),
        ("kafka:///shop", "want kafka://HOST:PORT/TOPIC or"),
        ("kafka://host:9092/shop?group=a", "want kafka://HOST:PORT/TOPIC or"),
        ("kafka://{address}/nothing", "got Broker: Unknown topic or partition; check the topic"),
        ("kafka://127.0.0.1:1/shop", "Broker transport failure; check it and your access"),
    ],
)
def test_what_is_not_there_is_an_error(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, said: str
) -> None:
    monkeypatch.setattr(kafka, "TIMEOUT_SECONDS", 2.0)
    with pytest.raises(InputError, match=f"^dataset.raw: .*{said}"):
        files(place.format(address=broker.address), tmp_path)


def test_an_empty_topic_is_an_error(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.send("empty", [(0, b"{}")])
    monkeypatch.setattr(kafka._Reader, "watermarks", lambda *_: (1, 1))  # after all that it had was deleted
    with pytest.raises(InputError, match=r"want messages, got \S*/empty, which has none yet"):
        files(f"kafka://{broker.address}/empty", tmp_path)


def test_messages_that_are_gone_are_not_passed_over(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.send("short", [(0, b"{}")])
    place = f"kafka://{broker.address}/short"
    files(place, tmp_path)
    monkeypatch.setattr(kafka._Reader, "watermarks", lambda *_: (5, 9))
    with pytest.raises(InputError, match="from offset 1 of partition 0 on, got 5 as the first one that is there"):
        files(place, tmp_path)
    monkeypatch.setattr(kafka._Reader, "watermarks", lambda *_: (0, 0))
    with pytest.raises(InputError, match="up to 1 of partition 0, got one that ends at 0"):
        files(place, tmp_path)


def test_the_library_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(InputError, match=r"want a library for kafka://, got none; pip install 'sharded-emb\[kafka\]'"):
        files("kafka://host:9092/shop", tmp_path)


def test_a_stretch_is_whole_or_an_error(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that lags behind, and messages that are deleted once the watermarks are known."""
    monkeypatch.setattr(kafka, "TIMEOUT_SECONDS", 2.0)
    broker.send("lag", [(0, b"{}")] * 5)
    place = f"kafka://{broker.address}/lag"
    for start, said in ((0, "got none for 2 s; run it again"), (100, "ffset out of range")):
        stretch = kafka.Stretch("lag", 0, start, start + 8)
        with (
            pytest.raises(InputError, match=said),
            kafka._reader("dataset.raw", place, {"bootstrap.servers": broker.address}) as reader,
        ):
            reader.write(stretch, tmp_path)
        assert [*tmp_path.iterdir()] == []


def test_a_partition_without_events_does_not_hide_those_of_others(broker: Broker, tmp_path: Path) -> None:
    broker.send("gaps", [(0, None), (1, b"{}")])
    (found,) = files(f"kafka://{broker.address}/gaps", tmp_path)
    assert found.read_bytes() == b"{}\n"
    assert files(f"kafka://{broker.address}/gaps", tmp_path) == [found]
