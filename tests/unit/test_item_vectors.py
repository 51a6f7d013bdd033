"""What describes an item is part of its vector wherever the item is read."""

import torch

from sharded_emb.batch import CANDIDATES, Embedded, Extent, Jagged
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.pooling.position_weighted import PositionWeighted
from tests.tables import make_feature, make_table

DIM = 4


def jagged(rows: list[list[int]], table_ND: torch.Tensor) -> Jagged:
    ids_T = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    lengths_B = torch.tensor([len(row) for row in rows])
    return Jagged(table_ND[ids_T], ids_T, lengths_B, Extent(max(map(len, rows)), sum(map(bool, rows))))


def test_an_item_has_one_vector_in_histories_and_among_candidates_by_whatever_pooling() -> None:
    torch.manual_seed(0)
    pooling = PositionWeighted()
    kind = make_feature("kind", "kind", pooling=pooling, max_length=3, of="history")
    of_candidates = make_feature("candidates:kind", "kind", pooling=pooling, max_length=3, of=CANDIDATES)
    poolings = Poolings([make_table("kind", 9, DIM, kind, of_candidates)], torch.device("cpu"))
    with torch.no_grad():
        for weight in poolings.parameters():
            weight.copy_(torch.rand_like(weight))
    assert len(list(poolings.parameters())) == 1
    items_ND, kinds_ND = torch.randn(6, DIM), torch.randn(9, DIM)
    kinds = {2: [3, 4, 5], 3: [], 4: [7]}
    sequences = {
        "history": jagged([[2, 3], [4, 2]], items_ND),
        CANDIDATES: jagged([[4, 2, 3], []], items_ND),
        "kind": jagged([kinds[item] for item in (2, 3, 4, 2)], kinds_ND),
        "candidates:kind": jagged([kinds[item] for item in (4, 2, 3)], kinds_ND),
    }
    found = poolings(Embedded({}, sequences)).sequences
    assert set(found) == {"history", CANDIDATES}
    history_TD, candidates_KD = found["history"].values_TD, found[CANDIDATES].values_TD
    torch.testing.assert_close(candidates_KD, history_TD[[2, 0, 1]])
    torch.testing.assert_close(history_TD[1], items_ND[3])  # nothing describes it
    assert not torch.equal(history_TD[0], items_ND[2])
