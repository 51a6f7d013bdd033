"""Each thing with the one that comes after it."""

from collections.abc import Iterator

import pytest

from sharded_emb.errors import InputError
from sharded_emb.training.following import with_following


def failing(error: Exception) -> Iterator[int]:
    """1, 2, and the error."""
    yield from (1, 2)
    raise error


def test_each_comes_with_the_next_one_where_that_is_wanted() -> None:
    assert list(with_following(iter([1, 2, 3]), lambda: True)) == [(1, 2), (2, 3), (3, None)]
    assert list(with_following(iter([1, 2, 3]), lambda: False)) == [(1, None), (2, None), (3, None)]
    wanted = iter([True, False, True])
    assert list(with_following(iter([1, 2, 3]), lambda: next(wanted))) == [(1, 2), (2, None), (3, None)]
    assert list(with_following(iter([]), lambda: True)) == []


def test_what_all_ranks_know_of_is_raised_after_what_came_before_it_was_used() -> None:
    found = []
    with pytest.raises(InputError, match="a bad id"):
        found.extend(with_following(failing(InputError("a bad id")), lambda: True))
    assert found == [(1, 2), (2, None)]


def test_what_one_rank_alone_knows_of_is_raised_at_once() -> None:
    found = []
    with pytest.raises(KeyError):
        found.extend(with_following(failing(KeyError("a bug")), lambda: True))
    assert found == [(1, 2)]
