"""Who imports whom, over the syntax tree of the package: only downward, and heavy libraries only where they belong."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "sharded_emb"

COMMANDS = {"prepare", "train", "evaluate", "plan", "export", "explore"}
# a module may import from its own floor and from those below it
FLOORS = [
    {
        "layers",
        "batch",
        "tables",
        "pooling",
        "ids",
        "optim",
        "pretrained",
        "replacing",
        "sharding",
        "component",
        "initializers",
        "vocabulary_rows",
        "errors",
        "versions",
    },
    {"embeddings", "models", "losses", "metrics", "data"},
    {"planning"},
    {"distributed"},
    {"training", "serving", "exploring"},
    {"config"},
    {"cli"},
    {"__init__", "__main__", "api", "doctor", *COMMANDS},
]
FLOOR_OF = {part: level for level, floor in enumerate(FLOORS) for part in floor}
# what a model author writes knows no parallelism
INNOCENT = ("models", "layers", "losses", "metrics", "embeddings", "data", "planning")


@dataclass(frozen=True)
class Use:
    """A dotted name that a file imports or reads, and the line."""

    name: str
    line: int


def module_of(path: Path) -> str:
    """`sharded_emb.models.sasrec` for its file, relative to the package; a package is its `__init__`."""
    return ".".join(["sharded_emb", *path.with_suffix("").parts])


def imports(tree: ast.AST, module: str) -> Iterator[Use]:
    """Every name a file imports, wherever it does, relative ones and importlib's made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Use(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (Use(f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__", "run_module") and isinstance(node.args[0].value, str):
                yield Use(node.args[0].value, node.lineno)


def reads(tree: ast.AST) -> Iterator[Use]:
    """Every dotted expression: `torch.distributed.get_rank` needs no import of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield Use(ast.unparse(node), node.lineno)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def import_problems(source: str, path: Path) -> list[str]:
    """Which rules a file breaks; path is relative to the package."""
    tree, module = ast.parse(source), module_of(path)
    part = module.split(".")[1]
    if part not in FLOOR_OF:
        return [f"{path}: {part} has no floor; give it one in {Path(__file__).name}"]
    problems = []

    def forbid(use: Use, reason: str) -> None:
        problems.append(f"{path}:{use.line}: {use.name}: {reason}")

    names = list(imports(tree, module))
    for use in names:
        if part in INNOCENT and within(use.name, "sharded_emb.distributed", "sharded_emb.training"):
            forbid(use, "a model knows no ranks and no loop")
        if within(use.name, "hydra", "omegaconf") and part not in COMMANDS | {"cli"}:
            forbid(use, "only the command files and cli/ import it")
        target = [*use.name.split("."), ""][1] if within(use.name, "sharded_emb") else ""
        # a name that is no module of the package is one that `__init__` offers
        if target and FLOOR_OF.get(target, FLOOR_OF["__init__"]) > FLOOR_OF[part]:
            forbid(use, f"imports upward from {part}")
    parallel = part == "distributed" or (part == "training" and path.name.startswith("checkpoint"))
    for use in {*names, *reads(tree)}:
        if within(use.name, "torch.distributed", "torchrec.distributed") and not parallel:
            forbid(use, "only distributed/ and training/checkpoint use it")
        if within(use.name, "pandas", "torch.distributed.optim"):
            forbid(use, "half a second of every start")
        if within(use.name, "os.environ", "os.environb", "os.getenv") and path != Path("distributed/process_group.py"):
            forbid(use, "the environment is read in distributed/process_group.py alone")
    return problems


@pytest.mark.parametrize("path", sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py")), ids=str)
def test_imports_go_downward_and_stay_where_they_belong(path: Path) -> None:
    assert import_problems((PACKAGE / path).read_text(), path) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("models/sasrec.py", "import torch.distributed as dist"),
        ("models/sasrec.py", "from torch import distributed"),
        ("models/sasrec.py", "def f(): return torch.distributed.get_rank()"),
        ("models/sasrec.py", "from torchrec.distributed.types import ShardingPlan"),
        ("models/sasrec.py", "importlib.import_module('torch.distributed')"),
        ("models/sasrec.py", "from sharded_emb.training.loop import train"),
        ("models/sasrec.py", "from ..training import loop"),
        ("models/__init__.py", "from .. import training"),
        ("layers/attention.py", "from sharded_emb.models.sasrec import SASRec"),
        ("data/source.py", "from sharded_emb.distributed import process_group"),
        ("training/loop.py", "from torch.distributed import barrier"),
        ("training/loop.py", "from sharded_emb.config import RunConfig"),
        ("distributed/plan.py", "def f():\n    from sharded_emb.config.where import conf_folder"),
        ("batch.py", "import sharded_emb.data.source"),
        ("errors.py", "from sharded_emb import RunConfig"),
        ("config/run.py", "import omegaconf"),
        ("config/run.py", "from sharded_emb import cli"),
        ("config/run.py", "from hydra import compose"),
        ("doctor.py", "from omegaconf import OmegaConf"),
        ("cli/composing.py", "from sharded_emb.train import main"),
        ("cli/composing.py", "rank = os.environ['RANK']"),
        ("distributed/plan.py", "from os import getenv"),
        ("distributed/shard.py", "from torch.distributed.optim import _apply_optimizer_in_backward"),
        ("data/values.py", "def f():\n    import pandas as pd"),
        ("wonders/new.py", "x = 1"),
    ],
)
def test_a_forbidden_import_is_found(path: str, line: str) -> None:
    assert len(import_problems(line, Path(path))) >= 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("models/sasrec.py", "import torch\nfrom sharded_emb.layers.attention import Attention\nfrom . import base"),
        ("distributed/process_group.py", "import os\nimport torch.distributed\nrank = os.environ['RANK']"),
        ("training/checkpoint_files.py", "from torch.distributed.checkpoint import save"),
        ("train.py", "import hydra\nfrom sharded_emb import cli\nfrom sharded_emb.training import loop"),
        ("cli/composing.py", "import sys\nfrom omegaconf import OmegaConf\nfrom sharded_emb.config import run"),
        ("models/sasrec.py", "'torch.distributed is only named here'"),
    ],
)
def test_an_allowed_import_passes(path: str, line: str) -> None:
    assert import_problems(line, Path(path)) == []
