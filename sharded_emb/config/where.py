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
    """conf/ and the folders of `--config-dir`. Raises InputError with each of those that is no folder."""
    folders = list(own)
    wrong = [f"--config-dir: want a folder, got {folder}, which is none" for folder in folders if not folder.is_dir()]
    if wrong:
        raise InputError(*wrong)
    return [conf_folder(), *(folder.resolve() for folder in folders)]
