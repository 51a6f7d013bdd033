"""Texts with a label: every line of the real file, split by seed, words numbered from the train split alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sharded_emb.data.dataset import Dataset
from sharded_emb.data.labelled_text import LabelledText
from sharded_emb.data.prepare import prepare
from sharded_emb.errors import InputError

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
    with pytest.raises(InputError, match=r"^dataset\.label: want a value in each line, got none in line 15 of b$"):
        made(folder, tmp_path / "no_label")
    (folder / "c").write_text("about these files\n")
    with pytest.raises(InputError, match=r"^dataset\.raw: want the columns Label, SMS of a, got about .* in c$"):
        made(folder, tmp_path / "other")


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
            r"dataset\.label: want a value in each line, got none in line 3",
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
