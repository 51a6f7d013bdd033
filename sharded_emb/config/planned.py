"""The command `plan`: from a config to where its tables would go, without a group, a GPU or data."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharded_emb.config.build import given_plan, resolve_tables
from sharded_emb.config.run import PlanConfig
from sharded_emb.config.workload import lengths, workload
from sharded_emb.data.dataset import Dataset
from sharded_emb.distributed.communication import Communication
from sharded_emb.distributed.plan import place_tables, present_machine
from sharded_emb.errors import InputError
from sharded_emb.planning.cluster import described, unlike_the_device
from sharded_emb.planning.estimates import Costs
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.picture import picture
from sharded_emb.planning.plan_file import written
from sharded_emb.planning.report import report
from sharded_emb.replacing import replacing
from sharded_emb.tables import held


@dataclass(frozen=True)
class Planned:
    """What came of planning. outcome: by table and rank. text: the report. warning: of the described memory."""

    outcome: Outcome
    communication: Communication
    text: str
    warning: str | None

    def as_json(self) -> dict[str, Any]:
        """What plan.json holds."""
        return {"communication": self.communication.model_dump(), **written(self.outcome)}


def plan(config: PlanConfig) -> Planned:
    """The plan of a config, also written into `config.out` where that is given.

    Raises InputError for tables that cannot be sharded as asked, and for a plan that does not fit, with what would.
    """
    machine = present_machine(config.device)
    cluster = described(config.cluster, machine)
    dataset = None if config.data is None else Dataset.open(config.data)
    given = given_plan(config)
    tables = resolve_tables(config, dataset, given, cluster.device)
    known = lengths(config, tables, dataset, config.ids_per_sample)
    costs = Costs(cluster, workload(config, tables, known))
    placements = place_tables(held(tables), costs) if given is None else given.placements()
    outcome = Outcome(held(tables), placements, costs)
    if not outcome.fits:
        raise InputError(
            f"sharding.plan: want a plan that fits {outcome.misfit} in {config.sharding.plan}; set sharding.plan=null "
            "to have one made"
        )
    assumed = {name: str(length) for name, length in known.items()}
    planned = Planned(
        outcome, config.sharding.communication, report(outcome, assumed), unlike_the_device(config.cluster, machine)
    )
    if config.out is not None:
        _write(config.out, planned)
    return planned


def _write(folder: Path, planned: Planned) -> None:
    """plan.json and plan.svg, each whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files: Mapping[str, Callable[[], str]] = {
            "plan.json": lambda: json.dumps(planned.as_json(), indent=2) + "\n",
            "plan.svg": lambda: picture(planned.outcome),
        }
        for name, text in files.items():
            with replacing(folder / name) as aside:
                aside.write_text(text(), encoding="utf-8")
    except OSError as error:
        raise InputError(f"out: want a folder that can be written, got {folder} ({error.strerror})") from error
