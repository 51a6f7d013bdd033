"""What TorchRec shards collections with: the types they may take, and the codecs of their exchanges."""

from typing import Any

from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import ShardingType

from sharded_emb.distributed.communication import Communication


class BagSharder(EmbeddingBagCollectionSharder):
    """Shards pooled tables; the default CPU sharder offers no type that cuts rows, though they train exactly."""

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """All but data-parallel, which is ours."""
        return [kind.value for kind in ShardingType if kind is not ShardingType.DATA_PARALLEL]


def sharders(communication: Communication, block_width: int) -> list[Any]:
    """Those of pooled and of unpooled collections, in this order."""
    codecs = communication.registry(block_width)
    return [BagSharder(qcomm_codecs_registry=codecs), EmbeddingCollectionSharder(qcomm_codecs_registry=codecs)]
