"""How numbers become what a dataset has; what depends on all rows of a log: edges of even buckets, means, deviations.

A dataset that another one extends, and a stream that is added to it, take these from it: a bucket of another name would
be an id that nobody has trained, and a number on another scale another number.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from sharded_emb.data.attribute import Attribute, Fit
from sharded_emb.data.dataset import AGAIN, Dataset
from sharded_emb.errors import InputError

Numbers = dict[str, Any]


class Fits:
    """known: of a dataset, whose columns are `had`; None where it does not say. key: that names it. found: of all
    attributes so far.
    """

    def __init__(self, known: Mapping[str, Fit] | None = None, had: Iterable[str] = (), key: str = "data") -> None:
        self.known, self.had, self.key = known, {*had}, key
        self.found: dict[str, Fit] = {}

    @classmethod
    def of(cls, dataset: Dataset, key: str) -> "Fits":
        """Those of a dataset that somebody names by this key."""
        manifest = dataset.manifest
        return cls(manifest.fitted, [*manifest.columns, *manifest.item_attributes], key)

    def all(self, attributes: Collection[str]) -> dict[str, Fit]:
        """With those that are known of what is no attribute now, and may be one again. attributes: those that are."""
        away = {name: fit for name, fit in (self.known or {}).items() if name not in attributes}
        return {**away, **self.found}

    def told(self, attributes: Collection[str]) -> Iterator[str]:
        """A line for each attribute whose numbers, or ids, are others than in the dataset that is known."""
        for name, fit in (self.known or {}).items():
            now = self.found.get(name)
            if name in attributes and (now is None or now.rule != fit.rule):
                rule = "no numbers" if now is None else now.rule
                yield f"{name}: {rule}, which was {fit.rule}: its values are others than before"

    def fit(self, name: str, attribute: Attribute, compute: Callable[[], Numbers]) -> Fit:
        """What is known of an attribute with this rule, else what is computed. Raises InputError for a dataset of an
        earlier version, which does not say what it was, and for numbers that are too large to be scaled.
        """
        rule = attribute.rule(name)
        assert rule is not None
        known = None if self.known is None else self.known.get(name)
        if self.known is None and attribute.of_all_rows and name in self.had:
            got = "got one of an earlier version, which does not say it"
            raise InputError(f"{self.key}: want a dataset that says what {rule} came to, {got}; prepare it again")
        if known is None or known.rule != rule:
            numbers = compute()
            scales = {key: value for key, value in numbers.items() if isinstance(value, float)}
            if not all(map(math.isfinite, scales.values())):
                got = f"got {', '.join(f'{key} {value}' for key, value in scales.items())}"
                raise InputError(f"dataset.attributes.{name}.scale: want numbers that can be scaled, {got}; use log")
            known = Fit(rule=rule, **numbers)
        self.found[name] = known
        return known

    def missing(self, name: str, compute: Callable[[], float]) -> float:
        """What stands for a number that a user or an item has not: what is known of it, else what is computed."""
        fit = self.found[name]
        if fit.missing is None:
            if not math.isfinite(missing := compute()):
                raise InputError(f"dataset.attributes.{name}: want numbers that have a mean, got a sum of {missing}")
            fit = self.found[name] = fit.model_copy(update={"missing": missing})
        assert fit.missing is not None
        return fit.missing


def fits_of(columns: Iterable[str], dataset: Dataset) -> dict[str, Fit]:
    """By column how its numbers came to be, for columns that hold numbers or buckets of them. Columns of histories,
    `HISTORY_ATTRIBUTE`, have what is beside their events.

    Raises InputError for a dataset of an earlier version, which does not say it.
    """
    manifest, found = dataset.manifest, {}
    attributes: Mapping[str, Any] = manifest.dataset.get("attributes") or {}
    known: Mapping[str, Any] = attributes if manifest.fitted is None else manifest.fitted
    histories = [
        name for name, each in manifest.columns.items() if each.type == "list<int64>" and each.vocabulary == "item"
    ]
    beside = {f"{history}_{name}": name for history in histories for name in known}
    for column in columns:
        is_history = column not in attributes and manifest.columns[column].type == "list<float32>"
        name = column if column in known else beside.get(column) if is_history else None
        if name is None:
            continue
        if manifest.fitted is not None:
            found[column] = manifest.fitted[name]
        elif any(attributes[name].get(key) is not None for key in ("edges", "buckets", "scale")):
            got = f"got {dataset.folder} of an earlier version, which does not say it"
            raise InputError(f"data: want a dataset that says how {column} came to be, {got}; {AGAIN}")
    return found
