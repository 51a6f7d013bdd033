"""TorchRec as it is, without this project: what it silently makes of a small model on two ranks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import column_wise, construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.types import ShardingPlan, ShardingType
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.distributed.process_group import Place

ROWS, DIM = 8, 8
BAGS = {"a": [[2, 3, 4], [5]], "b": [[2, 3], [4]]}


def filled() -> Tensor:
    """The weights of every table at the start (ROWS, DIM)."""
    return torch.arange(ROWS * DIM).view(ROWS, DIM).float() / 64


class AnyType(EmbeddingBagCollectionSharder):
    """The default one offers no row-wise on a CPU."""

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        return [kind.value for kind in ShardingType]


class Model(nn.Module):
    """Nothing but lookups."""

    def __init__(self, bags: EmbeddingBagCollection) -> None:
        super().__init__()
        self.bags = bags

    def forward(self, ids: KeyedJaggedTensor) -> Any:
        return self.bags(ids)


class Bare:
    """A model after sharding; types: by table. Without `fill` it has what TorchRec left of the weights."""

    def __init__(
        self, place: Place, types: dict[str, Any], pooling: PoolingType = PoolingType.SUM, **more: Any
    ) -> None:
        optimizer, arguments = more.get("optimizer", torch.optim.SGD), more.get("arguments", {"lr": 1.0})
        configs = [
            EmbeddingBagConfig(
                name=name, num_embeddings=ROWS, embedding_dim=DIM, feature_names=[f"{name}_ids"], pooling=pooling
            )
            for name in types
        ]
        bags = EmbeddingBagCollection(configs, device=torch.device("cpu"))
        with torch.no_grad():
            for weight in bags.parameters():
                weight.copy_(filled())
        _apply_optimizer_in_backward(optimizer, bags.parameters(), dict(arguments))
        ranks, sharder = place.world_size, AnyType()
        plan = construct_module_sharding_plan(
            bags, types, sharder, local_size=ranks, world_size=ranks, device_type="cpu"
        )
        shardings = ShardingPlan({"bags": plan})
        self.model = DistributedModelParallel(
            Model(bags), device=torch.device("cpu"), plan=shardings, sharders=[sharder]
        )

    def fill(self) -> "Bare":
        for row, column, values in self.shards():
            rows, columns = values.shape
            values.copy_(filled()[row : row + rows, column : column + columns])
        return self

    def shards(self, table: str = "") -> list[tuple[int, int, Tensor]]:
        return [
            (*shard.metadata.shard_offsets, shard.tensor)
            for key, weight in self.model.state_dict().items()
            if table in key
            for shard in weight.local_shards()
        ]

    def look_up(self, bags: dict[str, list[list[int]]]) -> Any:
        lists = [bag for of_table in bags.values() for bag in of_table]
        ids = KeyedJaggedTensor(
            keys=[f"{name}_ids" for name in bags],
            values=torch.tensor([i for bag in lists for i in bag]),
            lengths=torch.tensor([len(bag) for bag in lists]),
        )
        return self.model(ids)

    def moved(self, bags: dict[str, list[list[int]]]) -> dict[int, Tensor]:
        """By row of table a, what one step on the sum of all vectors takes from this rank's part of it."""
        before = [(row, values.clone()) for row, _, values in self.shards("a")]
        summed = self.look_up(bags).values()
        (summed * torch.arange(1.0, summed.shape[1] + 1)).sum().backward()
        after = [values for _, _, values in self.shards("a")]
        found = {}
        for (row, old), new in zip(before, after, strict=True):
            rows = (old - new).abs().sum(1).nonzero()[:, 0].tolist()
            found |= {row + at: (old - new)[at] for at in rows}
        return found


def observe(place: Place) -> dict[str, Any]:
    """What this rank sees of each."""
    one = {"a": table_wise(rank=0)}
    bag = {"a": [[2]]}
    faster = Bare(place, one, arguments={"lr": 1.0}).fill()
    for group in faster.model.fused_optimizer.param_groups:
        group["lr"] = 0.0
    both = {"a": row_wise(), "b": table_wise(rank=0)}
    return {
        "weights": Bare(place, one).shards(),
        "means": Bare(place, both, PoolingType.MEAN).fill().look_up(BAGS).to_dict()["b_ids"].detach(),
        "decayed": Bare(place, one, arguments={"lr": 0.1, "weight_decay": 0.5}).fill().moved(bag),
        "not decayed": Bare(place, one, arguments={"lr": 0.1}).fill().moved(bag),
        "rate of zero": faster.moved(bag),
        "bad id, table-wise": Bare(place, one).fill().moved({"a": [[ROWS + 1]]}),
        "bad id, row-wise": Bare(place, {"a": row_wise()}).fill().moved({"a": [[ROWS + 1]]}),
        "whole": Bare(place, one, optimizer=RowWiseAdagrad, arguments={"lr": 0.1}).fill().moved(bag),
        "columns": Bare(place, {"a": column_wise(ranks=[0, 1])}, optimizer=RowWiseAdagrad, arguments={"lr": 0.1})
        .fill()
        .moved(bag),
    }
