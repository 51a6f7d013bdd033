"""Where a model and a checkpoint may differ, by names that a person has given, and where they did."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from sharded_emb.errors import closest, nearest
from sharded_emb.training.checkpoint_config import CheckpointConfig


@dataclass(frozen=True)
class Allowed:
    """Names of tables, or of dense weights and what is above them (`dense.model.blocks`).

    missing: what the checkpoint may lack; it keeps its initial values. unexpected: what the model may lack. What is in
    both may be of another kind, and begins anew. grown: tables, or patterns, that may have more rows. inherited: names
    that fit nothing are no error unless something does not fit, since they may be about an earlier checkpoint.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    grown: tuple[str, ...] = ()
    inherited: bool = False

    @classmethod
    def by(cls, config: CheckpointConfig, inherited: bool = False) -> "Allowed":
        """As the key `checkpoint` says."""
        return cls(config.allow_missing, config.allow_unexpected, config.grow_tables, inherited)

    @property
    def keeps_some(self) -> bool:
        """Whether rows may keep their initial values."""
        return bool(self.missing or self.grown)

    def may_lack(self, name: str) -> bool:
        """Whether the checkpoint may be without this table or dense weight."""
        return _covered(name, self.missing)

    def may_leave(self, name: str) -> bool:
        """Whether the model may be without it."""
        return _covered(name, self.unexpected)

    def may_begin_anew(self, name: str) -> bool:
        """Whether what the checkpoint has of it may be of no use."""
        return self.may_lack(name) and self.may_leave(name)

    def may_grow(self, table: str) -> bool:
        """Whether a table may have new rows behind those of the checkpoint."""
        return any(fnmatchcase(table, pattern) for pattern in self.grown)

    def misspelt(self, of_model: Iterable[str], of_checkpoint: Iterable[str]) -> Iterator[str]:
        """Names that fit nothing."""
        for key, names, known, where in (
            ("allow_missing", self.missing, list(of_model), "the model"),
            ("allow_unexpected", self.unexpected, list(of_checkpoint), "the checkpoint"),
        ):
            for name in names:
                if not any(_covered(each, [name]) for each in known):
                    # a model has hundreds of weights: what is not close to one is helped by what they are in
                    choices = _with_parents(known) if closest(name, _with_parents(known)) else _outermost(known)
                    hint = nearest(name, choices)
                    yield f"checkpoint.{key}: want a table or a dense weight of {where}, got {name!r}{hint}"


def _with_parents(names: Iterable[str]) -> set[str]:
    return {name.rsplit(".", up)[0] for name in names for up in range(name.count(".") + 1)}


def _outermost(names: Iterable[str]) -> set[str]:
    """Tables, and what a model consists of (`dense.model.blocks`)."""
    return {".".join(name.split(".")[:3]) for name in names}


def _covered(name: str, names: Iterable[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in names)


@dataclass
class Fit:
    """How a model fits a checkpoint. problems: what is not allowed, a line each.

    missing, unexpected, grown (rows before and now, by table): what was allowed, by names of tables and dense weights.
    extended: ids before and now, by table whose vocabulary extends the old one. anew: entries that are not read.
    """

    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    grown: dict[str, tuple[int, int]] = field(default_factory=dict)
    extended: dict[str, tuple[int, int]] = field(default_factory=dict)
    anew: set[str] = field(default_factory=set)

    def told(self) -> Iterator[str]:
        """Lines about what was allowed, for a person."""
        for table, (before, now) in self.grown.items():
            yield f"table {table}: {before:,} rows as they were, {now - before:,} new ones as the seed has them"
        for table, (before, now) in self.extended.items():
            if table not in self.grown:
                yield f"table {table}: its vocabulary has {now - before:,} ids more than that of the checkpoint"
        both = [name for name in self.missing if name in self.unexpected]
        for names, what in (
            (both, "is of another kind in the checkpoint, and begins anew"),
            ([name for name in self.missing if name not in both], "is not in the checkpoint, and begins anew"),
            ([name for name in self.unexpected if name not in both], "of the checkpoint is left out"),
        ):
            yield from (f"{name}: {what}" for name in names)

    def report(self) -> dict[str, Any]:
        """The same for result.json; empty where nothing had to be allowed."""
        found = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "grown_tables": {name: {"rows_before": was, "rows": now} for name, (was, now) in self.grown.items()},
            "extended_vocabularies": {
                name: {"rows_before": was, "rows": now}
                for name, (was, now) in self.extended.items()
                if name not in self.grown
            },
        }
        return {key: value for key, value in found.items() if value}
