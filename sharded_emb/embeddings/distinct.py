"""Each id of a table once: what a rank asks for of what its samples repeat.

N  ids of all features of a table    U  distinct ids
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.tables import Table


class Distinct:
    """The distinct ids of tables that are not pooled. ids: those to look up, by table. All belong to the first sample:
    whose they are is of no matter to a lookup that does not pool.
    """

    def __init__(self, tables: Sequence[Table], ids: KeyedJaggedTensor) -> None:
        self.tables = tables
        self.sizes: dict[str, int] = {}
        self._where: dict[str, Tensor] = {}
        values, lengths = [], []
        for table in tables:
            read = [ids[feature.name].values() for feature in table.features]
            self.sizes |= {feature.name: len(each) for feature, each in zip(table.features, read, strict=True)}
            distinct_U, self._where[table.name] = torch.unique(torch.cat(read), return_inverse=True)
            values.append(distinct_U)
            lengths.append(torch.nn.functional.pad(ids.lengths().new_tensor([len(distinct_U)]), (0, ids.stride() - 1)))
        names = [table.name for table in tables]
        self.ids = KeyedJaggedTensor(keys=names, values=torch.cat(values), lengths=torch.cat(lengths))

    def spread(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """By feature the vectors of all its ids, of those by table that were looked up."""
        vectors: dict[str, Tensor] = {}
        for table in self.tables:
            # in float32, in which the gradients of what was repeated are added up
            vectors_ND = found[table.name].float().index_select(0, self._where[table.name])
            parts = vectors_ND.split([self.sizes[feature.name] for feature in table.features])
            vectors |= {feature.name: part for feature, part in zip(table.features, parts, strict=True)}
        return vectors
