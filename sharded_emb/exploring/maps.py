"""Rows on a plane.

P  rows    D  dim
"""

from typing import Literal

import torch
from torch import Tensor

from sharded_emb.exploring.figures import Spread

Kind = Literal["pca", "tsne"]
_FEWEST = 5  # rows of which neighbours are worth a map of their own
_PERPLEXITY = 30.0


def placed(vectors_PD: Tensor, spread: Spread, kind: Kind, seed: int) -> Tensor:
    """Where each of the rows is: float64 (P, 2). By the two axes along which the rows of the table differ most, or by
    t-SNE of cosines (van der Maaten and Hinton, JMLR 2008) as scikit-learn has it, which starts from there.
    """
    at_P2 = (vectors_PD.double() - spread.mean_D) @ spread.axes_DD[:, :2]
    if kind == "pca" or len(vectors_PD) < _FEWEST:
        return at_P2
    from sklearn.manifold import TSNE

    scale = at_P2.std(0)[0].clamp(min=torch.finfo(torch.float64).tiny)
    found = TSNE(
        metric="cosine",
        init=(at_P2 / scale * 1e-4).numpy(),
        perplexity=min(_PERPLEXITY, (len(vectors_PD) - 1) / 3),
        random_state=seed,
    )
    return torch.from_numpy(found.fit_transform(vectors_PD.double().numpy()))
