"""Each id of a table once: what is asked for, and who gets which vector and gradient."""

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.embeddings.distinct import Distinct
from sharded_emb.optim.sgd import SGD
from sharded_emb.tables import Defaults, FeatureConfig, TableConfig, resolve

FEATURES = {
    "liked": FeatureConfig(table="item", column="liked", pooling="none"),
    "seen": FeatureConfig(table="item", column="seen", pooling="none"),
    "words": FeatureConfig(table="word", column="words", pooling="none"),
}
TABLES = resolve({name: TableConfig(rows=9, dim=4) for name in ("item", "word")}, FEATURES, {}, Defaults(SGD(lr=1.0)))
BATCH = {"liked": [[5, 3], [], [5]], "seen": [[3], [8], [5]], "words": [[], [2, 2], []]}


def batch(bags: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    lists = [bag for of_feature in bags.values() for bag in of_feature]
    values = torch.tensor([i for bag in lists for i in bag], dtype=torch.int64)
    return KeyedJaggedTensor(keys=[*bags], values=values, lengths=torch.tensor([len(bag) for bag in lists]))


def test_a_table_is_asked_for_each_id_of_all_its_features_once() -> None:
    asked = Distinct(TABLES, batch(BATCH)).ids
    assert asked.keys() == ["item", "word"]
    assert (asked["item"].values().tolist(), asked["word"].values().tolist()) == ([3, 5, 8], [2])
    assert (asked["item"].lengths().tolist(), asked["word"].lengths().tolist()) == ([3, 0, 0], [1, 0, 0])


def test_every_id_has_its_vector_and_gradients_of_what_was_repeated_add_up() -> None:
    distinct = Distinct(TABLES, batch(BATCH))
    rows = torch.arange(36.0).view(9, 4).requires_grad_()
    answers = {name: rows[distinct.ids[name].values()] for name in ("item", "word")}
    found = distinct.spread(answers)
    for name, bags in BATCH.items():
        assert torch.equal(found[name], rows[[i for bag in bags for i in bag]])
    (found["liked"].sum() + 10 * found["seen"].sum() + 100 * found["words"].sum()).backward()
    assert rows.grad is not None
    assert rows.grad[:, 0].tolist() == [0, 0, 200, 11, 0, 12, 0, 0, 10]


def test_gradients_of_what_was_repeated_add_up_in_float32() -> None:
    distinct = Distinct(TABLES, batch({"liked": [[5] * 1000], "seen": [[]], "words": [[]]}))
    answers = {"item": torch.ones(1, 4, dtype=torch.bfloat16, requires_grad=True), "word": torch.ones(0, 4)}
    found = distinct.spread(answers)["liked"]
    found.sum().backward()
    assert found.dtype == torch.float32
    assert answers["item"].grad is not None
    assert answers["item"].grad.tolist() == [[1000.0] * 4]  # one by one bf16 stops at 256


def test_a_batch_without_any_id_asks_for_none() -> None:
    distinct = Distinct(TABLES, batch({name: [[], []] for name in BATCH}))
    found = distinct.spread({"item": torch.zeros(0, 4), "word": torch.zeros(0, 4)})
    assert {name: vectors.shape for name, vectors in found.items()} == dict.fromkeys(BATCH, (0, 4))
