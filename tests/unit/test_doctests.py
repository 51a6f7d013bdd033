"""Examples in docstrings run as they stand there."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["sharded_emb.embeddings"])
def test_examples_run(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 5
    assert not found.failed
