"""Tables and features to lookups, pooled vectors and sequences.

An embedding is a trained table from an id to a vector. Looking an id up is what multiplying its one-hot code with the
table would give, without the zeros:

>>> import torch
>>> table_ND = torch.tensor([[0.0, 0.0], [0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
>>> words = {"free": 1, "call": 2, "now": 3}
>>> ids = torch.tensor([words[word] for word in "call now".split()])
>>> one_hot = torch.nn.functional.one_hot(ids, num_classes=4).float()
>>> one_hot
tensor([[0., 0., 1., 0.],
        [0., 0., 0., 1.]])
>>> torch.equal(one_hot @ table_ND, torch.nn.functional.embedding(ids, table_ND))
True

The same through the rows that this package trains:

>>> from sharded_emb.embeddings.local_rows import Cut, LocalRows
>>> from sharded_emb.optim.sgd import SGD
>>> from sharded_emb.tables import Defaults, FeatureConfig, TableConfig, resolve
>>> feature = FeatureConfig(table="word", column="words", pooling="mean")
>>> (word,) = resolve({"word": TableConfig(rows=4, dim=4)}, {"words": feature}, {}, Defaults(SGD(lr=1.0)))
>>> rows = LocalRows([Cut(word, range(4))], table_ND.clone())
>>> torch.equal(one_hot @ table_ND, rows.vectors(ids))
True

And one step of it moves the rows that were looked up, and no others:

>>> rows.vectors(ids).sum().backward()
>>> rows.update(rows.take_gradients(), lr=0.1, step=1)
>>> rows.weight_RD
tensor([[0.0000, 0.0000],
        [0.1000, 0.2000],
        [0.2000, 0.3000],
        [0.4000, 0.5000]])
"""
