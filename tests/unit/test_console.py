"""What a rank shows on the console, beside its log file."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharded_emb.training.run_log import log_file, log_to


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "log").mkdir()
    log, before = logging.getLogger("sharded_emb"), list(logging.getLogger("sharded_emb").handlers)
    yield tmp_path
    for handler in log.handlers:
        handler.close()
    log.handlers = before


@pytest.mark.parametrize(("rank", "shown"), [(0, "told\nwarned\n"), (3, "[rank 3] warned\n")])
def test_the_console_has_the_first_rank_and_tagged_warnings_of_the_others(
    run: Path, capsys: pytest.CaptureFixture[str], rank: int, shown: str
) -> None:
    log_to(run, rank)
    log = logging.getLogger("sharded_emb")
    log.info("told")
    log.warning("warned")
    log.warning("a traceback", extra={"file_only": True})
    assert capsys.readouterr().err == shown
    lines = log_file(run, rank).read_text().splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == ["INFO told", "WARNING warned", "WARNING a traceback"]
