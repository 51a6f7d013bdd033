"""Train models whose weight is mostly embedding tables: sharded by TorchRec, the same numbers everywhere.

In a notebook or a script (see `sharded_emb.api`):

    import sharded_emb

    config = sharded_emb.compose("experiment=quickstart", "data=data/tiny", "dataset.users=500", "steps=100")
    sharded_emb.prepare(config)            # raw log -> dataset folder, a Dataset
    print(sharded_emb.plan(config).text)   # where its tables would go, and what that comes to
    outcome = sharded_emb.train(config)    # dataset folder -> run folder, an Outcome: path, status, metrics
    sharded_emb.evaluate(outcome.path, "split=valid")
    sharded_emb.export(outcome.path)       # run folder -> embeddings by raw id, and a model for torch alone
    sharded_emb.explore(outcome.path)      # run folder -> what its tables have become: reads, norms, neighbours, a map
    sharded_emb.Dataset.open("data/tiny")  # columns, splits, vocabularies
    sharded_emb.InputError                 # what each of them raises: .problems, one line each, key first

The commands of the same names are `python -m sharded_emb.train ...`, or `sharded-emb train ...`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharded_emb.api import compose, evaluate, explore, export, plan, prepare, train
    from sharded_emb.data.dataset import Dataset
    from sharded_emb.errors import InputError

__all__ = ["Dataset", "InputError", "compose", "evaluate", "explore", "export", "plan", "prepare", "train"]

_HOMES = {"Dataset": "sharded_emb.data.dataset", "InputError": "sharded_emb.errors"}


def __getattr__(name: str) -> Any:
    # on demand: `doctor` and the launchers import the package where nothing is installed yet
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "sharded_emb.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
