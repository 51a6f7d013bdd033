"""What a person sees of a run while it goes on."""

import logging
import re

import pytest
import torch

from sharded_emb.distributed.process_group import Place
from sharded_emb.training.progress import Display
from sharded_emb.training.state import Progress

HERE = Place(0, 1, 0, 1, torch.device("cpu"), None)


def shown(total_steps: int | None, caplog: pytest.LogCaptureFixture) -> tuple[str, dict[str, float]]:
    """Of a run that went on after step 90, did ten steps of 8 samples and 200 ids, and was away for an hour."""
    display = Display(total_steps, HERE)
    display.begin(Progress(step=90, samples=720))
    for step in range(91, 101):
        display.step(step, ids=200)
    display.exclude(3600)
    display.exclude(-3610)  # and ten seconds went by, in which the steps were done
    with caplog.at_level(logging.INFO, logger="sharded_emb"):
        rates = display.report(Progress(step=100, samples=800), "epoch 1.50", {"loss": 0.25, "lr_factor": 0.5})
    return caplog.messages[-1], rates


def test_a_line_has_rates_memory_and_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    line, rates = shown(150, caplog)
    assert rates["samples_per_second"] == pytest.approx(8, rel=0.1)
    assert rates["ids_per_second"] == pytest.approx(200, rel=0.1)
    assert rates["peak_memory_bytes"] > 1e7
    text = r"step 100  epoch 1\.50  loss 0\.2500  factor 0\.5  8 samples/s  (\d+) ids/s  \S+ [MG]B  0:00:(\d+) left"
    assert (told := re.fullmatch(text, line)), line
    assert 190 <= int(told[1]) <= 200
    assert 50 <= int(told[2]) <= 55


def test_a_run_beyond_its_end_has_no_time_left_and_one_without_tells_none(caplog: pytest.LogCaptureFixture) -> None:
    assert shown(99, caplog)[0].endswith("  0:00:00 left")
    assert not shown(10**16, caplog)[0].endswith("left")


def test_no_time_is_left_to_tell_where_no_end_is_known(caplog: pytest.LogCaptureFixture) -> None:
    line, _ = shown(None, caplog)
    assert line.endswith("B")
