"""Checkpoints saved under one plan and loaded under another, on more ranks, are bitwise the same.

A sample; all of them are `python benchmarks/reshards.py`.
"""

import random

from benchmarks.reshards import measure
from tests.distributed.reshard_cases import KINDS, all_reshards


def test_a_sample_of_reshards() -> None:
    # saved in this process, since ranks take long to start
    from_one_to_two = [each for each in all_reshards() if (each.saved_world, each.loaded_world) == ("1", "2")]
    draw = random.Random(20)
    wanted = [one for kind in KINDS for one in draw.sample([r for r in from_one_to_two if r.kind == kind], 2)]
    assert {odd for found in measure(wanted).values() for odd in found} == set()
