"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

The published model scores with dot products; `similarity: cosine` with a temperature is what the losses of gSASRec's
successors use and what trains best on small logs.
"""

from collections.abc import Sequence

from sharded_emb.layers.attention import TransformerBlock
from sharded_emb.models.compared import BlocksConfig, CausalModel
from sharded_emb.tables import Table


class SASRec(BlocksConfig):
    """Transformer blocks."""

    def build(self, tables: Sequence[Table]) -> CausalModel:
        """The module."""
        return CausalModel(self, tables, lambda dim: TransformerBlock(dim, self.heads, self.hidden, self.dropout))
