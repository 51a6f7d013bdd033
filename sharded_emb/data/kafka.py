"""Topics of Kafka as files of a log: the messages of each partition between two offsets, one a line.

    TOPIC-PARTITION-FROM-TO.jsonl       from the offset FROM on, and below TO

A topic is read from where the files that are there end, to what it holds when the reading begins. Files come whole, by
a rename, and stay as they are: what was read twice because a process was killed is the same file.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml

from sharded_emb.data.download import fetching
from sharded_emb.data.work import Progress
from sharded_emb.errors import InputError
from sharded_emb.replacing import replacing

SCHEME = "kafka://"
TIMEOUT_SECONDS = 30.0
_DIGITS = 20  # of an offset, so that names sort as offsets do
_NAME = re.compile(rf"(?P<topic>.+)-(?P<partition>\d{{5}})-(?P<start>\d{{{_DIGITS}}})-(?P<end>\d{{{_DIGITS}}})\.jsonl")
_OURS = {  # no group is joined, and what is gone is an error
    "group.id": "sharded-emb",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
}


@dataclass(frozen=True, order=True)
class Stretch:
    """Messages of a partition: from the offset `start` on, and below `end`."""

    topic: str
    partition: int
    start: int
    end: int

    @classmethod
    def of(cls, name: str) -> "Stretch | None":
        """That a file of this name has; None for other names."""
        match = _NAME.fullmatch(name)
        return match and cls(match["topic"], int(match["partition"]), int(match["start"]), int(match["end"]))

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.topic}-{self.partition:05}-{self.start:0{_DIGITS}}-{self.end:0{_DIGITS}}.jsonl"

    def meets(self, other: "Stretch") -> bool:
        """Whether they have a message in common."""
        same = (self.topic, self.partition) == (other.topic, other.partition)
        return same and self.start < other.end and other.start < self.end


def require_new(new: Iterable[str], known: Iterable[str]) -> None:
    """Raises InputError for a file whose messages a known one has as well: they would be events twice."""
    before = [stretch for name in known if (stretch := Stretch.of(name))]
    for name in new:
        stretch = Stretch.of(name)
        for other in before if stretch else ():
            if stretch is not None and stretch.meets(other):
                raise InputError(
                    f"dataset.raw: want messages that were not read yet, got {name}, and {other.name} was; name the "
                    "brokers and dataset.downloads as before, or put the files that were read back there"
                )


def topic_files(key: str, place: str, folder: Path, progress: Progress) -> list[Path]:
    """The files of kafka://HOST:PORT,.../TOPIC?client=FILE with all that the topic has now, in the order of partitions
    and offsets. FILE: YAML with keys of librdkafka, such as security.protocol.

    Raises InputError on `key` for a topic that is not there or empty, and where messages were deleted unread.
    """
    brokers, topic, client = _parsed(key, place)
    with (
        _reader(key, place, {**client, "bootstrap.servers": brokers}) as reader,
        fetching(folder / topic, progress),  # two at once would write files that overlap
        progress.step(f"reading {place}"),
    ):
        have: dict[int, int] = {}
        for stretch in _stretches(folder):
            have[stretch.partition] = max(stretch.end, have.get(stretch.partition, 0))
        for partition in reader.partitions(topic):
            first, end = reader.watermarks(topic, partition)
            start = have.get(partition, first)
            if start < first:
                raise InputError(
                    f"{key}: want the messages of {place} from offset {start} of partition {partition} on, got {first} "
                    f"as the first one that is there; prepare the dataset anew, with another dataset.downloads"
                )
            if start > end:
                raise InputError(
                    f"{key}: want the topic whose messages are in {folder}, up to {start} of partition {partition}, "
                    f"got one that ends at {end}; use another dataset.downloads"
                )
            if start < end:
                reader.write(Stretch(topic, partition, start, end), folder)
    found = [folder / stretch.name for stretch in sorted(_stretches(folder))]
    if not (with_events := [path for path in found if path.stat().st_size]):
        raise InputError(f"{key}: want messages, got {place}, which has none yet; run it again when it has some")
    return with_events


def _stretches(folder: Path) -> list[Stretch]:
    there = folder.iterdir() if folder.is_dir() else ()
    return [stretch for path in there if (stretch := Stretch.of(path.name))]


def _parsed(key: str, place: str) -> tuple[str, str, dict[str, Any]]:
    """Brokers, topic, and what the client is told."""
    url = urlparse(place)
    topic, query = url.path.strip("/"), parse_qs(url.query)
    if not url.netloc or not re.fullmatch(r"[\w.-]+", topic) or not query.keys() <= {"client"}:
        raise InputError(f"{key}: want kafka://HOST:PORT/TOPIC or ...?client=FILE, got {place}; check it")
    if "client" not in query:
        return url.netloc, topic, {}
    file = Path(query["client"][-1]).expanduser()
    try:
        client = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{key}: want YAML for the Kafka client in {file}, got {error}; check it") from error
    if not isinstance(client, dict):
        raise InputError(f"{key}: want keys of librdkafka in {file}, got {type(client).__name__}; check it")
    return url.netloc, topic, client


@contextmanager
def _reader(key: str, place: str, client: Mapping[str, Any]) -> Iterator["_Reader"]:
    """Raises InputError on `key` for whatever Kafka says."""
    try:
        from confluent_kafka import Consumer, KafkaException
    except ImportError as error:
        raise InputError(f"{key}: want a library for kafka://, got none; pip install 'sharded-emb[kafka]'") from error
    quiet = logging.getLogger("sharded_emb.kafka")  # librdkafka tells of each try to connect
    quiet.setLevel(logging.CRITICAL)
    try:
        consumer = Consumer({**client, **_OURS}, logger=quiet)
    except KafkaException as error:
        raise InputError(f"{key}: want a Kafka client for {place}, got {error.args[0].str()}; check it") from error
    try:
        yield _Reader(consumer, key, place)
    except KafkaException as error:
        raise InputError(f"{key}: want {place}, got {error.args[0].str()}; check it and your access") from error
    finally:
        consumer.close()


@dataclass(frozen=True)
class _Reader:
    """Asks a broker. consumer: a confluent_kafka.Consumer."""

    consumer: Any
    key: str
    place: str

    def partitions(self, topic: str) -> list[int]:
        """Of a topic. Raises InputError if there is none."""
        listed = self.consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic]
        if listed.error is not None:
            raise InputError(f"{self.key}: want {self.place}, got {listed.error.str()}; check the topic")
        return sorted(listed.partitions)

    def watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset that is there, and the one that the next message will have."""
        from confluent_kafka import TopicPartition

        first, end = self.consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS)
        return first, end

    def write(self, stretch: Stretch, folder: Path) -> None:
        """The file of a stretch. A message without a value, which deletes a key, is no event."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / stretch.name, writer=str(os.getpid())) as part, part.open("wb") as file:
                for value in self._values(stretch):
                    # a line break of JSON is a space, and one within a text is written \n
                    file.write(value.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")
        except OSError as error:
            raise InputError(f"dataset.downloads: want a folder to write to, got {folder}: {error.strerror}") from error

    def _values(self, stretch: Stretch) -> Iterator[bytes]:
        """Some offsets may be no messages: those of transactions, and what compaction took."""
        from confluent_kafka import KafkaError, KafkaException, TopicPartition

        self.consumer.assign([TopicPartition(stretch.topic, stretch.partition, stretch.start)])
        while True:
            message = self.consumer.poll(TIMEOUT_SECONDS)
            if message is None:
                raise InputError(
                    f"{self.key}: want the messages of {self.place}, got none for {TIMEOUT_SECONDS:.0f} s; run it again"
                )
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if message.offset() >= stretch.end:
                return
            if error is not None:
                continue  # a broker that lags behind the one that was asked for the end
            if message.value() is not None:
                yield message.value()
            if message.offset() == stretch.end - 1:
                return
