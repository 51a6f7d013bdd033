"""What `cli.importing` does to the garbage collector, and that it is as before afterwards."""

import gc
from collections.abc import Iterator

import pytest

from sharded_emb import cli


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_looks_for_garbage_meanwhile_nor_among_what_was_imported_afterwards() -> None:
    before = gc.get_freeze_count()
    with cli.importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before


def test_it_stays_off_where_it_was_and_comes_back_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), cli.importing():
        raise ImportError("no such module")
    assert gc.isenabled()
    gc.disable()
    with cli.importing():
        pass
    assert not gc.isenabled()
