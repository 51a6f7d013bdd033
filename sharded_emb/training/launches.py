"""Which run folders a torchrun has made: ranks that it starts anew go on in those, and in no others."""

from pathlib import Path

from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.process_group import Place, launch_id

LAUNCH = ".launch"  # in a run folder: a line for the torchrun of each host


def launch_ids(place: Place) -> list[str]:
    """Of the torchrun of each host; empty without torchrun. All ranks ask together."""
    return [each for each in dict.fromkeys(all_values(launch_id(), place)) if each is not None]


def made_by_this_launch(run: Path) -> bool:
    """Whether a run folder was made by ranks that were started by the torchrun that started this process."""
    file = run / LAUNCH
    return file.is_file() and launch_id() in file.read_text(encoding="utf-8").splitlines()


def of_this_launch(runs: Path) -> Path | None:
    """The newest run folder that they have made; None if there is none."""
    made = (file.parent for file in runs.glob(f"*/{LAUNCH}") if made_by_this_launch(file.parent))
    return max(made, key=lambda run: (run / LAUNCH).stat().st_mtime, default=None)
