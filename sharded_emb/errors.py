"""What a person can cause, as exceptions: every message begins with the key or place it is about."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """The user's input is wrong: config, data, ids, a path, a plan that does not fit. Commands end with code 2.

    problems holds one line each, `KEY: want WANTED, got GOT; WHAT TO DO`, all that could be found at once.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class OneLabelError(InputError):
    """Labels are all 0 or all 1 where both are needed. Raised on every rank."""


class OutOfRangeIdError(InputError):
    """An id that is no row of its table. Raised on every rank with the same text, before any table changes."""


def closest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that a person who typed `name` may have meant; None if all are far from it."""
    return next(iter(difflib.get_close_matches(name, sorted(choices), n=1, cutoff=0.6)), None)


class RunFailedError(Exception):
    """A run ended for a reason that the text says in full: it is shown without a traceback. Commands end with code 1.

    everywhere: all ranks raise it with the same text, so that one of them shows it.
    """

    everywhere = True


_LISTED = 40  # a folder may hold thousands of names


def nearest(name: str, choices: Iterable[str]) -> str:
    """`; did you mean NAME?` for the closest choice, else a list of the choices, ready to append to a problem."""
    known = sorted(choices)
    if close := closest(name, known):
        return f"; did you mean {close}?"
    if not known:
        return ""
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"; there are: {', '.join(known[:_LISTED])}{more}"
