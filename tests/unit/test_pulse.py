"""What a rank tells the others of itself, in a file that is read whole or not at all."""

from pathlib import Path

import pytest

from sharded_emb.training.pulse import FAILED, Pulse
from tests.distributed.ranks import on_one_rank


@pytest.mark.parametrize(
    "detail",
    ["", "x" * 600, "\N{GRINNING FACE}" * 600, "\\" * 600, '"\n' * 600, "\x01" * 600, "\ud83d" * 600],
    ids=ascii,
)
def test_others_read_why_a_rank_failed_whatever_its_error_is_written_in(tmp_path: Path, detail: str) -> None:
    (tmp_path / "log").mkdir()
    pulse = on_one_rank(lambda place: Pulse(tmp_path, place))
    pulse.tell(7, FAILED, detail)
    (found,) = pulse.everyone()
    assert (found.step, found.phase, found.detail) == (7, FAILED, detail[:512])
    pulse.tell(8, "forward")
    assert pulse.everyone()[0].detail == ""
    pulse.close()
