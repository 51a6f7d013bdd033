"""A text to its words, as `prepare` has them of texts with a label."""

import unicodedata

_SPACES = "\t\n\v\f\r\x85"


def words_of(text: str) -> list[str]:
    """Lower-cased, each of the digits 0 to 9 a 0, and every character but letters with their marks a word by itself.

    >>> words_of("Call 0800 NOW!")
    ['call', '0000', 'now', '!']
    """
    return [word for word in "".join(map(_read, text)).split(" ") if word]


def _read(character: str) -> str:
    if character.isascii() and character.isdigit():
        return "0"
    kind, small = unicodedata.category(character)[0], character.lower()[0]  # one for one, wherever in a word it is
    if kind in "LM":
        return small
    return " " if kind == "Z" or character in _SPACES else f" {small} "
