"""Tables of attributes beside a log: one user or item a row."""

from typing import Any, Literal

from pydantic import Field, model_validator

from sharded_emb.component import Frozen
from sharded_emb.data.tabular import Encoding

Format = Literal["csv", "tsv", "jsonl", "parquet"]


class SideTable(Frozen):
    """A table of users or items; a path alone stands for it, too (`dataset.items=movies.csv`).

    path: a name alone is looked for beside the log as well. key: the column of ids, called as in the log by default.
    The others are as in `EventLog`.
    """

    path: str
    key: str | None = None
    format: Format | None = None
    separator: str | None = Field(default=None, min_length=1, max_length=4)
    encoding: Encoding = "utf-8"
    header: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value
