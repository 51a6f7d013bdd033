"""Sequence text: one file, one user a line, `user item item ...`, oldest first."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from sharded_emb.data.bad_rows import BadRow, shortened
from sharded_emb.data.base import RAW, Attribute, LogConfig, RawLog, require_columns
from sharded_emb.data.reading import Places, load_lines
from sharded_emb.data.work import Work
from sharded_emb.errors import InputError

_ATTRIBUTES = "attributes"
_ITEMS_PER_LINE = 2**32
"""More than a line may hold: a position is the line's times this, and the item's place in it."""


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

    def read(self, work: Work) -> RawLog:
        """See `LogConfig.read`."""
        path = _one_file(self.raw_path("a text file with one `user item item ...` a line", work))
        self._check_columns(path)
        loaded = load_lines(work, "lines", "dataset.raw", path)
        lines = loaded.table.filter(loaded.table.line != "")
        words = lines.select(words=lines.line.re_split(r"\s+"), at=lines.position)
        words = work.backend.create_table(
            "words", words.select(user=words.words[0], items=words.words[1:], at=words.at)
        )
        work.drop("lines")
        words = _checked(words, path, loaded.places, work)
        events = words.unnest("items", offset="step")
        position = events["at"] * _ITEMS_PER_LINE + events.step
        events = work.backend.create_table("raw_events", events.select(user="user", item="items", position=position))
        files = [path]
        items = None
        if self.item_attributes is not None:
            items = self._read_attributes(work)
            files.append(Path(self.item_attributes).expanduser())
        return RawLog(
            events=events,
            users=None,
            items=items,
            has_time=False,
            files=files,
            place=lambda position: loaded.places.of(position // _ITEMS_PER_LINE),
            tables=["words", "raw_events"],
        )

    def _check_columns(self, path: Path) -> None:
        kept = {f"dataset.keep.{column}": column for column in self.kept_columns()}
        require_columns({"dataset.layout.label": self.layout.label_column() or "item", **kept}, ["user", "item"], path)
        for name, attribute in self.all_attributes().items():
            key = f"dataset.attributes.{name}"
            if attribute.of != "item" or self.item_attributes is None:
                raise InputError(f"{key}: want none, got one of {attribute.of}s; {path.name} holds ids alone")
            require_columns({f"{key}.column": attribute.column or name}, [_ATTRIBUTES], Path(self.item_attributes))

    def _read_attributes(self, work: Work) -> Any:
        import ibis  # not above: training has no use for it

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
        table = table.append_column("position", pa.array(range(len(table)), pa.int64()))
        return work.backend.create_table("raw_items", ibis.memtable(table))


def _one_file(path: Path) -> Path:
    """The file, or the only one of a folder, as of an archive that was unpacked."""
    if not path.is_dir():
        return path
    files = [file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")]
    if len(files) != 1:
        raise InputError(f"dataset.raw: want one text file, got the folder {path} with {len(files)} files; name one")
    return files[0]


def _checked(words: Any, path: Path, places: Places, work: Work) -> Any:
    """The lines that hold items; those with a user alone are bad rows. Raises InputError for users on two lines."""
    bare = words.filter(words["items"].length() == 0)
    if count := int(bare.count().execute()):
        first = bare.order_by("at").limit(work.bad.room).to_pyarrow().to_pylist()
        rows = [
            BadRow("dataset.raw", "`user item item ...`", f"{shortened(row['user'])} alone", places.of(row["at"]))
            for row in first
        ]
        work.bad.add(rows, unlisted=count - len(rows))
        words = words.filter(words["items"].length() > 0)
    counts = words.group_by("user").agg(lines=words.count(), at=words["at"].max())
    twice = counts.filter(counts.lines > 1).order_by("at").limit(1).to_pyarrow().to_pylist()
    if twice:
        got = f"user {twice[0]['user']} again in line {places.of(twice[0]['at']).line}"
        raise InputError(f"dataset.raw: want each user on one line of {path}, got {got}; join the lines, oldest first")
    return words
