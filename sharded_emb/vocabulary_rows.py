"""The special rows of every vocabulary, and so of every table."""

PADDING_ROW = 0
UNKNOWN_ROW = 1
FIRST_ROW = 2
"""The first row that stands for a raw id."""
