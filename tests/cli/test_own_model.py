"""A model in somebody else's package: one Python file, one YAML file, `--config-dir`."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.cli import served
from tests.cli.commands import ROOT, result

MODEL = '''
"""The mean of the items so far, turned once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sharded_emb.batch import Jagged
from sharded_emb.layers.jagged import pad
from sharded_emb.models.base import NextItemConfig, NextItemModel
from sharded_emb.tables import Table


class MeanOfPast(NextItemConfig):
    scale: float = 1.0

    def build(self, tables: Sequence[Table]) -> NextItemModel:
        (dim,) = {table.dim for table in tables}
        return MeanOfPastModel(self, dim)


class MeanOfPastModel(NextItemModel):
    def __init__(self, config: MeanOfPast, dim: int) -> None:
        super().__init__(config.history)
        self.turn, self.scale = nn.Linear(dim, dim), config.scale

    def encode(self, events: Jagged) -> Tensor:
        padded = pad(events)
        count_L1 = torch.arange(1, padded.values_BLD.shape[1] + 1)[:, None]
        return self.scale * self.turn(padded.unpad(padded.values_BLD.cumsum(1) / count_L1))
'''


def test_a_model_of_another_package_trains_through_config_dir(tmp_path: Path, tiny_data: Path) -> None:
    package, conf = tmp_path / "src" / "their_models", tmp_path / "conf"
    for folder in (package, conf / "model"):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "mean.py").write_text(MODEL)
    (conf / "model" / "mine.yaml").write_text("_target_: their_models.mean.MeanOfPast\nhistory: history\nscale: 1.0\n")
    words = ["model=mine", "model.scale=0.5", "loss=softmax", "steps=2", "log_every_steps=1", "tables.item.dim=8"]
    words += [f"data={tiny_data}", "run=mine", "--config-dir", str(conf)]

    def command(*line: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *line],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{tmp_path / 'src'}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    done = command("-X", "importtime", "-m", "sharded_emb.train", *words)
    kept = yaml.safe_load((tmp_path / "mine" / "run.yaml").read_text())
    assert kept["model"] == {"_target_": "their_models.mean.MeanOfPast", "history": "history", "scale": 0.5}
    assert (result(tmp_path / "mine")["status"], result(tmp_path / "mine")["steps"]) == ("finished", 2)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"torch", "fbgemm_gpu", "torchrec", "pyarrow"} <= imported
    assert not {"pandas", "torch.distributed.optim", "ibis", "scipy", "sklearn"} & imported, "every start would wait"
    command("-m", "sharded_emb.export", "run=mine")
    command("-m", "sharded_emb.evaluate", "run=mine", "predictions=lists.parquet", "filter_seen=false")
    exported = served.load(tmp_path / "mine" / "export")
    asked, wanted = served.columns(tmp_path / "mine", exported, 20), served.listed(tmp_path / "lists.parquet", 20)
    found = exported.recommend(asked, top_k=20, leave_out_seen=False)
    served.require_same_lists(found, wanted, tolerance=1e-6)
