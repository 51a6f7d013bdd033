"""The wheel, installed into an empty environment, finds conf/ from any directory."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from sharded_emb.config import where
from sharded_emb.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, **where_and_how: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **where_and_how)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # with the build backend at hand no registry is asked
    at_hand = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    run(*pip, "wheel", "--no-deps", *at_hand, "--wheel-dir", folder / "built", ROOT)
    (wheel,) = (folder / "built").glob("sharded_emb-*.whl")
    run(*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel)
    return folder / "site"


@pytest.fixture(scope="module")
def python(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An empty environment's Python that sees the wheel's files, and the requirements but not the editable project."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=False)
    # a folder on PYTHONPATH has its .pth files left unread: the project's own folder stays out of sight
    path = os.pathsep.join([str(installed), sysconfig.get_path("purelib")])
    return ["env", "-u", "PYTHONHOME", f"PYTHONPATH={path}", str(folder / "bin" / "python")]


@pytest.mark.slow
def test_the_installed_wheel_finds_its_own_conf_from_another_directory(
    installed: Path, python: list[str], tmp_path: Path
) -> None:
    code = "from sharded_emb.config.where import conf_folder; print(conf_folder())"
    found = Path(run(*python, "-c", code, cwd=tmp_path).strip())
    assert found.resolve() == (installed / "sharded_emb" / "conf").resolve()
    names = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert {path.relative_to(found) for path in found.rglob("*.yaml")} == names


@pytest.mark.slow
def test_the_wheel_has_the_package_and_its_licence_and_nothing_else(installed: Path) -> None:
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"sharded_emb", "bin"}
    (licence,) = installed.glob("sharded_emb-*.dist-info/licenses/LICENSE")
    assert "Apache License" in licence.read_text()


@pytest.mark.slow
def test_the_console_script_of_the_wheel_runs(installed: Path, python: list[str], tmp_path: Path) -> None:
    out = run(*python, installed / "bin" / "sharded-emb", "--help", cwd=tmp_path)
    assert out.startswith("usage: sharded-emb COMMAND")


def test_in_a_checkout_conf_lies_beside_the_package() -> None:
    assert where.conf_folder() == ROOT / "conf"


def test_a_conf_of_somebody_else_is_not_taken_and_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    monkeypatch.setattr(where, "__file__", str(tmp_path / "sharded_emb" / "config" / "where.py"))
    with pytest.raises(
        InputError, match=r"^conf: want a folder conf with base\.yaml in .*, got neither; install the wheel"
    ):
        where.conf_folder()


def test_the_conf_inside_the_package_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "conf", tmp_path / "sharded_emb" / "conf"):
        folder.mkdir(parents=True)
        (folder / "base.yaml").touch()
    monkeypatch.setattr(where, "__file__", str(tmp_path / "sharded_emb" / "config" / "where.py"))
    assert where.conf_folder() == tmp_path / "sharded_emb" / "conf"
