"""Where the configuration groups (conf/) are: inside an installed package, or beside it in a checkout."""

from collections.abc import Iterable
from pathlib import Path

from sharded_emb.errors import InputError


def conf_folder() -> Path:
    """The folder with base.yaml and the groups. Raises InputError, with what to do, if there is none."""
    package = Path(__file__).resolve().parent.parent
    # the wheel's copy first, and known by its base.yaml: beside an installed package lie other people's folders
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "base.yaml").is_file():
            return folder
    raise InputError(
        f"conf: want a folder conf with base.yaml in {package} (installed) or in {package.parent} (checkout), "
        "got neither; install the wheel again, or run from a whole checkout"
    )


def folders_of(own: Iterable[Path]) -> list[Path]:
    """conf/ and those folders of `--config-dir` that are there."""
    return [conf_folder(), *(folder.resolve() for folder in own if folder.is_dir())]


def missing_folders(own: Iterable[Path]) -> list[str]:
    """A problem for each folder of `--config-dir` that is not there."""
    return [f"--config-dir: want a folder, got {folder}, which is none" for folder in own if not folder.is_dir()]


def from_home(path: Path) -> Path:
    """The path with a leading ~ as the home folder; a ~NAME that is nobody's stays as it is."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path
