"""Checkpoints saved under one plan and loaded under another, on more ranks, are bitwise the same.

A sample; all of them are `python benchmarks/reshards.py`.
"""

import random

from benchmarks.reshards import measure
from tests.distributed.reshard_cases import all_reshards


def test_a_sample_of_reshards() -> None:
    # saved in this process, since ranks take long to start
    from_one_to_two = [each for each in all_reshards() if (each.saved_world, each.loaded_world) == ("1", "2")]
    wanted = random.Random(20).sample(from_one_to_two, 10)
    assert {odd for found in measure(wanted).values() for odd in found} == set()
    assert len({each.kind for each in wanted}) >= 4
