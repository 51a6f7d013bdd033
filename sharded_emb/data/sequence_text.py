"""Sequence text: one file, one user a line, `user item item ...`, oldest first."""

import json
from pathlib import Path
from typing import Any, ClassVar

import ibis
import pyarrow as pa

from sharded_emb.data.base import RAW, Attribute, LogConfig, RawLog, require_columns
from sharded_emb.data.tabular import load_lines
from sharded_emb.errors import InputError

_ATTRIBUTES = "attributes"


class SequenceText(LogConfig):
    """One line a user: `user item item ...`, separated by spaces, oldest first; there are no times.

    item_attributes: a JSON file, item -> list of values, read as the attribute (and vocabulary) `attribute` of items.
    """

    paths: ClassVar[tuple[str, ...]] = ("raw", "item_attributes")

    item_attributes: str | None = None

    def all_attributes(self) -> dict[str, Attribute]:
        """The values of `item_attributes` are the attribute `attribute` unless the user names it otherwise."""
        if self.item_attributes is None or any(a.of == "item" for a in self.attributes.values()):
            return self.attributes
        return {**self.attributes, "attribute": Attribute(of="item", column=_ATTRIBUTES)}

    def read(self, backend: Any, workspace: Path, seed: int) -> RawLog:  # noqa: ARG002
        """See `LogConfig.read`."""
        path = self.raw_path("a text file with one `user item item ...` a line")
        if path.is_dir():
            raise InputError(f"dataset.raw: want a text file, got the folder {path}; name a file in it")
        self._check_columns(path)
        lines = load_lines(backend, "lines", "dataset.raw", path).filter(lambda t: t.line != "")
        words = lines.select(words=lines.line.re_split(r"\s+"), at=lines.position)
        words = backend.create_table("words", words.select(user=words.words[0], items=words.words[1:], at=words.at))
        _check_lines(words, path)
        events = words.unnest("items", offset="step")
        # 2^32 items a line are more than a line may hold
        position = events["at"] * 2**32 + events.step
        events = backend.create_table("raw_events", events.select(user="user", item="items", position=position))
        files = [path]
        items = None
        if self.item_attributes is not None:
            items = self._read_attributes(backend)
            files.append(Path(self.item_attributes).expanduser())
        return RawLog(events=events, users=None, items=items, has_time=False, files=files)

    def _check_columns(self, path: Path) -> None:
        require_columns({"dataset.layout.label": self.layout.label_column() or "item"}, ["user", "item"], path)
        for name, attribute in self.all_attributes().items():
            key = f"dataset.attributes.{name}"
            if attribute.of != "item" or self.item_attributes is None:
                raise InputError(f"{key}: want none, got one of {attribute.of}s; {path.name} holds ids alone")
            require_columns({f"{key}.column": attribute.column or name}, [_ATTRIBUTES], Path(self.item_attributes))

    def _read_attributes(self, backend: Any) -> Any:
        key, path = "dataset.item_attributes", Path(str(self.item_attributes)).expanduser()
        if not path.is_file():
            raise InputError(f"{key}: want a JSON file, got {path}, which does not exist; check the path")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{key}: want JSON in {path}, got {error}; mend the file") from error
        if not isinstance(values, dict) or not all(isinstance(each, list) for each in values.values()):
            raise InputError(f"{key}: want an object of lists, item -> values, got something else in {path}")
        lists = pa.array([[str(each) for each in value] for value in values.values()], type=pa.list_(pa.string()))
        table = pa.table({"item": pa.array(list(values), type=pa.string()), RAW + _ATTRIBUTES: lists})
        return backend.create_table("raw_items", ibis.memtable(table))


def _check_lines(words: Any, path: Path) -> None:
    bare = words.filter(words["items"].length() == 0).order_by("at").limit(1).to_pyarrow().to_pylist()
    if bare:
        got = f"no item in line {bare[0]['at'] + 1}"
        raise InputError(f"dataset.raw: want `user item item ...` in each line of {path}, got {got}; mend the file")
    counts = words.group_by("user").agg(lines=words.count(), at=words["at"].max())
    twice = counts.filter(counts.lines > 1).order_by("at").limit(1).to_pyarrow().to_pylist()
    if twice:
        got = f"user {twice[0]['user']} again in line {twice[0]['at'] + 1}"
        raise InputError(f"dataset.raw: want each user on one line of {path}, got {got}; join the lines, oldest first")
