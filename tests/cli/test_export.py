"""`export`: what serves a run says what `evaluate` says, and needs torch alone."""

import fcntl
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import sharded_emb
from tests.cli import served
from tests.cli.in_process import Commands

SIZES = ("tables.item.dim=16", "model.hidden=16", "model.blocks=1", "global_batch=16", "early_stopping=null")
ALONE = """
import json, sys
from importlib.abc import MetaPathFinder

class Nothing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sharded_emb", "torchrec", "fbgemm_gpu", "pyarrow", "pydantic"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Nothing())
sys.path.insert(0, sys.argv[1])
from serving import Exported

asked = json.loads(sys.stdin.read())
print(json.dumps(Exported(sys.argv[1]).recommend(asked, top_k=20)))
"""


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    sharded_emb.train(sharded_emb.compose(*SIZES, "loss=softmax", "epochs=3", f"data={tiny_data}", f"run={folder}"))
    return folder


def test_lists_are_those_of_evaluate_in_a_process_with_torch_alone(trained: Path, tmp_path: Path) -> None:
    out = sharded_emb.export(trained, f"out={tmp_path / 'out'}")
    assert out == tmp_path / "out"
    exported = served.load(out)
    sharded_emb.evaluate(trained, f"predictions={tmp_path / 'lists.parquet'}")
    asked, wanted = served.columns(trained, exported, rows=60), served.listed(tmp_path / "lists.parquet", rows=60)
    command = [sys.executable, "-c", ALONE, str(out)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    served.require_same_lists(json.loads(done.stdout), wanted, tolerance=1e-6)
    # rows one by one, in any company
    alone = [exported.recommend({"items": [row]}, top_k=20)[0] for row in asked["items"][:7]]
    served.require_same_lists(alone, wanted[:7], tolerance=1e-6)


def test_vectors_are_those_of_the_checkpoint_by_raw_id(trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    out = sharded_emb.export(trained, f"out={tmp_path / 'out'}")
    exported, table = served.load(out), pq.read_table(out / "embeddings" / "item.parquet")
    raw = sharded_emb.Dataset.open(tiny_data).raw_ids("item").to_pylist()[2:]
    assert table["raw"].to_pylist() == raw
    vectors = np.array(table["vector"].to_pylist(), dtype=np.float32)
    assert torch.equal(exported.vectors("item", raw), torch.from_numpy(vectors))
    again = sharded_emb.compose(
        *SIZES,
        f"data={tiny_data}",
        f"tables.item.weights.path={trained}",
        "tables.item.freeze=true",
        "steps=1",
        f"run={tmp_path / 'again'}",
    )
    sharded_emb.train(again)
    other = served.load(sharded_emb.export(tmp_path / "again"))
    assert torch.equal(other.vectors("item", raw), torch.from_numpy(vectors))
    found = dict(exported.neighbours("item", raw[0], top_k=3))
    cosines = torch.nn.functional.cosine_similarity(torch.from_numpy(vectors), torch.from_numpy(vectors[:1]))
    best = cosines[1:].topk(3)
    assert found == pytest.approx(
        {raw[1 + at]: each for at, each in zip(best.indices.tolist(), best.values.tolist(), strict=True)}
    )


def test_an_export_is_there_whole_or_not_at_all_and_is_replaced_when_asked(
    start: Commands, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = start.folder / "out"
    ended = start("export", f"run={trained}", f"out={out}", "quantize=int8")
    assert ended.code in (0, None), ended.err
    assert f"exported step-12 of {trained} to {out}" in ended.out
    assert "table item: 76 x 16 int8, numbers at most 0.0" in ended.out
    before = served.manifest(out)
    again = start("export", f"run={trained}", f"out={out}")
    assert again.code == 2
    assert f"out: want a new folder, got {out}, which holds an export; overwrite=true replaces it" in again.err

    def full(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr("sharded_emb.serving.export.write_vectors", full)
        assert start("export", f"run={trained}", f"out={out}", "overwrite=true").code == 1
    assert served.manifest(out) == before
    assert sorted(entry.name for entry in start.folder.iterdir()) == ["out"]
    ended = start("export", f"run={trained}", f"out={out}", "overwrite=true")
    assert ended.code in (0, None), ended.err
    assert served.manifest(out)["tables"]["item"]["dtype"] == "fp32"
    assert sorted(entry.name for entry in start.folder.iterdir()) == ["out"]


def test_what_cannot_be_exported_says_why_and_leaves_nothing(start: Commands, trained: Path) -> None:
    def problem(*words: str) -> str:
        ended = start("export", *words)
        assert ended.code == 2, ended.err
        return str(ended.err)

    assert "run: missing; want a run folder, as run=FOLDER" in problem()
    assert "run: want a run folder, got nowhere" in problem("run=nowhere")
    assert "did you mean quantize?" in problem(f"run={trained}", "quantise=int8")
    assert "quantize: want fp16, bf16 or int8, got 'int4'" in problem(f"run={trained}", "quantize=int4")
    assert "index: want a description that faiss takes" in problem(f"run={trained}", "index=HNWS32")
    (start.folder / "full").mkdir()
    (start.folder / "full" / "mine.txt").touch()
    said = problem(f"run={trained}", f"out={start.folder / 'full'}")
    assert f"out: want the folder of an export or a new one, got {start.folder / 'full'}, which exists" in said
    assert "tables.item: want 76 x 16, as" in problem(f"run={trained}", "tables.item.dim=8")
    assert "model: want model.blocks.1." in problem(f"run={trained}", "model.blocks=2")
    other = start.folder / "other"
    sizes = ["dataset=quickstart", "dataset.users=40", "dataset.items=160", "dataset.clusters=4", "seed=3"]
    sharded_emb.prepare(sharded_emb.compose(*sizes, f"data={other}"))
    assert "data: want the vocabulary of item" in problem(f"run={trained}", f"data={other}")
    assert not (trained / "export").exists()


def test_a_place_for_an_export_that_is_none_or_taken_says_so(start: Commands, trained: Path) -> None:
    taken, part = start.folder / "taken", start.folder / ".taken.part"
    part.mkdir()
    with (part / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = start("export", f"run={trained}", f"out={taken}")
    assert ended.code == 2
    assert f"out: want {taken} for itself, got another process that writes it; wait for it" in ended.err
    # what a killed one has left there and moved aside
    (part / "model.pt2").touch()
    (start.folder / ".taken.old").mkdir()
    (start.folder / ".taken.old" / "export.json").write_text('{"files": []}')
    assert "which holds an export" in start("export", f"run={trained}", "out=taken").err
    assert [entry.name for entry in start.folder.iterdir()] == ["taken"]
    (taken / "tables").mkdir()
    for mine in ("notes.txt", "tables/item.csv"):
        (taken / mine).touch()
    said = start("export", f"run={trained}", "out=taken", "overwrite=true").err
    assert "want nothing but an export to overwrite, got notes.txt, tables, tables/item.csv in taken too; move" in said
    (taken / "tables" / "item.csv").unlink()
    for mine in ("__pycache__/mine.csv", "mine/"):
        (taken / mine).parent.mkdir(exist_ok=True)
        (taken / mine).mkdir() if mine.endswith("/") else (taken / mine).touch()
    said = start("export", f"run={trained}", "out=taken", "overwrite=true").err
    assert "got __pycache__, __pycache__/mine.csv, mine, notes.txt, tables in " in said
    shutil.rmtree(taken / "__pycache__")
    for empty in ("mine", "tables"):
        (taken / empty).rmdir()
    (taken / "lock").touch()
    (taken / "notes.txt").unlink()
    (taken / "export.json").write_text("{}")
    said = start("export", f"run={trained}", "out=taken", "overwrite=true").err
    assert "want the folder of an export of this version, got " in said
    (taken / "export.json").write_text('{"files": []}')
    assert start("export", f"run={trained}", "out=taken", "overwrite=true").code in (0, None)
    assert [entry.name for entry in start.folder.iterdir()] == ["taken"]
    assert served.manifest(taken)["format"] == 1
    for place in (".", "/"):
        assert "out: want" in start("export", f"run={trained}", f"out={place}").err
    assert "File name too long" in start("export", f"run={trained}", f"out={'a' * 300}").err
    (start.folder / "file").touch()
    ended = start("export", f"run={trained}", f"out={start.folder / 'file' / 'out'}")
    assert (ended.code, "out: want a folder" in ended.err) == (2, True)


def test_who_has_opened_an_export_keeps_it(trained: Path, tmp_path: Path) -> None:
    out = sharded_emb.export(trained, f"out={tmp_path / 'out'}", "index=HNSW16")
    exported, asked = served.load(out), {"items": [[42, 5], [7]]}
    sharded_emb.export(trained, f"out={out}", "overwrite=true", "model.temperature=0.25", "quantize=int8")
    kept = served.load(sharded_emb.export(trained, f"out={tmp_path / 'kept'}", "index=HNSW16"))
    assert exported.recommend(asked) == kept.recommend(asked)
    assert exported.recommend(asked, candidates=40) == kept.recommend(asked, candidates=40)
    assert exported.neighbours("item", 42) == kept.neighbours("item", 42)
    assert served.load(out).recommend(asked) != kept.recommend(asked)


def test_ids_of_ones_own_cannot_be_exported(trained: Path) -> None:
    wanted = (
        r"^tables.item.ids: want rows, hash, quotient_remainder, managed_collision, got tests.cli.own_pooling.Turned"
    )
    with pytest.raises(sharded_emb.InputError, match=wanted):
        sharded_emb.export(trained, "tables.item.ids={_target_: tests.cli.own_pooling.Turned}")


def test_a_damaged_checkpoint_is_not_exported(start: Commands, trained: Path) -> None:
    copy = start.folder / "run"
    shutil.copytree(trained, copy, symlinks=True)
    file = copy / "checkpoints" / "last" / "__0_0.distcp"
    letters = bytearray(file.read_bytes())
    at = letters.find(b"data/0") + 200
    letters[at] ^= 1
    file.write_bytes(letters)
    ended = start("export", f"run={copy}")
    assert ended.code == 2
    assert "run: want a whole checkpoint, got" in ended.err
    assert not (copy / "export").exists()


@pytest.mark.parametrize("quantize", ["fp16", "bf16", "int8"])
def test_quantized_numbers_are_near(trained: Path, tmp_path: Path, quantize: str) -> None:
    whole = served.load(sharded_emb.export(trained, f"out={tmp_path / 'whole'}"))
    out = sharded_emb.export(trained, f"out={tmp_path / 'out'}", f"quantize={quantize}")
    exported, raw = served.load(out), [raw for raw, _ in whole.neighbours("item", 42, top_k=80)]
    difference = (exported.vectors("item", raw) - whole.vectors("item", raw)).abs()
    assert 0 < float(difference.max()) <= served.manifest(out)["tables"]["item"]["largest_difference"]
    spread = whole.vectors("item", raw).amax(1) - whole.vectors("item", raw).amin(1)
    assert float((difference.amax(1) / spread).max()) <= {"fp16": 2**-10, "bf16": 2**-7, "int8": 0.51 / 255}[quantize]
    sizes = [(folder / "tables" / "item.bin").stat().st_size for folder in (tmp_path / "whole", out)]
    assert sizes[0] == sizes[1] * (4 if quantize == "int8" else 2)


def test_counts_are_added_to_scores_and_an_index_finds_nearly_all(trained: Path, tmp_path: Path) -> None:
    counts = "evaluation.counts={weight: 2, scale: 20}"
    exported = served.load(sharded_emb.export(trained, f"out={tmp_path / 'out'}", counts, "index=HNSW16"))
    sharded_emb.evaluate(trained, counts, f"predictions={tmp_path / 'lists.parquet'}")
    asked, wanted = served.columns(trained, exported, rows=60), served.listed(tmp_path / "lists.parquet", rows=60)
    served.require_same_lists(exported.recommend(asked, top_k=20), wanted, tolerance=1e-6)
    served.require_same_lists(exported.recommend(asked, top_k=20, candidates=20), wanted, tolerance=1e-6)
    plain = served.load(sharded_emb.export(trained, f"out={tmp_path / 'plain'}", "evaluation.counts=null"))
    with pytest.raises(ValueError, match=r"^candidates: want an export with an index, got one without"):
        plain.recommend(asked, candidates=5)
    seen = {item for item, _ in plain.recommend(asked, top_k=80, leave_out_seen=False)[0]}
    assert {*asked["items"][0]} <= seen
    assert len(seen) == 74


def test_what_is_unknown_is_told_of_once_where_nothing_unknown_was_trained(trained: Path, tmp_path: Path) -> None:
    exported = served.load(sharded_emb.export(trained, f"out={tmp_path / 'out'}"))
    ids = served.columns(trained, exported, rows=1)["items"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported.recommend({"items": [[*ids, None]]})
        assert exported.known("item", [*ids, 2**40, None]) == [True] * len(ids) + [False, False]
        with pytest.raises(KeyError, match=r"is no id of its vocabulary"):
            exported.neighbours("item", 2**40)
    with pytest.warns(UserWarning, match=f"^vocabulary item: {2**40} is not in it, and is read as what is unknown, "):
        exported.recommend({"items": [[*ids, 2**40]]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported.vectors("item", [-5])
    other = served.load(tmp_path / "out")
    with pytest.warns(UserWarning, match=r"^vocabulary item: -7 is not in it"):
        found = other.vectors("item", pd.Series([ids[0], -7], index=[1, 0]))
    assert torch.equal(found, exported.vectors("item", [ids[0], -7]))
    with pytest.raises(KeyError, match=r"want one of the tables item, got itme"):
        exported.known("itme", [1])


def test_nobody_knows_what_a_run_has_read_that_began_so(tmp_path: Path, trained: Path, tiny_data: Path) -> None:
    words = (*SIZES, "loss=softmax", "steps=1", f"data={tiny_data}", f"warm_start.run={trained}")
    run = sharded_emb.train(sharded_emb.compose(*words, f"run={tmp_path / 'run'}")).path
    outs = [sharded_emb.export(each, f"out={tmp_path / f'out{at}'}") for at, each in enumerate((trained, run))]
    said = [served.manifest(out) for out in outs]
    assert [each["vocabularies"]["item"]["unknown"] for each in said] == [0, None]


def test_what_is_unknown_and_was_trained_is_not(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(
        "\n".join(f"{user} {user % 5 + 1} {user % 4 + 1} 3 {user + 90}" for user in range(9))
    )
    words = ["dataset=beauty", f"dataset.raw={tmp_path / 'log.txt'}", f"data={tmp_path / 'data'}"]
    words += ["+dataset.vocabularies.item.min_count=2", "dataset.layout.split=by_user", "loss=softmax", "steps=1"]
    words += ["dataset.layout.valid_fraction=0", "dataset.layout.test_fraction=0", "early_stopping=null"]
    config = sharded_emb.compose(*SIZES, *words, f"run={tmp_path / 'run'}")
    sharded_emb.prepare(config)
    exported = served.load(sharded_emb.export(sharded_emb.train(config).path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported.recommend({"items": [[1, 90, 2**40]]})
    assert exported.known("item", [1, 90, 2**40]) == [True, False, False]


def test_what_a_served_model_is_asked_wrongly_it_says(trained: Path, tmp_path: Path) -> None:
    exported = served.load(sharded_emb.export(trained, f"out={tmp_path / 'out'}"))
    for columns, message in (
        ({}, "columns: want items, got no items"),
        ({"items": []}, "columns: want as many rows in each, one at least"),
        ({"items": [[]]}, "items: want one event or more in each row"),
        ({"items": [42]}, "want a list of values in each row, got 42"),
    ):
        with pytest.raises(ValueError, match=message):
            exported.recommend(columns)
    with pytest.raises(TypeError, match=r"^vocabulary item: want int as raw id, got 'B001'"):
        exported.recommend({"items": [["B001"]]})
    for more in ({}, {"candidates": 5}):
        with pytest.raises(ValueError, match=r"^top_k: want 1 or more, got 0"):
            exported.recommend({"items": [[42]]}, top_k=0, **more)
    with pytest.raises(ValueError, match=r"^want a model of the task binary, got one of next_item"):
        exported.probabilities({"items": [[42]]})
    with pytest.raises(KeyError, match=r"is no id of its vocabulary"):
        exported.neighbours("item", 2**40)
    # as `prepare` reads it: nobody's
    assert torch.equal(exported.vectors("item", [2**40]), exported.vectors("item", [-1]))
    (tmp_path / "out" / "tables" / "item.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"item.bin: want 4864 bytes, got 5; export again"):
        served.load(tmp_path / "out")
