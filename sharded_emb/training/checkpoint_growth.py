"""Reading tables that have grown: their old rows, in whatever shards; new ones stay as they are."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from sharded_emb.training import checkpoint_entries as entries
from sharded_emb.training.checkpoint_misfits import shape_of


class Growth(DefaultLoadPlanner):
    """The library's planner, which reads what of each shard was saved, once it takes the tensors for as large as they
    are now. tables: those that may have more rows than were saved.
    """

    def __init__(self, tables: Mapping[str, Any]) -> None:
        super().__init__()
        self.tables = tables

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """See the base class."""
        assert metadata is not None
        saved = dict(metadata.state_dict_metadata)
        for name in entries.of(entries.TABLES, state_dict):
            info, shape = saved[name], shape_of(state_dict[name])
            if entries.table_of(name) in self.tables and isinstance(info, TensorStorageMetadata) and shape is not None:
                saved[name] = replace(info, size=torch.Size(shape))
        super().set_up_planner(state_dict, replace(metadata, state_dict_metadata=saved), is_coordinator)
