"""Our planner beside TorchRec's: how long each takes, and what its plan comes to by both estimators.

python benchmarks/planner.py                         # writes benchmarks/reports/planner.md
python benchmarks/planner.py --torchrec-seconds 60   # only printed

The tables are drawn by a fixed seed. TorchRec's planner may use the same types of sharding and has the caps and rates
of the same cluster; it runs in a process of its own, which is ended where it takes too long. Our search is also run
with the costs of TorchRec's estimator in place of ours: then only the search differs.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.types import ShardingOption

from benchmarks.machine import ROOT, measured_at
from sharded_emb.distributed.communication import EXACT
from sharded_emb.distributed.plan import place_tables
from sharded_emb.distributed.sharders import BagSharder
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.updates import Step, with_updates
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.planning.cluster import Cluster, Rates
from sharded_emb.planning.estimates import Costs
from sharded_emb.planning.loads import Loads
from sharded_emb.planning.options import Option
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.search import Choice, find
from sharded_emb.planning.shapes import Placement, Ranks, Shard
from sharded_emb.planning.sizes import Workload
from sharded_emb.tables import Defaults, FeatureConfig, Table, TableConfig, resolve

CASES = ((8, 1), (22, 1), (22, 8), (26, 16), (300, 8), (1000, 8), (300, 128))
BATCH_PER_RANK = 1024
RATES = Rates(memory=3350e9, intra=450e9, inter=50e9, latency=30e-6)
MEMORY, RESERVED = 80 * 10**9, 0.15
KINDS = ["table_wise", "row_wise", "table_row_wise"]  # all that row-wise Adagrad may have


def problem(count: int, hosts: int) -> tuple[list[Table], Costs]:
    """Tables of a thousand to a hundred million rows, one to 50 ids a sample, row-wise Adagrad."""
    draw = np.random.default_rng(count)
    configs, features, ids = {}, {}, {}
    for i in range(count):
        rows, dim = int(10 ** draw.uniform(3, 8)), int(draw.choice([32, 64, 128]))
        configs[f"t{i}"] = TableConfig(rows=rows, dim=dim)
        features[f"f{i}"] = FeatureConfig(table=f"t{i}", column="c", pooling="sum")
        ids[f"f{i}"] = float(draw.choice([1, 1, 5, 20, 50]))
    tables = with_updates(resolve(configs, features, {}, Defaults(RowWiseAdagrad(lr=0.1))), Step("cuda"))
    cluster = Cluster("cuda", hosts, 8, MEMORY, RESERVED, RATES, 10**12)
    return tables, Costs(cluster, Workload(BATCH_PER_RANK * cluster.world_size, ids))


def topology(costs: Costs) -> Topology:
    """The cluster as TorchRec describes one; its rates are bytes a millisecond."""
    cluster = costs.cluster
    return Topology(
        world_size=cluster.world_size,
        local_world_size=cluster.per_host,
        compute_device="cuda",
        hbm_cap=cluster.cap,
        ddr_cap=128 * 10**9,
        hbm_mem_bw=cluster.rates.memory / 1000,
        intra_host_bw=cluster.rates.intra / 1000,
        inter_host_bw=cluster.rates.inter / 1000,
    )


def constraints(tables: list[Table], costs: Costs) -> dict[str, ParameterConstraints]:
    """Which types a table may have, and how many ids a sample has."""
    ids = costs.workload.ids
    return {
        table.name: ParameterConstraints(
            sharding_types=KINDS if costs.cluster.hosts > 1 else KINDS[:2],
            compute_kernels=["fused"],
            pooling_factors=[ids[feature.name] for feature in table.features],
        )
        for table in tables
    }


def meta_module(tables: list[Table]) -> Embeddings:
    """The lookups without memory, and with the optimizer that TorchRec counts the state of."""
    from torch.distributed.optim import _apply_optimizer_in_backward
    from torchrec.optim import RowWiseAdagrad as TorchRecRowWiseAdagrad

    module = Embeddings(tables, frozenset(), torch.device("meta"))
    _apply_optimizer_in_backward(TorchRecRowWiseAdagrad, module.parameters(), {"lr": 0.1})
    return module


def torchrec_plan(count: int, hosts: int, answers: Any) -> None:
    """Runs TorchRec's planner; answers with its seconds and its shards by table, or with what it raised."""
    torch.set_num_threads(1)
    tables, costs = problem(count, hosts)
    module, where = meta_module(tables), topology(costs)
    started = time.monotonic()
    try:
        planner = EmbeddingShardingPlanner(
            topology=where, batch_size=BATCH_PER_RANK, constraints=constraints(tables, costs)
        )
        found = planner.plan(module, [BagSharder(qcomm_codecs_registry=EXACT.codecs(torch.device("cpu")))])
    except Exception as error:  # whatever it is, it is the result
        answers.put((time.monotonic() - started, f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"))
        return
    seconds = time.monotonic() - started
    plan = {}
    for of_module in found.plan.values():
        for name, sharding in of_module.items():
            shards = [
                (shard.placement.rank(), *shard.shard_offsets, *shard.shard_sizes)
                for shard in sharding.sharding_spec.shards
            ]
            plan[name] = sharding.sharding_type, shards
    answers.put((seconds, plan))


def bounded(count: int, hosts: int, limit_seconds: float) -> tuple[float, Any]:
    """TorchRec's answer, or None after the limit."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=torchrec_plan, args=(count, hosts, answers))
    process.start()
    try:
        found: tuple[float, Any] = answers.get(timeout=limit_seconds + 20)  # the imports
    except Exception:  # queue.Empty
        found = limit_seconds, None
    process.kill()
    process.join()
    return found


def torchrec_options(tables: list[Table], costs: Costs) -> list[ShardingOption]:
    """Every option of every table, with what TorchRec's estimators say of its shards."""
    enumerator = EmbeddingEnumerator(
        topology=topology(costs), batch_size=BATCH_PER_RANK, constraints=constraints(tables, costs)
    )
    sharder: Any = BagSharder(qcomm_codecs_registry=EXACT.codecs(torch.device("cpu")))
    return list(enumerator.enumerate(meta_module(tables), [sharder]))


def torchrec_milliseconds(options: list[ShardingOption], plan: dict[str, Placement], world_size: int) -> float:
    """The time of the slowest rank by TorchRec's own estimator, whoever made the plan."""
    total = np.zeros(world_size)
    for option in options:
        placement = plan[option.name]
        if option.sharding_type == placement.kind:
            for shard, ours in zip(option.shards, placement.shards, strict=True):
                total[ours.rank] += shard.perf.total
    return float(total.max())


def search_by_torchrecs_costs(tables: list[Table], costs: Costs, found: list[ShardingOption]) -> dict[str, Placement]:
    """Our search, told what TorchRec's estimators say."""
    groups = {"row_wise": costs.cluster.world_size, "table_row_wise": costs.cluster.per_host}
    options: dict[str, list[Option]] = {table.name: [] for table in tables}
    for each in found:
        parts = [
            (
                range(shard.offset[0], shard.offset[0] + shard.size[0]),
                range(shard.offset[1], shard.offset[1] + shard.size[1]),
            )
            for shard in each.shards
        ]
        kind: Any = each.sharding_type
        sizes = np.array([float(shard.storage.hbm) for shard in each.shards])
        seconds = np.array([shard.perf.total / 1e3 for shard in each.shards])
        options[each.name].append(Option(kind, tuple(parts), sizes, seconds, groups.get(kind, 1)))
    choices = [
        Choice(table, "pooled", tuple(sorted(options[table.name], key=lambda option: option.total_seconds)))
        for table in tables
    ]
    nothing = np.zeros(costs.cluster.world_size)
    start = Loads(Ranks(costs.cluster.world_size, costs.cluster.per_host), nothing, nothing)
    best = find(choices, start, costs.cluster.cap, lambda each: float(each.loads.seconds.max()))
    assert best is not None
    return {c.table.name: option.placed(ranks) for c, (option, ranks) in zip(choices, best.taken, strict=True)}


def row(count: int, hosts: int, limit_seconds: float) -> str:
    """A line of the report."""
    tables, costs = problem(count, hosts)
    started = time.monotonic()
    plan = place_tables(tables, costs)
    seconds = time.monotonic() - started
    ours = Outcome(tables, plan, costs)
    assert ours.fits
    cells = [f"{count}", f"{8 * hosts}", f"{seconds:.2f}", f"{ours.step_seconds * 1e3:.3f}"]
    theirs_seconds, answer = bounded(count, hosts, limit_seconds)
    if not isinstance(answer, dict):
        why = f"not in {limit_seconds:.0f}" if answer is None else answer
        return f"| {' | '.join([*cells, why, '', '', '', ''])} |"
    placed: dict[str, Placement] = {
        name: Placement(kind, tuple(Shard(*shard) for shard in shards)) for name, (kind, shards) in answer.items()
    }
    theirs = Outcome(tables, placed, costs)
    options = torchrec_options(tables, costs)
    same_costs = search_by_torchrecs_costs(tables, costs, options)
    by_torchrec = [
        torchrec_milliseconds(options, each, costs.cluster.world_size) for each in (plan, same_costs, placed)
    ]
    cells += [f"{theirs_seconds:.1f}", f"{theirs.step_seconds * 1e3:.3f}", *(f"{each:.3f}" for each in by_torchrec)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Runs all cases, prints, and writes the report of a whole run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchrec-seconds", type=float, help="what TorchRec's planner is given, only printed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    limit = arguments.torchrec_seconds or 180
    lines = [
        "# Our planner beside TorchRec's",
        "",
        f"`python benchmarks/planner.py`, {measured_at()}, "
        f"one thread, no GPU. Hosts of 8 described H100 of 80 GB; {BATCH_PER_RANK:,} samples a "
        "rank; row-wise Adagrad, so that both may use table_wise, row_wise and table_row_wise. Times of a step are "
        "predictions, in milliseconds: by our estimator (latency of exchanges included), and by TorchRec's "
        "(`EmbeddingPerfEstimator`, the slowest rank), each of both plans.",
        "",
        "| | | ours | | TorchRec's | | by TorchRec's estimator | | |",
        "|---|---|---|---|---|---|---|---|---|",
        "| tables | ranks | s | step | s | step | ours | ours, searched by it | TorchRec's |",
    ]
    for count, hosts in CASES:
        lines.append(row(count, hosts, limit))
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.torchrec_seconds is None:
        (ROOT / "benchmarks" / "reports" / "planner.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
