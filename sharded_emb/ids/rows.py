"""An id is its row, as in `torch.nn.Embedding`."""

from sharded_emb.ids.base import Ids


class Rows(Ids):
    """A row that is not there is an error, or what `features.NAME.unknown` says."""

    def keeps_rows(self, before: int, now: int) -> bool:  # noqa: ARG002
        """New rows stand behind the old ones."""
        return True
