"""What TorchRec shards collections with: the types they may take, and the codecs of their exchanges."""

from typing import Any

import torch.distributed as dist
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import ShardingEnv, ShardingType

from sharded_emb.distributed.communication import Communication
from sharded_emb.distributed.replicas import Group


class BagSharder(EmbeddingBagCollectionSharder):
    """Shards pooled tables. The default CPU sharder offers no type that cuts rows, though they train exactly.

    inside: the ranks among which tables are cut.
    """

    inside: ShardingEnv

    def shard(self, module: Any, params: Any, env: ShardingEnv, *more: Any, **named: Any) -> Any:  # noqa: ARG002
        """The module, whose ranks are those of one replica and not all that average dense gradients."""
        return super().shard(module, params, self.inside, *more, **named)

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """All but data-parallel, which is ours."""
        return [kind.value for kind in ShardingType if kind is not ShardingType.DATA_PARALLEL]


class RowSharder(EmbeddingCollectionSharder):
    """Shards unpooled tables, likewise."""

    inside: ShardingEnv

    def shard(self, module: Any, params: Any, env: ShardingEnv, *more: Any, **named: Any) -> Any:  # noqa: ARG002
        """As that of `BagSharder`."""
        return super().shard(module, params, self.inside, *more, **named)


def sharders(communication: Communication, block_width: int, group: Group) -> list[Any]:
    """Those of pooled and of unpooled collections, in this order, for the ranks of a group."""
    codecs = communication.registry(block_width)
    found: list[Any] = [BagSharder(qcomm_codecs_registry=codecs), RowSharder(qcomm_codecs_registry=codecs)]
    for sharder in found:
        sharder.inside = ShardingEnv.from_process_group(group.device or dist.group.WORLD)
    return found
