"""Texts with a label, one a row: words become rows of the vocabulary `word`, and the label 0 or 1.

A text is lower-cased, each of its digits becomes 0 (a number counts by its length, not its value), and every character
that is neither a letter, with its marks, nor a digit nor a space is a word of its own. `serving.standalone.words` is
the same for who serves a model.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import BeforeValidator, Field

from sharded_emb.data import vocabulary
from sharded_emb.data.bad_rows import BadRow
from sharded_emb.data.base import RAW, DatasetConfig, require_columns
from sharded_emb.data.dataset import SCHEMA_VERSION, Column, Manifest, SplitInfo
from sharded_emb.data.folder import write_split
from sharded_emb.data.from_log import fingerprint
from sharded_emb.data.reading import Places, load
from sharded_emb.data.side_table import Format
from sharded_emb.data.tabular import Encoding, TableFiles, column_names, find_files, format_of, require_once
from sharded_emb.data.work import Work
from sharded_emb.errors import InputError, nearest
from sharded_emb.initializers import hashed_uniform, stream_key
from sharded_emb.vocabulary_rows import FIRST_ROW, UNKNOWN_ROW

WORD = "word"
_COLUMNS = {"words": Column(type="list<int64>", vocabulary=WORD), "label": Column(type="float32")}
_SPACES = r"[\s\v\x{85}\p{Z}]"
_BUILT_OVER = "the train split alone; rows by count, most frequent first, ties by word, ascending"


def _as_text(label: object) -> object:
    """Of a label that YAML takes for a number or for true or false: as files have it."""
    return str(label).lower() if isinstance(label, bool | int) else label


class LabelledText(DatasetConfig):
    """raw: files, or folders of nothing else, read in the order of their names. format: null goes by their ending; what
    has none that is known is text with a tab between columns. text, label: the columns that hold them; rows without one
    of them are malformed. positive: the label that is 1; every other label is 0. separator: between columns, where it
    is another. quote: what encloses values, empty where quotes are ordinary letters; null for `"` of CSV and nothing of
    other text. encoding: of text. header: column names, for files that do not begin with them. min_count: words that
    fewer texts of the train split hold are out of vocabulary. valid_fraction, test_fraction: of the texts, drawn by the
    seed.
    """

    format: Format | None = None
    text: str = "text"
    label: str = "label"
    positive: Annotated[str, BeforeValidator(_as_text)] = "1"
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    quote: str | None = Field(default=None, max_length=1)
    encoding: Encoding = "utf-8"
    header: list[str] | None = None
    min_count: int = Field(default=1, ge=1)
    valid_fraction: float = Field(default=0.1, ge=0, lt=0.5)
    test_fraction: float = Field(default=0.2, ge=0, lt=0.5)

    def make(self, work: Work) -> Manifest:
        """See `DatasetConfig.make`; the split rule is at random by seed."""
        places = self.raw_files("texts with a label", work)
        paths = [path for place in places for path in find_files("dataset.raw", place, self.format or "text")]
        require_once("dataset.raw", paths)
        words, label_N = self._read(work, paths)
        split_N = self._splits(len(label_N), work.seed)
        known = _vocabulary(words.filter(pa.array(split_N == "train")), self.min_count)
        rows = _rows(words, known)
        splits: dict[str, SplitInfo] = {}
        for name in ("train", "valid", "test"):
            chosen = pa.array(np.flatnonzero(split_N == name))
            table = pa.table({"words": rows.take(chosen), "label": pa.array(label_N, pa.float32()).take(chosen)})
            splits[name] = write_split(work.folder / name, [table], _COLUMNS)
        return Manifest(
            schema_version=SCHEMA_VERSION,
            layout=type(self).__name__,
            split=f"random: {self.valid_fraction:g} of the texts are valid, {self.test_fraction:g} test, by seed",
            columns=_COLUMNS,
            splits=splits,
            counts={"texts": len(label_N), "words": int(pc.sum(pc.list_value_length(words)).as_py())},
            vocabularies=vocabulary.write(work.folder, {WORD: known}),
            built_over=_BUILT_OVER,
            source=fingerprint(paths),
            seed=work.seed,
            dataset=self.model_dump(mode="json"),
        )

    def _read(self, work: Work, paths: list[Path]) -> tuple[pa.ListArray, npt.NDArray[np.float32]]:
        """The words of each text, and 0 or 1."""
        files = self._files(paths)
        require_columns({"dataset.text": self.text, "dataset.label": self.label}, column_names(files), paths[0])
        loaded = load(work, "texts", files, [*dict.fromkeys([self.text, self.label])])
        table = loaded.table.order_by("position")
        spaced = table[RAW + self.text].lower().re_replace("[0-9]", "0").re_replace(_SPACES, " ")
        spaced = spaced.re_replace(r"([^\p{L}\p{M}0 ])", r" \1 ")
        found = table.select(
            text=spaced.re_replace("^ +| +$", "").nullif(""), label=table[RAW + self.label], at=table.position
        )
        found = self._whole(found.to_pyarrow(), work, loaded.places)
        if not len(found):
            raise InputError(f"dataset.raw: want texts, got none in {self.raw}; give a file that holds some")
        labels = pc.unique(found["label"]).to_pylist()
        if self.positive not in labels:
            raise InputError(
                f"dataset.positive: want a label of {self.raw}, got {self.positive!r}{nearest(self.positive, labels)}"
            )
        words = pc.split_pattern_regex(found["text"], " +").combine_chunks()
        return words, pc.equal(found["label"], self.positive).to_numpy().astype(np.float32)

    def _files(self, paths: list[Path]) -> TableFiles:
        kinds = {self.format or format_of(path) or "text" for path in paths}
        if len(kinds) > 1:
            got = " and ".join(sorted(kinds))
            raise InputError(f"dataset.raw: want files of one format, got {got}; name fewer, or say dataset.format")
        (kind,) = kinds
        separator = self.separator or ("," if kind == "csv" else "\t")
        quote = self.quote if self.quote is not None else '"' if kind == "csv" else ""
        single = frozenset({self.text, self.label})
        return TableFiles("dataset.raw", paths, kind, separator, quote, self.header, self.encoding, single=single)

    def _whole(self, found: pa.Table, work: Work, places: Places) -> pa.Table:
        """The rows with a text and a label; the others are malformed. Raises InputError where those are too many."""
        for column in ("text", "label"):
            there = pc.is_valid(found[column])
            at = found["at"].filter(pc.invert(there)).to_pylist()
            listed = [BadRow(f"dataset.{column}", "a value", "none", places.of(each)) for each in at[: work.bad.room]]
            work.bad.add(listed, unlisted=len(at) - len(listed))
            found = found.filter(there)
        work.bad.judge()
        return found

    def _splits(self, texts: int, seed: int) -> npt.NDArray[np.str_]:
        """The split of each text: the texts in an order drawn by the seed, cut by the fractions."""
        draw_N1 = hashed_uniform(stream_key(seed, "splits"), torch.arange(texts), torch.zeros(1, dtype=torch.int64))
        place_N = np.argsort(np.argsort(draw_N1[:, 0].numpy(), kind="stable"), kind="stable")
        test, valid = round(texts * self.test_fraction), round(texts * self.valid_fraction)
        return np.select([place_N < test, place_N < test + valid], ["test", "valid"], "train")


def _vocabulary(words: pa.ListArray, min_count: int) -> pa.Table:
    """row, raw, count of the words that at least min_count texts hold; count is of the occurrences."""
    flat = pa.table({"raw": words.flatten(), "text": pc.list_parent_indices(words)})
    counted = flat.group_by("raw").aggregate([("raw", "count"), ("text", "count_distinct")])
    kept = counted.filter(pc.greater_equal(counted["text_count_distinct"], min_count))
    counts = pa.table({"raw": kept["raw"], "count": kept["raw_count"]})
    dropped = pc.sum(counted["raw_count"]).as_py() - (pc.sum(counts["count"]).as_py() or 0)
    return vocabulary.build(pa.concat_tables([counts, pa.table({"raw": pa.nulls(1, pa.string()), "count": [dropped]})]))


def _rows(words: pa.ListArray, known: pa.Table) -> pa.ListArray:
    """The row of each word; UNKNOWN_ROW for what has none."""
    at = pc.index_in(words.flatten(), known["raw"].combine_chunks()[FIRST_ROW:].cast(pa.string()))
    rows = pc.fill_null(pc.add(at.cast(pa.int64()), FIRST_ROW), UNKNOWN_ROW)
    return pa.ListArray.from_arrays(words.offsets, rows)
