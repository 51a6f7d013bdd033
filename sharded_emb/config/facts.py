"""What a checkpoint says of its run besides the numbers."""

from typing import Any

from sharded_emb import versions
from sharded_emb.config.build import Built
from sharded_emb.config.same_rows import said_of_dataset
from sharded_emb.training.run_folder import RunFolder
from sharded_emb.training.same_run import config_hash


def facts_of(built: Built, folder: RunFolder) -> dict[str, Any]:
    """Its config, its dataset, its plan, and with which libraries it was made."""
    return {
        "config": folder.config,
        "config_hash": config_hash(folder.config),
        **said_of_dataset(built),
        "plan": built.plan_report(),
        "versions": {name: version for name, version in versions.found().items() if version is not None},
    }
