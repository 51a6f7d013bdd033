"""What is known of each event beside its item: from a log to a model that needs it."""

import random
from pathlib import Path

from tests.cli.commands import losses, result, run
from tests.cli.in_process import Commands

TYPES = ("look", "buy")


def write_log(file: Path) -> None:
    """What follows an item depends on what was done with it: after a purchase comes its double, else its successor."""
    draw, lines = random.Random(0), ["user,item,kind,time"]
    for user in range(150):
        item = draw.randrange(40)
        for time in range(draw.randrange(6, 14)):
            kind = draw.choice(TYPES)
            lines.append(f"{user},{item},{kind},{time}")
            item = (2 * item if kind == "buy" else item + 1) % 40
    file.write_text("\n".join(lines))


def test_a_model_learns_from_the_types_of_events_and_is_the_same_on_two_ranks(start: Commands) -> None:
    log, data = start.folder / "log.csv", start.folder / "data"
    write_log(log)
    words = [f"dataset.raw={log}", "+dataset.attributes.kind={of: event}", f"data={data}"]
    assert start("prepare", "dataset=events", *words).code in (0, None)
    words = [
        f"data={data}",
        "tables.item.dim=16",
        "model=gru4rec",
        "model.dropout=0",
        "loss=softmax",
        "epochs=25",
        "global_batch=16",
    ]
    words += ["log_every_steps=1", "early_stopping=null", "embedding_optimizer.lr=0.3", "dense_optimizer.lr=0.01"]
    kinds = ["+features.kind={table: kind, column: kind, pooling: none, max_length: 50}", "+tables.kind.dim=16"]
    runs = {"blind": words, "told": [*words, *kinds, "model.beside=[kind]"]}
    for name, each in runs.items():
        ended = start("train", *each, f"run={start.folder / name}")
        assert ended.code in (0, None), ended.err
    blind, told = (result(start.folder / name)["metrics"]["valid"]["mrr"] for name in runs)
    assert told > blind + 0.1
    run("train", *runs["told"], "steps=6", f"run={start.folder / 'two'}", "sharding=row_wise", ranks=2)
    one, two = (losses(start.folder / name)[:6] for name in ("told", "two"))
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5


def test_what_stands_beside_events_has_to_fit_them(start: Commands, tiny_data: Path) -> None:
    kinds = ["+features.kind={table: kind, column: items, pooling: none, max_length: 20}", "+tables.kind.dim=16"]
    ended = start("train", f"data={tiny_data}", *kinds, "model.beside=[kind]")
    assert ended.code == 2
    assert "features.kind.max_length: want 50, as features.history has it, got 20" in ended.err
    ended = start("train", f"data={tiny_data}", *kinds, "features.kind.max_length=50", "model.beside=[kind]")
    assert "tables.kind.dim: want 64, as tables.item has it, since vectors of model.beside are added" in ended.err
    ended = start(
        "train",
        f"data={tiny_data}",
        *kinds,
        "features.kind.max_length=50",
        "tables.kind.dim=64",
        "model=bert4rec",
        "model.beside=[kind]",
    )
    assert "model.beside: want none, since BERT4Rec hides events, got kind; leave it out" in ended.err
    ended = start("train", f"data={tiny_data}", "model.beside=[knid]")
    assert "model.beside: want a feature, got 'knid'" in ended.err
