"""Ids that are no row of their table, where that is no error."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from sharded_emb.batch import UnknownCount
from sharded_emb.distributed.agree import all_sums, all_values
from sharded_emb.distributed.process_group import Place

log = logging.getLogger("sharded_emb")


def unknown_of_all(
    found: Mapping[str, Mapping[str, UnknownCount]], policy: Callable[[str], str], place: Place
) -> dict[str, dict[str, Any]]:
    """Counts over all ranks, by split and feature; says which there are. policy: what a feature does with them."""
    told: dict[str, dict[str, Any]] = {}
    for split, counts in found.items():
        for feature, count in counts.items():
            sums = all_sums([count.ids, count.out_of_range, count.out_of_vocabulary], place)
            least = min((each for each in all_values(count.least, place) if each is not None), default=None)
            names = ("ids", "out_of_range", "out_of_vocabulary")
            values: dict[str, Any] = dict(zip(names, map(int, sums), strict=True))
            told.setdefault(split, {})[feature] = {**values, "least_out_of_range": least}
            if sums[1]:
                said = (split, feature, int(sums[1]), int(sums[0]), least, policy(feature))
                log.warning("%s: feature %s: %d of %d ids are no row of its table, such as %s; unknown=%s", *said)
    return told
