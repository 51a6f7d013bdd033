"""What is known of items is part of their vectors: from raw files to a model that needs it."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq

from tests.cli.commands import losses, result, run
from tests.cli.in_process import Commands

KINDS, ITEMS = 20, 600


def write_log(folder: Path) -> None:
    """After an item comes any item of the next kind: of most items too few events tell what follows."""
    draw, lines = random.Random(0), []
    for user in range(300):
        kind, items = draw.randrange(KINDS), []
        for _ in range(draw.randrange(5, 9)):
            items.append(kind + KINDS * draw.randrange(ITEMS // KINDS))
            kind = (kind + 1) % KINDS
        lines.append(" ".join(map(str, [user, *items])))
    (folder / "log.txt").write_text("\n".join(lines))
    kinds = {str(item): [item % KINDS, "all"] for item in range(ITEMS) if item % 50}
    (folder / "kinds.json").write_text(json.dumps(kinds))


def test_a_model_learns_from_what_describes_items_and_is_the_same_on_two_ranks(start: Commands) -> None:
    write_log(start.folder)
    data = start.folder / "data"
    words = ["dataset.raw=log.txt", "dataset.item_attributes=kinds.json", f"data={data}"]
    assert start("prepare", "dataset=beauty", *words).code in (0, None)
    words = [f"data={data}", "tables.item.dim=16", "model.dropout=0", "loss=softmax", "epochs=12", "global_batch=32"]
    words += ["log_every_steps=1", "early_stopping=null", "embedding_optimizer.lr=0.2", "dense_optimizer.lr=0.01"]
    kinds = ["+features.kind={table: attribute, column: attribute, pooling: mean, of: history}"]
    runs = {"blind": words, "told": [*words, *kinds, "+tables.attribute.dim=16"]}
    for name, each in runs.items():
        ended = start("train", *each, f"run={start.folder / name}")
        assert ended.code in (0, None), ended.err
    blind, told = (result(start.folder / name)["metrics"]["valid"]["mrr"] for name in runs)
    assert told > 1.5 * blind
    # a run folder repeats its numbers, and its lists are those of the described items
    ended = start(
        "evaluate", f"run={start.folder / 'told'}", "split=valid", f"predictions={start.folder / 'top.parquet'}"
    )
    assert ended.code in (0, None), ended.err
    again = json.loads((start.folder / "told" / "evaluation_valid.json").read_text())["metrics"]["valid"]
    assert again["mrr"] == result(start.folder / "told")["metrics"]["valid"]["mrr"]
    assert len(pq.read_table(start.folder / "top.parquet")) == 20 * 300
    planned = json.loads((start.folder / "told" / "plan.json").read_text())["tables"]["attribute"]
    assert (planned["collection"], planned["features"]) == ("unpooled", ["kind", "candidates:kind"])
    run("train", *runs["told"], "steps=6", f"run={start.folder / 'two'}", "sharding=row_wise", ranks=2)
    one, two = (losses(start.folder / name)[:6] for name in ("told", "two"))
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5


def test_what_describes_items_has_to_be_there_and_to_fit_them(start: Commands, tiny_data: Path) -> None:
    def problems(*words: str, dim: int = 64) -> str:
        ended = start("train", f"data={tiny_data}", f"+tables.kind.dim={dim}", *words)
        assert ended.code == 2
        return ended.err

    kind = "+features.kind={table: kind, column: kind, pooling: mean, of: history}"
    assert "features.kind.column: want an attribute of items in" in problems(kind)
    assert "which has none; prepare it with some of theirs, got 'kind'" in problems(kind)
    assert "tables.kind.dim: want 64, as tables.item has it, to which it is added, got 16" in problems(kind, dim=16)
    said = problems(kind, "features.kind.of=histroy", "features.kind.pooling=none")
    assert "features.kind.of: want history, whose items are predicted, got 'histroy'" in said
    assert "features.kind.pooling: want one of an item's values alone, such as mean or sum, got none" in problems(
        kind, "features.kind.pooling=none"
    )
    said = problems(kind, "features.history.unknown=hash", "tables.item.rows=10")
    assert "features.history.unknown: want error, row or drop with features.kind, which describes items, since" in said
    assert "features.kind.of: want null with a binary model" in problems("experiment=din_ml100k", kind)
