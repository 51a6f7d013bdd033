"""TorchRec as it is, without this project: what it silently makes of a small model on one and two ranks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs_registry
from torchrec.distributed.fp_embeddingbag import FeatureProcessedEmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.sharding_plan import column_wise, construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.types import EnumerableShardingSpec, ParameterSharding, ShardingPlan, ShardingType
from torchrec.inference.modules import quantize_embeddings
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
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

    def __init__(self, bags: nn.Module) -> None:
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
        self.weighted = more.get("weighted", False)
        bags = EmbeddingBagCollection(configs, is_weighted=self.weighted, device=torch.device("cpu"))
        with torch.no_grad():
            for weight in bags.parameters():
                weight.copy_(filled())
        _apply_optimizer_in_backward(optimizer, bags.parameters(), dict(arguments))
        ranks, sharder = place.world_size, AnyType(fused_params=more.get("kernel"))
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
            weights=torch.tensor([1.0 + place for bag in lists for place in range(len(bag))])
            if self.weighted
            else None,
        )
        return self.model(ids)

    def pooled(self, bags: dict[str, list[list[int]]]) -> tuple[Tensor, dict[int, Tensor]]:
        """The vectors of table a, and by row what one step on their sum takes from this rank's part of it."""
        before = self._of_table_a()
        found = self.look_up(bags).to_dict()["a_ids"]
        found.sum().backward()
        return found.detach(), self._taken(before)

    def moved(self, bags: dict[str, list[list[int]]]) -> dict[int, Tensor]:
        """By row of table a, what one step on the sum of all vectors takes from this rank's part of it."""
        before = self._of_table_a()
        summed = self.look_up(bags).values()
        (summed * torch.arange(1.0, summed.shape[1] + 1)).sum().backward()
        return self._taken(before)

    def _of_table_a(self) -> list[tuple[int, Tensor]]:
        return [(row, values.clone()) for row, _, values in self.shards("a")]

    def _taken(self, before: list[tuple[int, Tensor]]) -> dict[int, Tensor]:
        lost = [(row, old - new) for (row, old), (_, new) in zip(before, self._of_table_a(), strict=True)]
        return {row + at: part[at] for row, part in lost for at in part.abs().sum(1).nonzero()[:, 0].tolist()}


def clamped(place: Place) -> Tensor:
    """What a step takes from the row that every rank reads with a gradient of .75, with one of at most .5 asked for."""
    limit = {"gradient_clipping": True, "max_gradient": 0.5}
    model = Bare(place, {"a": table_wise(rank=0)}, kernel=limit).fill()
    before = model._of_table_a()
    model.look_up({"a": [[2]]}).values().mul(0.75).sum().backward()
    return model._taken(before).get(2, torch.zeros(DIM))


def position_weights(place: Place) -> Tensor:
    """Those of this rank after a step on bags of different length."""
    config = EmbeddingBagConfig(name="a", num_embeddings=ROWS, embedding_dim=DIM, feature_names=["a_ids"])
    bags = EmbeddingBagCollection([config], is_weighted=True, device=torch.device("cpu"))
    _apply_optimizer_in_backward(torch.optim.SGD, bags.parameters(), {"lr": 0.1})
    processor = PositionWeightedModuleCollection({"a_ids": 3}, device=torch.device("cpu"))
    weighted, sharder = FeatureProcessedEmbeddingBagCollection(bags, processor), AnyProcessed()
    ranks = place.world_size
    plan = construct_module_sharding_plan(
        weighted, {"a": table_wise(rank=0)}, sharder, local_size=ranks, world_size=ranks, device_type="cpu"
    )
    model = DistributedModelParallel(
        Model(weighted), device=torch.device("cpu"), plan=ShardingPlan({"bags": plan}), sharders=[sharder]
    )
    (weights,) = [weight for name, weight in model.named_parameters() if "position_weights" in name]
    bag = [2, 3, 4][place.rank :]
    ids = KeyedJaggedTensor(keys=["a_ids"], values=torch.tensor(bag), lengths=torch.tensor([len(bag)]))
    model(ids).values().sum().backward()
    torch.optim.SGD([weights], lr=1.0).step()
    return weights.detach()


class AnyProcessed(FeatureProcessedEmbeddingBagCollectionSharder):
    """As `AnyType`."""

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        return [kind.value for kind in ShardingType]


def planned(constrained: str) -> str:
    """The type of table `item` by TorchRec's planner, which is told that this table is to be table-wise."""
    config = EmbeddingBagConfig(name="item", num_embeddings=1000, embedding_dim=DIM, feature_names=["ids"])
    bags = EmbeddingBagCollection([config], device=torch.device("meta"))
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=2, compute_device="cpu"),
        constraints={constrained: ParameterConstraints(sharding_types=["table_wise"])},
    )
    found: Any = planner.plan(bags, [AnyType()]).plan[""]
    kind: str = found["item"].sharding_type
    return kind


def planned_bytes(applied: bool) -> int:
    """What TorchRec's planner takes a table of 1,000 x DIM for, on one rank. applied: Adagrad before the planning."""
    config = EmbeddingBagConfig(name="item", num_embeddings=1000, embedding_dim=DIM, feature_names=["ids"])
    bags = EmbeddingBagCollection([config], device=torch.device("meta"))
    if applied:
        _apply_optimizer_in_backward(torch.optim.Adagrad, bags.parameters(), {"lr": 0.1})
    options = EmbeddingEnumerator(Topology(world_size=1, compute_device="cpu"), batch_size=1).enumerate(
        bags, [AnyType()]
    )
    (whole,) = [o for o in options if (o.sharding_type, o.compute_kernel) == ("table_wise", "fused")]
    found: int = whole.shards[0].storage.ddr
    return found


def quantized() -> list[str]:
    """What becomes of a pooled and of an unpooled collection."""
    bags = EmbeddingBagConfig(name="a", num_embeddings=ROWS, embedding_dim=DIM, feature_names=["ids"])
    rows = EmbeddingConfig(name="b", num_embeddings=ROWS, embedding_dim=DIM, feature_names=["ids"])
    both = nn.ModuleDict({"pooled": EmbeddingBagCollection([bags]), "unpooled": EmbeddingCollection([rows])})
    found = quantize_embeddings(both, torch.qint8, inplace=False)
    return [f"{type(each).__module__}.{type(each).__name__}" for each in found.children()]


def along_hosts(*_: Any, **__: Any) -> ParameterSharding:
    """All ranks on one host: rows over its ranks; TorchRec's own generator leaves 8 columns whole."""
    rows = ROWS // 2
    shards = [ShardMetadata([rank * rows, 0], [rows, DIM], f"rank:{rank}/cpu") for rank in range(2)]
    return ParameterSharding(
        sharding_type=ShardingType.GRID_SHARD.value,
        compute_kernel="fused",
        ranks=[0, 1],
        sharding_spec=EnumerableShardingSpec(shards),
    )


def sent_for(dtype: str) -> dict[str, Any]:
    """By exchange what the codecs of a CPU make of vectors that are to travel in this dtype, or the error."""
    config = QCommsConfig(forward_precision=CommType(dtype), backward_precision=CommType(dtype))
    codecs = get_qcomm_codecs_registry(config, device=torch.device("cpu"))
    assert codecs is not None
    found: dict[str, Any] = {}
    for exchange, codec in codecs.items():
        try:
            found[exchange] = codec.forward.encode(torch.ones(32), codec.forward.create_context()).dtype
        except RuntimeError as error:
            found[exchange] = str(error)
    return found


def observe(place: Place) -> dict[str, Any]:
    """What this rank sees of each."""
    one = {"a": table_wise(rank=0)}
    bag = {"a": [[2]]}
    faster = Bare(place, one, arguments={"lr": 1.0}).fill()
    for group in faster.model.fused_optimizer.param_groups:
        group["lr"] = 0.0
    both = {"a": row_wise(), "b": table_wise(rank=0)}
    apart = Bare(place, {"a": table_wise(rank=1), "b": table_wise(rank=0)}).fill()
    together = Bare(place, {"a": table_wise(rank=0), "b": table_wise(rank=0)}).fill()
    accelerated = Bare(place, one, arguments={"lr": 0.1, "momentum": 0.9}).fill()
    return {
        "columns of one plan": together.look_up(BAGS).values().detach(),
        "columns of another": apart.look_up(BAGS).values().detach(),
        "keys": apart.look_up(BAGS).to_dict()["a_ids"].detach(),
        "keys in another order": apart.look_up(dict(reversed(BAGS.items()))).to_dict()["a_ids"].detach(),
        "clamped": clamped(place),
        "position weights": position_weights(place),
        "momentum": [accelerated.moved(bag) for _ in range(2)],
        "weights": Bare(place, one).shards(),
        "means": Bare(place, both, PoolingType.MEAN).fill().look_up(BAGS).to_dict()["b_ids"].detach(),
        "mean of a grid": Bare(place, {"a": along_hosts}, PoolingType.MEAN).fill().pooled({"a": BAGS["a"]})[0],
        "weighted": {
            kind: Bare(place, {"a": types}, PoolingType.MEAN, weighted=True).fill().pooled({"a": [[2, 3]]})
            for kind, types in (("table_wise", table_wise(rank=0)), ("row_wise", row_wise()))
        },
        "norm": Bare(place, one, kernel={"max_norm": 0.1}, arguments={"lr": 0.1}).fill().moved(bag),
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
