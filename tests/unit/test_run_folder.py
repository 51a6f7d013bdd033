"""What a run folder holds after runs that stop and go on."""

import json
from pathlib import Path

from sharded_emb.distributed.process_group import Place
from sharded_emb.training.run_folder import RunFolder
from tests.distributed.ranks import on_one_rank


def test_a_line_of_metrics_is_there_once_however_often_its_step_is_done_anew(tmp_path: Path) -> None:
    def steps(place: Place) -> list[int]:
        run = tmp_path / "run"
        folder = RunFolder.create(run, "as typed", {"a": 1}, place)
        saved = folder.metrics_bytes
        folder.write_metrics(5, "train", {"loss": 1.0})
        folder.close()
        for _ in range(2):  # killed after step 5; a checkpoint before its line says how much was written
            folder = RunFolder.reopen(run, {"a": 1}, place)
            folder.rewind(4, 0.0, saved)
            saved = folder.metrics_bytes
            folder.write_metrics(5, "train", {"loss": 1.0})
            folder.close()
        return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]

    assert on_one_rank(steps) == [5]
