"""How numbers become what a dataset has; what depends on all rows of a log: edges of even buckets, means, deviations.

A dataset that another one extends, and a stream that is added to it, take these from it: a bucket of another name would
be an id that nobody has trained, and a number on another scale another number.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sharded_emb.data.attribute import Attribute, Fit
from sharded_emb.data.dataset import Dataset
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

    def fit(self, name: str, attribute: Attribute, compute: Callable[[], Numbers]) -> Fit:
        """What is known of an attribute with this rule, else what is computed. Raises InputError for a dataset of an
        earlier version, which does not say what it was.
        """
        rule = attribute.rule(name)
        assert rule is not None
        known = None if self.known is None else self.known.get(name)
        if self.known is None and attribute.of_all_rows and name in self.had:
            got = "got one of an earlier version, which does not say it"
            raise InputError(f"{self.key}: want a dataset that says what {rule} came to, {got}; prepare it again")
        if known is None or known.rule != rule:
            known = Fit(rule=rule, **compute())
        self.found[name] = known
        return known
