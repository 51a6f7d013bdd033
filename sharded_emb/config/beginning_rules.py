"""Rules about what a run reads besides its dataset: a stream of samples, and the run that it begins from."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharded_emb.data.stream import StreamConfig
from sharded_emb.training.run_folder import RUN

Tree = Mapping[str, Any]


def stream_problems(sound: Tree) -> Iterator[str]:
    """A stream has to be a folder by now, if only an empty one: a mistyped name would be waited for."""
    stream: StreamConfig | None = sound.get("stream")
    if stream is None or stream.folder is None:
        return
    folder = stream.folder.expanduser()
    if not folder.is_dir():
        got = "is a file" if folder.exists() else "does not exist"
        yield f"stream.folder: want a folder of parts, got {stream.folder}, which {got}; make it, or check the path"
    if sound.get("verify"):
        yield "verify: want false with stream.folder, since what is compared is trained on the train split, got true"


def start_problems(sound: Tree) -> Iterator[str]:
    """What a run begins from has to be a run."""
    start: Path | None = sound.get("start_from")
    if start is not None and not (start / RUN).is_file():
        yield f"start_from: want the folder of a run, got {start}, which is none; check the path"
