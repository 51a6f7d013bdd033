"""What `benchmarks/gpu.py` puts in the place of a run's own first values fits there."""

from pathlib import Path

import pytest

from benchmarks import gpu
from sharded_emb.config import build
from sharded_emb.distributed.process_group import Place
from tests.distributed.next_item_config import config
from tests.distributed.next_item_data import write_dataset
from tests.distributed.ranks import on_one_rank


def test_rows_are_drawn_on_the_device_in_place_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data")
    monkeypatch.setattr(build, "fill", gpu.drawn)

    def spread(place: Place) -> float:
        return float(build.Built(config(tmp_path / "data"), place).sharded.whole_table("item").std())

    assert on_one_rank(spread) == pytest.approx(0.02, rel=0.2)
