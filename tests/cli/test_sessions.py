"""A log of sessions, from its file to the lists of each session."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import sharded_emb


def test_lists_tell_sessions_of_a_user_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["user,item,time"]
    for user in range(20):
        for session in range(1 + user % 2):
            items = [(user + 3 * session + step) % 12 for step in range(4)]
            lines += [f"u{user},i{item},{1_600_000_000 + session * 10_000 + at}" for at, item in enumerate(items)]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    words = ["dataset=events", "dataset.layout.session_gap_seconds=1000", f"dataset.raw={tmp_path / 'log.csv'}"]
    words += [f"data={tmp_path / 'data'}", f"run={tmp_path / 'run'}", "model=gru4rec", "model.hidden=8"]
    config = sharded_emb.compose(*words, "tables.item.dim=8", "steps=2", "loss=softmax")
    sharded_emb.prepare(config)
    sharded_emb.train(config)
    capsys.readouterr()
    sharded_emb.evaluate(tmp_path / "run", f"predictions={tmp_path / 'top.parquet'}", "top_k=3")
    assert f"{tmp_path / 'top.parquet'}: the top 3 of 30 sessions\n" in capsys.readouterr().out
    found, split = pq.read_table(tmp_path / "top.parquet"), pq.read_table(tmp_path / "data" / "test")
    assert found["row"].to_pylist() == [row for row in range(30) for _ in range(3)]
    assert found["rank"].to_pylist() == [1, 2, 3] * 30
    raw = {
        name: pq.read_table(tmp_path / "data" / "vocabulary" / f"{name}.parquet")["raw"] for name in ("user", "item")
    }
    for user, item, row in zip(*(found[name].to_pylist() for name in ("user", "item", "row")), strict=True):
        assert raw["user"][split["user"][row].as_py()].as_py() == user
        assert item not in [raw["item"][each].as_py() for each in split["items"][row].as_py()[:-1]]
    assert len({*found["user"].to_pylist()}) == 20
