"""`explore`: what it says of tables is what the dataset, the checkpoint and the seed say."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import sharded_emb
from sharded_emb.ids.hash import hashed
from tests.cli import served
from tests.cli.commands import run
from tests.cli.in_process import Commands

SIZES = ("tables.item.dim=16", "model.hidden=16", "model.blocks=1", "global_batch=16", "early_stopping=null")


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    words = [*SIZES, "loss=softmax", "epochs=3", "features.history.max_length=5", f"data={tiny_data}", "device=cpu"]
    sharded_emb.train(sharded_emb.compose(*words, f"run={folder}"))
    return folder


def rows_of(folder: Path, table: str) -> dict[str, np.ndarray]:
    """The columns of rows/TABLE.parquet."""
    found = pq.read_table(folder / "rows" / f"{table}.parquet")
    return {name: np.array(found[name].to_pylist()) for name in found.column_names}


def test_reads_norms_and_neighbours_are_those_of_dataset_and_export(
    trained: Path, tiny_data: Path, tmp_path: Path
) -> None:
    dataset, out = sharded_emb.Dataset.open(tiny_data), tmp_path / "explore"
    raw = dataset.raw_ids("item").to_pylist()[2:]
    said = sharded_emb.explore(trained, f"out={out}", f"ids=[{raw[3]},{raw[0]}]", "top_k=4")
    assert said == json.loads((out / "explore.json").read_text())
    found, table = rows_of(out, "item"), said["tables"]["item"]
    assert found["raw"].tolist() == raw
    reads = np.zeros(len(raw) + 2, np.int64)
    for items in dataset.split("train")["items"].to_pylist():
        for item in items[-6:]:  # five that are read, and the one that follows
            reads[item] += 1
    assert found["reads"].tolist() == reads[found["row"]].tolist()
    assert table["reads"] == reads[2:].sum() == sum(len(i[-6:]) for i in dataset.split("train")["items"].to_pylist())
    assert table["never_read"] == (reads[2:] == 0).sum()
    assert sum(line["rows"] for line in table["by_reads"]) == len(raw)
    assert sum(line["share_of_reads"] for line in table["by_reads"]) == pytest.approx(1)
    exported = served.load(sharded_emb.export(trained, f"out={tmp_path / 'export'}"))
    vectors = exported.vectors("item", raw)
    np.testing.assert_allclose(found["norm"], vectors.norm(dim=1).numpy(), rtol=1e-6)
    for asked, near in zip((raw[3], raw[0]), table["neighbours"], strict=True):
        wanted = exported.neighbours("item", asked, top_k=4)
        assert near["id"] == str(asked)
        assert [each["id"] for each in near["nearest"]] == [str(item) for item, _ in wanted]
        assert [each["cosine"] for each in near["nearest"]] == pytest.approx([s for _, s in wanted], abs=1e-6)
    hottest = sorted(range(len(raw)), key=lambda at: -found["reads"][at])[:10]
    assert [line["id"] for line in table["most_read"]] == [str(raw[at]) for at in hottest]
    assert [line["norm"] for line in table["longest"]] == pytest.approx(sorted(found["norm"])[:-11:-1])


def test_spread_is_that_of_all_rows_at_once(trained: Path, tmp_path: Path) -> None:
    said = sharded_emb.explore(trained, f"out={tmp_path / 'explore'}", "map=tsne", "points=20")["tables"]["item"]
    vectors = torch.tensor(
        pq.read_table(sharded_emb.export(trained, f"out={tmp_path / 'x'}") / "embeddings" / "item.parquet")[
            "vector"
        ].to_pylist(),
        dtype=torch.float64,
    )
    singular = torch.linalg.svdvals(vectors - vectors.mean(0))
    parts = singular / singular.sum()
    assert said["effective_rank"] == pytest.approx(float(torch.exp(-(parts * parts.log()).sum())), rel=1e-6)
    shares = singular**2 / (singular**2).sum()
    assert said["variance_of_first_axes"] == pytest.approx(shares[:10].tolist(), rel=1e-6)
    cosines = torch.nn.functional.normalize(vectors, dim=1)
    off = cosines @ cosines.T
    count = len(vectors)
    assert said["mean_cosine"] == pytest.approx(float((off.sum() - off.trace()) / (count * (count - 1))), abs=1e-9)


TABLES = {
    "plain": {},
    "weights": {"item": "{dim: 8, weights: {path: PATH}}"},
    "hash": {"item": "{rows: 19, ids: hash, dim: 8}", "kind": "{rows: 7, ids: hash, dim: 8, dtype: fp16}"},
    "composed": {
        "item": "{ids: {_target_: quotient_remainder, combined_by: add}, dim: 8}",
        "kind": "{ids: {_target_: quotient_remainder, combined_by: concatenate}, dim: 16}",
    },
    "dtypes": {"item": "{dim: 8, dtype: bf16, max_norm: 0.2, init: zeros}", "kind": "{dim: 8, rows: 5, init: normal}"},
}


@pytest.mark.parametrize("tables", TABLES)
def test_rows_that_moved_are_those_that_an_epoch_reads(clicks: Path, tmp_path: Path, tables: str) -> None:
    """Of a linear model under SGD no gradient is zero, and no other row has one."""
    words = ["+features.user={table: user, column: user, pooling: sum}", "features.history.pooling=sum"]
    words += ["+features.kinds={table: kind, column: kinds, pooling: mean, keep: oldest, max_length: 2, unknown: drop}"]
    words += ["features.history.max_length=1", "model=linear", "loss=binary_cross_entropy", "global_batch=64"]
    words += ["+tables.film={rows: 400, dim: 8, ids: hash}", "+features.film={table: film, column: film, pooling: sum}"]
    given = {"item": "{dim: 8}", "user": "{dim: 8}", "kind": "{dim: 8}", **TABLES[tables]}
    np.save(tmp_path / "weights.npy", np.random.default_rng(0).normal(size=(92, 8)))
    words += [f"{'' if name == 'item' else '+'}tables.{name}={each}" for name, each in given.items()]
    words = [word.replace("PATH", str(tmp_path / "weights.npy")) for word in words]
    words += ["embedding_optimizer=sgd", "embedding_optimizer.lr=0.5", "epochs=1", "early_stopping=null", "device=cpu"]
    sharded_emb.train(sharded_emb.compose(*words, f"data={clicks}", f"run={tmp_path / 'run'}"))
    said = sharded_emb.explore(tmp_path / "run")
    unread = 0
    for name, each in said["tables"].items():
        found = rows_of(tmp_path / "run" / "explore", name)
        if not (tables == "composed" and name in given and "quotient" in given[name]):  # whose parts others read, too
            assert ((found["moved"] > 0) == (found["reads"] > 0)).all(), name
        assert each["never_moved"] == len({*found["row"][found["moved"] == 0].tolist()}), name
        assert each["read_but_not_moved"] == 0, name
        unread += each["never_read"]
    assert unread > 0
    films = rows_of(tmp_path / "run" / "explore", "film")
    assert "raw" not in films
    assert films["reads"].sum() == sharded_emb.Dataset.open(clicks).manifest.splits["train"].rows
    hashed = said["tables"]["item"]
    assert (hashed["ids_that_share_a_row"] > 50) == (tables == "hash")
    if tables == "hash":
        assert any("(+" in line["id"] for line in hashed["most_read"])


def test_managed_and_described_tables_and_any_plan_are_looked_at(sequences: Path, tmp_path: Path) -> None:
    words = ["model=two_tower", f"data={sequences}", f"run={tmp_path / 'run'}", "device=cpu", "loss=softmax"]
    words += ["tables.item={dim: 8, sharding: row_wise}", "+tables.kind.dim=8", "steps=6", "epochs=null"]
    words += ["+features.kinds={table: kind, column: kinds, pooling: sum, of: history, max_length: 3}"]
    words += ["tables.kind={rows: 9, dim: 8, ids: {_target_: managed_collision, buckets: 2, every_steps: 2}}"]
    words += ["features.history.max_length=6", "global_batch=16", "early_stopping=null"]
    run("train", *words, ranks=2)
    said = run("explore", f"run={tmp_path / 'run'}", ranks=2)
    assert said.count("explored step-6") == 1
    dataset = sharded_emb.Dataset.open(sequences)
    kinds = dataset.item_attributes()["kinds"].to_pylist()
    histories = [items[-7:] for items in dataset.split("train")["items"].to_pylist()]
    reads = sum(len(kinds[item][-3:]) for items in histories for item in items if item > 1)
    tables = json.loads((tmp_path / "run" / "explore" / "explore.json").read_text())["tables"]
    found = rows_of(tmp_path / "run" / "explore", "kind")
    owned = set(dataset.raw_ids("kinds").to_pylist()[2:])
    assert set(found["raw"].tolist()) <= owned
    assert 0 < len(found["raw"]) <= 7
    assert 0 < tables["kind"]["reads"] < reads  # others are of ids without a row
    some = str(found["raw"][0])
    asked = sharded_emb.explore(tmp_path / "run", "table=kind", f"ids=[{some}]")["tables"]["kind"]["neighbours"]
    assert [each["id"] for each in asked] == [some]
    assert {each["id"] for each in asked[0]["nearest"]} == {*found["raw"].tolist()} - {some}
    assert tables["item"]["reads"] == sum(map(len, histories))


def test_what_does_not_move_and_what_it_began_with_is_said(clicks: Path, tmp_path: Path) -> None:
    words = ["+features.user={table: user, column: user, pooling: sum}", "features.history.pooling=sum", "model=linear"]
    words += ["loss=binary_cross_entropy", "epochs=1", "early_stopping=null", "device=cpu"]
    words += [f"data={clicks}", "embedding_optimizer=sgd", "embedding_optimizer.lr=1e-7"]
    coarse = ["tables.item={dim: 8, dtype: bf16, init: normal}", "+tables.user={dim: 8, freeze: true}"]
    sharded_emb.train(sharded_emb.compose(*words, *coarse, f"run={tmp_path / 'coarse'}"))
    said = sharded_emb.explore(tmp_path / "coarse")["tables"]
    assert said["item"]["read_but_not_moved"] > 0
    assert any(note.startswith("read and not moved: ") for note in said["item"]["notes"])
    assert said["user"]["never_moved"] is None
    assert not any("moved" in note for note in said["user"]["notes"])
    more = ["+tables.film={rows: 400, ids: hash, dim: 8, init: zeros}", "global_batch=64", *coarse]
    more += ["+features.film={table: film, column: film, pooling: sum}", f"warm_start.run={tmp_path / 'coarse'}"]
    other = "dense.model.linear.weight"  # which has more columns now
    more += [f"checkpoint.allow_missing=[film,{other}]", f"checkpoint.allow_unexpected=[{other}]"]
    sharded_emb.train(sharded_emb.compose(*words, *more, "warm_start.states=false", f"run={tmp_path / 'begun'}"))
    said = sharded_emb.explore(tmp_path / "begun")["tables"]
    # from what the other run had: nothing of it moved either; what that had not has begun by the seed
    assert said["item"]["never_moved"] == said["item"]["rows_of_ids"]
    assert said["film"]["never_moved"] == said["film"]["never_read"] < said["film"]["rows_of_ids"]
    state = json.loads((tmp_path / "begun" / "checkpoints" / "last" / "state.json").read_text())
    checkpoint = state["run"]["warm_start"]["checkpoint"]
    shutil.rmtree(tmp_path / "coarse")
    said = sharded_emb.explore(tmp_path / "begun", "table=item")["tables"]
    assert [*said] == ["item"]
    assert said["item"]["never_moved"] is None
    gone = f"the run began with {checkpoint}, which is not there any more"
    assert said["item"]["notes"][0] == f"how far rows moved is not known: {gone}"


def test_ids_beyond_a_table_read_the_row_that_they_are_hashed_to_or_none(tiny_data: Path, tmp_path: Path) -> None:
    words = [*SIZES, "loss=softmax", "steps=3", "epochs=null", f"data={tiny_data}", "device=cpu"]
    raw = sharded_emb.Dataset.open(tiny_data).raw_ids("item").to_pylist()
    # a table that is not ranked: no row of one that is stands for several items
    beside = ["+tables.side={rows: 20, dim: 16}", "+features.side={table: side, column: items, unknown: hash}"]
    given = {
        "hash": [*beside, "features.side.max_length=${features.history.max_length}", "model.beside=[side]"],
        "row": ["tables.item.rows=20", "features.history.unknown=row"],
    }
    for name, more in given.items():
        sharded_emb.train(sharded_emb.compose(*words, *more, f"run={tmp_path / name}"))
    table = sharded_emb.explore(tmp_path / "hash", "table=side", f"ids=[{raw[60]}]")["tables"]["side"]
    assert table["neighbours"][0]["row"] == int(hashed(np.array([60]), 20)[0])
    assert "(+" in table["neighbours"][0]["id"]
    assert table["ids_that_share_a_row"] > 50
    assert len(rows_of(tmp_path / "hash" / "explore", "side")["raw"]) == len(raw) - 2
    assert rows_of(tmp_path / "hash" / "explore", "side")["row"].max() < 20
    said = sharded_emb.explore(tmp_path / "row")["tables"]["item"]
    assert (said["ids_that_share_a_row"], said["rows_of_ids"]) == (0, 18)
    assert len(rows_of(tmp_path / "row" / "explore", "item")["raw"]) == 18
    with pytest.raises(
        sharded_emb.InputError, match=f"^ids: want ids with one of the 20 rows of table item, got {raw[60]}, "
    ):
        sharded_emb.explore(tmp_path / "row", f"ids=[{raw[60]}]")


def test_vectors_without_a_direction_and_weights_from_elsewhere_are_told(tiny_data: Path, tmp_path: Path) -> None:
    rows = sharded_emb.Dataset.open(tiny_data).rows("item")
    raw = sharded_emb.Dataset.open(tiny_data).raw_ids("item").to_pylist()
    unit = np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    unit[5] = 0
    np.save(tmp_path / "unit.npy", unit)
    words = [*SIZES, "loss=softmax", "steps=3", "epochs=null", f"data={tiny_data}", "device=cpu"]
    words += [f"tables.item.weights.path={tmp_path / 'unit.npy'}"]
    for name, more in (("frozen", ["tables.item.freeze=true"]), ("moving", [])):
        sharded_emb.train(sharded_emb.compose(*words, *more, f"run={tmp_path / name}"))
    said = sharded_emb.explore(tmp_path / "frozen", f"ids=[{raw[5]},{raw[6]}]")
    assert said == json.loads((tmp_path / "frozen" / "explore" / "explore.json").read_text())
    near = said["tables"]["item"]["neighbours"]
    assert [each["row"] for each in near] == [5, 6]
    assert near[0]["nearest"] == []
    assert 5 not in [each["row"] for each in near[1]["nearest"]]
    assert "zeros alone: 1 row of ids" in said["tables"]["item"]["notes"]
    assert said["tables"]["item"]["never_moved"] is None
    said = sharded_emb.explore(tmp_path / "moving")["tables"]["item"]
    assert f"moved is the distance to {tmp_path / 'unit.npy'} as it is now" in said["notes"]
    assert said["never_moved"] is not None
    (tmp_path / "unit.npy").unlink()
    said = sharded_emb.explore(tmp_path / "moving", f"stream.folder={tmp_path / 'stream'}")["tables"]["item"]
    assert said["never_moved"] is None
    assert said["notes"][0].startswith(
        "how far rows moved is not known: its weights are not there any more (tables.item"
    )
    assert said["notes"][1] == f"reads are of the train split; the run trained on the stream {tmp_path / 'stream'}"


class _Links(HTMLParser):
    """What a page asks for beside itself, and whether its elements end."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [str(value) for name, value in attrs if name in ("src", "href")] + [tag] * (tag == "script")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_names_what_was_asked_for(trained: Path, start: Commands) -> None:
    ended = start("explore", f"run={trained}", "out=seen", "top_k=3", "points=30")
    assert ended.code in (0, None), ended.err
    assert "table item: 76 x 16 fp32, " in ended.out
    assert f"explored step-12 of {trained}: {start.folder / 'seen' / 'explore.html'}" in ended.out
    text, links = (start.folder / "seen" / "explore.html").read_text(), _Links()
    links.feed(text)
    assert not links.asked
    assert not links.open
    assert text.count("<circle") == 30 + 7  # and the legend
    assert "http" not in text
    again = start("explore", f"run={trained}", "out=seen", "map=null", "top_k=1")
    assert again.code in (0, None), again.err
    assert "<circle" not in (start.folder / "seen" / "explore.html").read_text()
    assert sorted(entry.name for entry in start.folder.iterdir()) == ["seen"]
    assert sorted(each.name for each in (start.folder / "seen").iterdir()) == ["explore.html", "explore.json", "rows"]


def test_a_map_is_the_same_each_time_and_has_those_that_are_asked_for(trained: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("one", "two"):
        sharded_emb.explore(trained, f"out={tmp_path / name}", "points=10", "ids=[5]")
        pages.append((tmp_path / name / "explore.html").read_text())
    assert pages[0] == pages[1]
    assert 'stroke="#000"' in pages[0]
    assert pages[0].count("<circle") in (10 + 7 + 1, 11 + 7 + 1)


def test_what_cannot_be_explored_says_why_and_leaves_nothing(trained: Path, start: Commands) -> None:
    def problem(*words: str) -> str:
        ended = start("explore", *words)
        assert ended.code == 2, ended.err
        return str(ended.err)

    assert "run: missing; want a run folder, as run=FOLDER" in problem()
    assert "did you mean top_k?" in problem(f"run={trained}", "topk=3")
    assert "map: want pca or tsne, got 'umap'" in problem(f"run={trained}", "map=umap")
    assert "table: want a table that a feature reads, got 'itm'; did you mean item?" in problem(
        f"run={trained}", "table=itm"
    )
    said = problem(f"run={trained}", "ids=[70000,70001]")
    assert said.count("ids: want raw ids of table item, got 7000") == 2
    assert "colour: want null without a map, got kind" in problem(f"run={trained}", "colour=kind", "map=null")
    problem(f"run={trained}", "out=deep/er/seen", "ids=[70000]")
    assert [*start.folder.iterdir()] == []
    (start.folder / "full").mkdir()
    (start.folder / "full" / "mine.txt").touch()
    assert "out: want the folder of what explore writes or a new one" in problem(f"run={trained}", "out=full")
    assert start("explore", f"run={trained}", "out=seen").code in (0, None)
    (start.folder / "seen" / "mine.txt").touch()
    assert "want nothing but what explore writes to overwrite, got mine.txt" in problem(f"run={trained}", "out=seen")
    (start.folder / "seen" / "mine.txt").unlink()
    (start.folder / "seen" / "rows" / "mine.csv").touch()
    assert "want nothing but what explore writes to overwrite, got rows/mine.csv" in problem(
        f"run={trained}", "out=seen"
    )
    (start.folder / "seen" / "rows" / "mine.csv").unlink()
    (start.folder / "other").mkdir()
    (start.folder / "other" / "explore.json").write_text('{"my": "data"}')
    said = problem(f"run={trained}", "out=other")
    assert "got other/explore.json, which does not say what else of that folder is its own; move" in said
    before = (start.folder / "seen" / "explore.json").read_text()
    problem(f"run={trained}", "out=seen", "ids=[70000]")
    assert (start.folder / "seen" / "explore.json").read_text() == before
    assert "data: want a dataset folder, got nowhere" in problem(f"run={trained}", "data=nowhere")
    assert not (trained / "explore").exists()


def test_items_are_coloured_and_captioned_by_attributes_of_theirs(sequences: Path, tmp_path: Path) -> None:
    words = ["+features.kinds={table: kind, column: kinds, pooling: sum, of: history}", "+tables.kind.dim=8"]
    words += ["model=item2vec", f"data={sequences}", f"run={tmp_path / 'run'}", "device=cpu", "tables.item.dim=8"]
    words += ["features.history.max_length=6", "steps=2", "epochs=null", "global_batch=16", "early_stopping=null"]
    sharded_emb.train(sharded_emb.compose(*words, "loss=softmax"))
    dataset = sharded_emb.Dataset.open(sequences)
    kinds, names = dataset.item_attributes()["kinds"].to_pylist(), dataset.raw_ids("kinds").to_pylist()
    raw = dataset.raw_ids("item").to_pylist()
    plain = next(row for row in range(2, len(raw)) if not kinds[row])
    kinded = next(row for row in range(2, len(raw)) if len(kinds[row]) > 1)
    asked = ["table=item", f"ids=[{raw[plain]},{raw[kinded]}]", "colour=kinds", "caption=kinds"]
    said = sharded_emb.explore(tmp_path / "run", *asked)
    called = f"{raw[kinded]} {' '.join(names[each] for each in kinds[kinded])}"
    assert [each["id"] for each in said["tables"]["item"]["neighbours"]] == [raw[plain], called]
    page = (tmp_path / "run" / "explore" / "explore.html").read_text()
    assert f"{called}, {names[kinds[kinded][0]]}: " in page
    assert f"{raw[plain]}, (none): " in page
    for words, problem in (
        (
            ["colour=kind"],
            "colour: want an attribute of items in .* that has a vocabulary, got kind; did you mean kinds?",
        ),
        (["caption=users"], "caption: want an attribute of items in .* that has a vocabulary, got users; "),
        (["caption=kinds", "table=kind"], "caption: want a table whose rows are items, got kind; leave it out"),
    ):
        with pytest.raises(sharded_emb.InputError, match=problem):
            sharded_emb.explore(tmp_path / "run", *words)


def test_before_the_first_epoch_ends_nothing_is_said_of_rows_that_are_still_to_be_read(
    clicks: Path, tmp_path: Path
) -> None:
    words = ["features.history.pooling=sum", "model=linear", "loss=binary_cross_entropy", "early_stopping=null"]
    words += [f"data={clicks}", "tables.item.dim=8", "global_batch=16", "steps=1", "epochs=null", "device=cpu"]
    sharded_emb.train(sharded_emb.compose(*words, "features.history.max_length=1", f"run={tmp_path / 'run'}"))
    said = sharded_emb.explore(tmp_path / "run")
    assert said["epochs"] == 0
    assert said["tables"]["item"]["read_but_not_moved"] > 0
    assert not any("have not moved" in note for note in said["tables"]["item"]["notes"])
