"""Tables and clusters for the tests of planning."""

from collections.abc import Mapping
from typing import Any

from sharded_emb.distributed.cuts import problems
from sharded_emb.embeddings.updates import Step, with_updates
from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.planning.cluster import Cluster, Rates
from sharded_emb.planning.estimates import Costs
from sharded_emb.planning.options import Legal
from sharded_emb.planning.shapes import Ranks
from sharded_emb.planning.sizes import Workload
from sharded_emb.tables import Defaults, FeatureConfig, Table, TableConfig, resolve

RATES = Rates(memory=1e12, intra=100e9, inter=10e9, latency=0.0)
ADAGRAD = Adagrad(lr=0.1)


def cluster(
    hosts: int = 1, per_host: int = 2, memory: float = 80e9, rates: Rates = RATES, host_memory: float = 1e12
) -> Cluster:
    """GPUs of which all memory may be tables, as may that of their hosts."""
    return Cluster("cuda", hosts, per_host, int(memory), 0.0, rates, int(host_memory))


def tables(
    configs: Mapping[str, Mapping[str, Any]], optimizer: EmbeddingOptimizer = ADAGRAD, pooling: str = "sum"
) -> list[Table]:
    """With one feature each, `f_NAME`."""
    resolved = resolve(
        {name: TableConfig.model_validate(dict(config)) for name, config in configs.items()},
        {f"f_{name}": FeatureConfig(table=name, column="c", pooling=pooling) for name in configs},
        {},
        Defaults(optimizer),
    )
    return with_updates(resolved, Step("cuda"))


def costs(made: list[Table], where: Cluster, batch: int = 1024, ids: float = 1.0) -> Costs:
    """Of a step with so many ids of each feature a sample."""
    return Costs(where, Workload(batch, {f.name: ids for table in made for f in table.features}))


def legal(where: Cluster) -> Legal:
    """What the trainer takes."""
    return lambda table: not problems([table], Ranks(where.world_size, where.per_host))
