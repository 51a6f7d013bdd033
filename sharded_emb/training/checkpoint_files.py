"""A checkpoint on the disk: written aside, complete or absent, and each part of it with a checksum."""

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.metadata import Metadata

from sharded_emb.errors import InputError
from sharded_emb.replacing import replacing

MANIFEST = "manifest.json"
STATE = "state.json"
_FORMAT = 2  # of what that says
_STEP = "step-"
_BYTES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Piece:
    """Bytes of a file that belong together, and their CRC-32. name: of the entry that they hold, or of the file."""

    file: str
    name: str
    offset: int
    size: int
    crc32: int


def steps(folder: Path) -> list[Path]:
    """The complete checkpoints, newest first."""
    named = (path for path in folder.glob(f"{_STEP}*") if path.name.removeprefix(_STEP).isdecimal())
    found = [path for path in named if (path / MANIFEST).is_file()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step after which it was written."""
    return int(checkpoint.name.removeprefix(_STEP))


def of_step(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or will be."""
    return folder / f"{_STEP}{step}"


def begin(target: Path) -> Path:
    """An empty folder aside. What a killed save left there goes."""
    for left in (*target.parent.glob(f".{_STEP}*.part"), *target.parent.glob(target.name)):
        shutil.rmtree(left)
    aside = target.with_name(f".{target.name}.part")
    aside.mkdir(parents=True)
    return aside


def give_up(aside: Path) -> None:
    """Removes what there is of a checkpoint that cannot be finished."""
    shutil.rmtree(aside, ignore_errors=True)


def finish(aside: Path, target: Path, pieces: Sequence[Piece]) -> None:
    """Writes the manifest, and gives the folder its name once everything is on the disk."""
    files = [[p.file, p.name, p.offset, p.size, p.crc32] for p in pieces]
    write_json(aside / MANIFEST, {"crc32": _crc_of(files), "pieces": files})
    sync(aside)
    aside.rename(target)
    sync(target.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Waits until the names of a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pieces_of_rank(folder: Path, metadata: Metadata, rank: int, threads: int = 1) -> list[Piece]:
    """The checksums of what this rank wrote, read back piece by piece."""
    mine = sorted(
        (info.relative_path, info.offset, info.length, index.fqn)
        for index, info in metadata.storage_data.items()
        if info.relative_path.startswith(f"__{rank}_")
    )
    for file in dict.fromkeys(file for file, *_ in mine):
        at = 0
        for _, offset, length, _ in (each for each in mine if each[0] == file):
            assert offset == at, "entries leave no gaps"
            at = offset + length
        assert at == (folder / file).stat().st_size, "entries leave nothing after them"

    def piece(file: str, offset: int, length: int, name: str) -> Piece:
        return Piece(file, name, offset, length, crc32_of(folder / file, offset, length))

    with ThreadPoolExecutor(threads) as pool:
        return [*pool.map(lambda each: piece(*each), mine)]


def whole_file(path: Path) -> Piece:
    """A small file as one piece."""
    size = path.stat().st_size
    return Piece(path.name, path.name, 0, size, crc32_of(path, 0, size))


def crc32_of(path: Path, offset: int, size: int) -> int:
    """Of some bytes of a file; of fewer where it ends before."""
    crc = 0
    with path.open("rb", buffering=0) as opened:
        opened.seek(offset)
        while size > 0 and (read := opened.read(min(size, _BYTES_AT_ONCE))):
            crc, size = zlib.crc32(read, crc), size - len(read)
    return crc


def state_of(checkpoint: Path, key: str) -> dict[str, Any]:
    """What a checkpoint says of its run. Raises InputError on the key for one of another version."""
    said: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    if said.get("format") != _FORMAT:
        raise InputError(f"{key}: want a checkpoint of this version, got {checkpoint} of another; train again")
    return said


def write_state(aside: Path, said: Mapping[str, Any]) -> None:
    """Writes that."""
    write_json(aside / STATE, {**said, "format": _FORMAT})


def damage(checkpoint: Path, number: int = 0, of: int = 1, entry: str | None = None, threads: int = 1) -> list[str]:
    """What is wrong with the files of a checkpoint, each `FILE (ENTRY)`; empty if it is whole.

    number, of: which share of its pieces to look at, so that ranks can divide the work, of which each has threads.
    entry: of this one alone, which may be a file.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        if manifest["crc32"] != _crc_of(manifest["pieces"]):
            return [MANIFEST]
    except (OSError, ValueError, KeyError, TypeError):
        return [MANIFEST]
    pieces = [piece for each in manifest["pieces"] if entry in (None, (piece := Piece(*each)).name)]

    def wrong(piece: Piece) -> bool:
        try:
            return crc32_of(checkpoint / piece.file, piece.offset, piece.size) != piece.crc32
        except OSError:
            return True

    mine = pieces[number::of]
    with ThreadPoolExecutor(threads) as pool:
        found = [piece for piece, is_wrong in zip(mine, pool.map(wrong, mine), strict=True) if is_wrong]
    return list(dict.fromkeys(p.file if p.name == p.file else f"{p.file} ({p.name})" for p in found))


def _crc_of(values: Any) -> int:
    return zlib.crc32(json.dumps(values).encode())


def point(link: Path, name: str) -> None:
    """Makes a link name another checkpoint, in one step."""
    with replacing(link) as aside:
        aside.symlink_to(name)


def named(folder: Path, names: Sequence[str]) -> Mapping[str, Path]:
    """What the links name, of those that lead somewhere."""
    return {name: (folder / name).resolve() for name in names if (folder / name).exists()}


def newest(folder: Path) -> Path | None:
    """The best checkpoint, else the last, else the newest that is complete; None if there is none."""
    found = named(folder, ("best", "last"))
    return found.get("best") or found.get("last") or next(iter(steps(folder)), None)


def drop(checkpoints: Sequence[Path]) -> None:
    """Removes checkpoints; each is no checkpoint any more before anything of it is gone."""
    for checkpoint in checkpoints:
        gone = checkpoint.with_name(f".{checkpoint.name}.part")
        with contextlib.suppress(OSError):  # somebody may look at it; it goes with the next save
            shutil.rmtree(gone, ignore_errors=True)
            checkpoint.rename(gone)
            shutil.rmtree(gone)
