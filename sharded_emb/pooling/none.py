"""No pooling: the feature stays a sequence."""

from typing import ClassVar

from sharded_emb.pooling.base import Pooling


class NoPooling(Pooling):
    """For models that read events one by one."""

    keeps_sequence: ClassVar[bool] = True
