"""Texts of one's own, from CSV to what answers requests: a text is given as it stands."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import sharded_emb
from sharded_emb.data.dataset import Dataset
from sharded_emb.serving.standalone import Exported

TEXTS = [("Great, product 5", "good"), ('It "SUCKS" 😀', "bad"), ("schön\nund gut", "good"), ("плохой товар", "bad")]


def test_a_text_is_served_as_prepare_has_read_it(tmp_path: Path) -> None:
    with (tmp_path / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("review", "mood"), *((f"{text} {number}", mood) for number in range(20) for text, mood in TEXTS)]
        )
    words = ("experiment=text_sms", "dataset=labelled_text", f"data={tmp_path / 'data'}")
    keys = ("text=review", "label=mood", "positive=good", f"raw={tmp_path / 'reviews.csv'}")
    sharded_emb.prepare(sharded_emb.compose(*words, *(f"dataset.{key}" for key in keys)))
    run = sharded_emb.train(sharded_emb.compose(*words[::2], f"run={tmp_path / 'run'}", "epochs=2")).path
    sharded_emb.evaluate(run, f"predictions={tmp_path / 'scored.parquet'}")
    sharded_emb.export(run)
    exported = Exported(run / "export")
    assert json.loads((run / "export" / "export.json").read_text())["texts"] == ["words"]

    dataset = Dataset.open(tmp_path / "data")
    raw = dataset.raw_ids("word").to_pylist()
    read = [[raw[row] for row in rows] for rows in dataset.split("test")["words"].to_pylist()]
    scored = torch.tensor(pq.read_table(tmp_path / "scored.parquet")["score"].to_pylist())
    for given in (read, [" ".join(each).upper() for each in read]):
        torch.testing.assert_close(exported.probabilities({"words": given}).float(), scored.float())
    assert torch.equal(
        exported.probabilities({"words": ["Great,  PRODUCT 7"]}),
        exported.probabilities({"words": [["great", ",", "product", "0"]]}),
    )
    with pytest.raises(ValueError, match="words: want a list of values in each row, got 7"):
        exported.probabilities({"words": [7]})
