"""Texts with a label: every line of the real file, split by seed, words numbered from the train split alone."""

import csv
import json
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharded_emb.data.dataset import Dataset
from sharded_emb.data.labelled_text import LabelledText
from sharded_emb.data.prepare import prepare
from sharded_emb.errors import InputError
from sharded_emb.serving.standalone.words import words_of

LINES = ["ham\tHello  you, call ME!", "spam\tWIN 500 now", 'ham\tquote "here', "spam\tcall 0800 now", "ham\té è a"] * 4


def write(folder: Path, lines: list[str], header: str = "Label\tSMS") -> Path:
    path = folder / "texts"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def made(path: Path, folder: Path, seed: int = 0, **keys: Any) -> Dataset:
    config = LabelledText(raw=str(path), text="SMS", label="Label", positive="spam", **keys)
    prepare(config, folder, seed=seed, overwrite=False)
    return Dataset.open(folder)


def texts(dataset: Dataset, split: str) -> list[list[str | None]]:
    words = dataset.raw_ids("word").to_pylist()
    return [[words[row] for row in rows] for rows in dataset.split(split)["words"].to_pylist()]


def test_a_text_is_lower_cased_digits_are_zeros_and_marks_are_words(tmp_path: Path) -> None:
    dataset = made(write(tmp_path, LINES), tmp_path / "data", valid_fraction=0, test_fraction=0)
    found = {tuple(words) for words in texts(dataset, "train")}
    assert found == {
        ("hello", "you", ",", "call", "me", "!"),
        ("win", "000", "now"),
        ("quote", '"', "here"),
        ("call", "0000", "now"),
        ("é", "è", "a"),
    }
    labels = dataset.split("train")["label"].to_pylist()
    assert sum(labels) == 8


def test_words_are_numbered_by_the_train_split_alone(tmp_path: Path) -> None:
    dataset = made(write(tmp_path, LINES), tmp_path / "data", min_count=3)
    trained = texts(dataset, "train")
    unknown = sum(word is None for text in trained for word in text)
    vocabulary = dataset.vocabulary("word").to_pylist()
    assert vocabulary[1]["count"] == unknown
    counted = Counter(word for text in trained for word in text if word is not None)
    assert {each["raw"]: each["count"] for each in vocabulary[2:]} == counted
    assert [each["count"] for each in vocabulary[2:]] == sorted(counted.values(), reverse=True)
    assert dataset.manifest.built_over.startswith("the train split alone")


def test_the_split_is_drawn_by_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path, LINES)
    first, again, other = (made(path, tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    for split, rows in (("train", 14), ("valid", 2), ("test", 4)):
        assert first.manifest.splits[split].rows == rows
        assert first.split(split).equals(again.split(split))
    assert texts(first, "train") != texts(other, "train")


def test_every_message_of_the_real_file_is_read(real_data: Path, tmp_path: Path) -> None:
    raw = real_data / "sms-spam" / "SMSSpamCollection"
    dataset = made(raw, tmp_path / "data")
    splits = [pq.read_table(part) for split in ("train", "valid", "test") for part in dataset.parts(split)]
    assert sum(map(len, splits)) == 5574
    assert sum(sum(table["label"].to_pylist()) for table in splits) == 747
    assert sum(1 for line in raw.read_text(encoding="utf-8").splitlines()[1:] if line.startswith("spam\t")) == 747


def test_a_folder_and_a_pattern_are_their_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    whole = made(write(tmp_path, LINES), tmp_path / "whole")
    (folder := tmp_path / "in").mkdir()
    for name, lines in (("b", LINES[7:]), ("a", LINES[:7])):
        write(folder, lines).rename(folder / name)
    for name, raw in (("folder", folder), ("pattern", folder / "[ab]")):
        dataset = made(raw, tmp_path / name)
        assert [each.name for each in dataset.manifest.source] == ["a", "b"]
        for split in ("train", "valid", "test"):
            assert dataset.split(split).equals(whole.split(split))
    with (folder / "b").open("a") as file:
        file.write("\thello\n")
    with pytest.raises(InputError, match=r"^dataset\.label: want a value, got none in line 15 of b"):
        made(folder, tmp_path / "no_label")
    (folder / "c").write_text("about these files\n")
    with pytest.raises(InputError, match=r"^dataset\.raw: want the columns Label, SMS of a, got about .* in c$"):
        made(folder, tmp_path / "other")


REVIEWS = [('Great, "fine" 😀', "good"), ("two\nlines", "bad"), ("schön\there", "good"), ("हिन्दी", "bad")] * 5


def written(folder: Path, kind: str, rows: list[tuple[str | None, str | None]] = REVIEWS) -> Path:
    """The same texts as a file of a kind, with byte order mark and line ends of Windows where it is text."""
    path = folder / f"reviews.{kind}"
    if kind == "csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    elif kind == "parquet":
        texts, labels = zip(*rows, strict=True)
        pq.write_table(pa.table({"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.string())}), path)
    else:
        lines = ["\t".join((" ".join((text or "").split()), label or "")) for text, label in rows]
        path.write_text("\r\n".join(["text\tlabel", *lines, ""]), newline="")
    return path


def test_texts_are_the_same_in_files_of_every_format(tmp_path: Path) -> None:
    found = []
    for kind in ("csv", "jsonl", "parquet", "tsv"):
        prepare(
            LabelledText(raw=str(written(tmp_path, kind)), positive="good"), tmp_path / kind, seed=0, overwrite=False
        )
        found.append(Dataset.open(tmp_path / kind))
    words = {tuple(each) for split in ("train", "valid", "test") for each in texts(found[0], split)}
    assert ("great", ",", '"', "fine", '"', "😀") in words
    assert ("हिन्दी",) in words, "marks belong to their letters"
    for other in found[1:]:
        assert other.raw_ids("word").equals(found[0].raw_ids("word"))
        assert all(other.split(split).equals(found[0].split(split)) for split in ("train", "valid", "test"))


def test_rows_without_a_text_or_a_label_are_left_out_and_listed_where_that_is_allowed(tmp_path: Path) -> None:
    rows = [*REVIEWS, (None, "good"), (" \u00a0 ", "bad"), ("fine", None)]
    for kind, first in (("csv", 22 + 5), ("jsonl", 21), ("parquet", 21)):  # lines of CSV, five texts have two
        config = {"raw": str(written(tmp_path, kind, rows)), "positive": "good"}
        with pytest.raises(InputError) as wrong:
            prepare(LabelledText.model_validate(config), tmp_path / kind, seed=0, overwrite=False)
        assert wrong.value.problems[-1].startswith("dataset.max_bad_rows: want at most 0 malformed rows, got 3 rows;")
        allowed = LabelledText.model_validate({**config, "max_bad_rows": 3})
        prepare(allowed, tmp_path / kind, seed=0, overwrite=False)
        dataset = Dataset.open(tmp_path / kind)
        assert dataset.manifest.counts["texts"] == len(REVIEWS)
        listed = [json.loads(line) for line in (tmp_path / kind / "bad_rows.jsonl").read_text().splitlines()]
        assert [each["key"] for each in listed] == ["dataset.text", "dataset.text", "dataset.label"]
        if kind != "csv":
            assert [each["line"] for each in listed] == [first, first + 1, first + 2]


def test_a_label_that_yaml_takes_for_something_else_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "flags.parquet"
    for labels, positive in (([True, False] * 9, True), ([1, 0] * 9, 1), (["yes", "no"] * 9, "yes")):
        pq.write_table(pa.table({"text": [f"word {place}" for place in range(18)], "label": labels}), path)
        config = LabelledText.model_validate({"raw": str(path), "positive": positive})
        prepare(config, tmp_path / "data", seed=0, overwrite=True)
        dataset = Dataset.open(tmp_path / "data")
        found = [label for split in ("train", "valid", "test") for label in dataset.split(split)["label"].to_pylist()]
        assert sum(found) == 9


def test_quotes_are_letters_of_other_files_unless_they_are_said_to_enclose(tmp_path: Path) -> None:
    path = tmp_path / "quoted.tsv"
    path.write_text('text\tlabel\n"one\ttwo"\t1\n' * 1 + "three\t0\n" * 9)
    prepare(LabelledText(raw=str(path), quote='"'), tmp_path / "data", seed=0, overwrite=False)
    assert {*Dataset.open(tmp_path / "data").raw_ids("word").to_pylist()} <= {None, "one", "two", "three"}
    with pytest.raises(InputError, match=r"^dataset\.raw: want "):
        prepare(LabelledText(raw=str(path)), tmp_path / "other", seed=0, overwrite=False)


def test_files_of_two_formats_are_refused(tmp_path: Path) -> None:
    paths = [str(written(tmp_path, kind)) for kind in ("csv", "jsonl")]
    with pytest.raises(InputError, match=r"^dataset\.raw: want files of one format, got csv and jsonl; name fewer"):
        prepare(LabelledText(raw=paths), tmp_path / "data", seed=0, overwrite=False)


def test_who_serves_a_model_has_the_words_that_prepare_has_of_every_character(tmp_path: Path) -> None:
    """But of those that one of both does not know yet: DuckDB, its regular expressions and Python age differently."""
    every = map(chr, range(1, sys.maxunicode + 1))
    given = [f"A{each}b {each}{each} 1" for each in every if unicodedata.category(each) not in ("Cn", "Co", "Cs")]
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": given, "label": ["1"] * len(given)}), path)
    config = LabelledText(raw=str(path), valid_fraction=0, test_fraction=0)
    prepare(config, tmp_path / "data", seed=0, overwrite=False)
    found = texts(Dataset.open(tmp_path / "data"), "train")
    assert len(found) == len(given)
    assert sorted(found) == sorted(map(words_of, given))


@pytest.mark.parametrize(
    ("lines", "header", "keys", "problem"),
    [
        (LINES, "Lable\tSMS", {}, r"dataset\.label: want a column of texts, got 'Label'; did you mean Lable\?"),
        (LINES, "Label\tSMS", {"text": "Text"}, r"dataset\.text: want a column of texts, got 'Text'"),
        ([], "Label\tSMS", {}, r"dataset\.raw: want texts, got none in "),
        (["ham\thello"], "Label\tSMS", {}, r"dataset\.positive: want a label of .*, got 'spam'; there are: ham"),
        (
            ["spam\thello", "\thello"],
            "Label\tSMS",
            {},
            r"dataset\.label: want a value, got none in line 3 of texts",
        ),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, lines: list[str], header: str, keys: dict[str, Any], problem: str
) -> None:
    path = write(tmp_path, lines, header)
    config = LabelledText.model_validate(
        {"raw": str(path), "text": "SMS", "label": "Label", "positive": "spam", **keys}
    )
    with pytest.raises(InputError, match=rf"^{problem}"):
        prepare(config, tmp_path / "data", seed=0, overwrite=False)
    assert not (tmp_path / "data").exists()
