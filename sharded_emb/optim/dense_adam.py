"""Adam for dense weights (Kingma and Ba, ICLR 2015)."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch.optim import Optimizer

from sharded_emb.optim.adamw import AdamW


class DenseAdam(AdamW):
    """Weight decay is added to the gradient of matrices (L2), as torch has it."""

    kind: ClassVar[Callable[..., Optimizer]] = torch.optim.Adam
