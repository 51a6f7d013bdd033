"""A file from the web: resumed where an earlier try ended, complete or absent under its name."""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sharded_emb.data.alone import alone
from sharded_emb.data.work import Progress
from sharded_emb.errors import InputError

TRIES = 5
WAIT_SECONDS = 1.0
TIMEOUT_SECONDS = 60.0
_BYTES_AT_ONCE = 1 << 20


class _CutOffError(Exception):
    """The connection ended before the file did."""


def download(key: str, url: str, folder: Path, progress: Progress) -> Path:
    """The file of a URL in `folder`, fetched unless it is there already, by one process at a time.

    Raises InputError on `key`.
    """
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlparse(url).path)).name or "file"
    target = folder / name
    if target.is_file():
        return target
    with fetching(target, progress):
        if not target.is_file():
            with progress.step(f"fetching {url}"):
                _complete(key, url, target)
    return target


@contextmanager
def fetching(target: Path, progress: Progress) -> Iterator[None]:
    """By one process at a time: another one waits. Raises InputError where nothing can be written."""
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(target, progress.step(f"waiting for another prepare that fetches {target.name}")))
        except OSError as error:
            got = f"got {target.parent}: {error.strerror}"
            raise InputError(f"dataset.downloads: want a folder to write to, {got}") from error
        yield


def _complete(key: str, url: str, target: Path) -> None:
    """Fetches a file, in several tries."""
    part = target.with_name(f"{target.name}.part")
    for attempt in range(1, TRIES + 1):
        try:
            _fetch(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and _size(part):  # another file than the part is of
                part.unlink()
                if attempt < TRIES:
                    continue
            # what the server refuses will be refused again; what it fails at may not
            if error.code < 500 or attempt == TRIES:
                raise InputError(f"{key}: want {url}, got HTTP {error.code} {error.reason}; check it") from error
        except (_CutOffError, OSError, http.client.HTTPException, ValueError) as error:
            if attempt == TRIES or isinstance(error, ValueError):
                hint = f"; run it again to go on behind {_size(part):,} bytes" if _size(part) else "; check it"
                raise InputError(f"{key}: want {url}, got {_reason(error)}{hint}") from error
        time.sleep(WAIT_SECONDS * 2 ** (attempt - 1))
    part.rename(target)
    _state_of(part).unlink(missing_ok=True)


def _fetch(url: str, part: Path) -> None:
    """Appends what is missing to the part. Raises _CutOffError where that is not all."""
    state, have = _state_of(part), _size(part)
    try:
        known = json.loads(state.read_text())
    except (FileNotFoundError, ValueError):  # a kill may have cut it off
        known = {}
    request = urllib.request.Request(url, headers={"User-Agent": "sharded-emb"})
    if have and known.get("version"):
        # If-Range: another version of the file comes whole
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known["version"])
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        length = answer.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if resumed else 0)
        state.write_text(json.dumps({"version": _version(answer), "total": total}))
        with part.open("ab" if resumed else "wb") as file:
            while block := answer.read(_BYTES_AT_ONCE):
                file.write(block)
    if total is not None and _size(part) != total:
        raise _CutOffError(f"{_size(part):,} of {total:,} bytes")


def _version(answer: Any) -> str | None:
    """What tells one version of a file from another; a weak tag does not promise the same bytes."""
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _state_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)
