"""Where raw data are: paths, patterns, folders, zip archives, URLs, object storage, Kafka; all end as local files."""

import hashlib
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from sharded_emb.data import kafka
from sharded_emb.data.download import download, fetching
from sharded_emb.data.work import Progress, Work
from sharded_emb.errors import InputError, nearest

_WEB = ("http://", "https://")
_BYTES_AT_ONCE = 1 << 22
# the extra that brings the library of a protocol
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def is_remote(place: str) -> bool:
    """Whether a place is a URL, of the web or of object storage."""
    return "://" in place


def local_path(key: str, place: str, what: str) -> Path:
    """A path that is there. Raises InputError on `key`, with the nearest name."""
    path = Path(place).expanduser()
    if not path.exists():
        beside = [str(other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, beside) if beside else "; check the path"
        raise InputError(f"{key}: want {what}, got {place}, which does not exist{hint}")
    return path


def is_pattern(place: str) -> bool:
    """Whether a place stands for the files that match it."""
    return any(letter in place for letter in "*?[") and not Path(place).expanduser().exists()


def local_files(key: str, place: str, downloads: Path, progress: Progress) -> list[Path]:
    """The files and folders that a place names, fetched into `downloads` where it is a URL.

    Raises InputError on `key` for what is not there or cannot be had.
    """
    if place.startswith(_WEB):
        return [download(key, place, _folder_of(downloads, place), progress)]
    if place.startswith(kafka.SCHEME):
        return kafka.topic_files(key, place, _folder_of(downloads, place.partition("?")[0]), progress)
    if is_remote(place):
        return _from_storage(key, place, _folder_of(downloads, place), progress)
    path = Path(place).expanduser()
    if not is_pattern(place):
        return [path]
    found = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    if not found:
        raise InputError(f"{key}: want files, got {place}, which none matches; check the pattern")
    return found


def require_sha256(key: str, paths: Iterable[Path], wanted: str) -> None:
    """Raises InputError on `key` unless there is one file, with this hash."""
    files = list(paths)
    if len(files) != 1 or not files[0].is_file():
        raise InputError(f"{key}: want one file for a hash, got {len(files)} files or a folder; leave it out")
    with files[0].open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != wanted.lower():
        raise InputError(f"{key}: want {wanted} of {files[0]}, got {got}; delete the file to fetch it again")


def _folder_of(downloads: Path, place: str) -> Path:
    return downloads.expanduser() / hashlib.sha256(place.encode()).hexdigest()[:12]


def _from_storage(key: str, place: str, folder: Path, progress: Progress) -> list[Path]:
    """Copies of the objects that a URL or pattern names, by fsspec; those of the right size are not copied again."""
    import fsspec  # torch brings it, but reading local files shall not wait for it

    protocol = place.partition("://")[0]
    try:
        system, pattern = fsspec.core.url_to_fs(place)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f"pip install 'sharded-emb[{extra}]'" if extra else "install its library"
        raise InputError(f"{key}: want a library for {protocol}://, got none ({error}); {hint}") from error
    except ValueError as error:
        raise InputError(f"{key}: want a URL that fsspec knows, got {place}: {error}; check it") from error
    try:
        names = sorted(system.glob(pattern)) if any(letter in pattern for letter in "*?[") else [pattern]
        if len(names) == 1 and system.isdir(names[0]):
            names = sorted(system.find(names[0]))
        if not names:
            raise InputError(f"{key}: want objects, got {place}, which nothing matches; check it")
        with progress.step(f"fetching {place}"):
            return [_copied(system, name, folder, progress) for name in names]
    except InputError:
        raise
    except Exception as error:  # every library of every store has errors of its own
        raise InputError(
            f"{key}: want {place}, got {type(error).__name__}: {error}; check it and your access"
        ) from error


def _copied(system: Any, name: str, folder: Path, progress: Progress) -> Path:
    target = folder / PurePosixPath(name).name
    size = system.info(name)["size"]

    def whole() -> bool:
        return target.is_file() and target.stat().st_size == size

    if whole():
        return target
    with fetching(target, progress):
        if whole():
            return target
        part = target.with_name(f"{target.name}.part")
        with system.open(name, "rb") as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy, _BYTES_AT_ONCE)
        part.rename(target)
    return target


def unpacked(key: str, archive: Path, work: Work) -> Path:
    """The folder of an archive's files, which is gone when `prepare` ends."""
    folder = work.scratch / "unpacked" / hashlib.sha256(str(archive).encode()).hexdigest()[:12]
    try:
        with work.progress.step(f"unpacking {archive.name}"), zipfile.ZipFile(archive) as opened:
            if bad := opened.testzip():
                raise InputError(f"{key}: want a whole zip archive in {archive}, got a damaged {bad}; get it anew")
            opened.extractall(folder)  # which keeps names with .. inside the folder
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{key}: want a zip archive in {archive}, got {error}; get it anew") from error
    return folder
