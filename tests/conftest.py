"""Options and fixtures of all tests."""

from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-data",
        type=Path,
        default=_ROOT.parent / "shared" / "data",
        help="folder with ml-100k/ and amazon-beauty/; tests that read it skip where it is missing",
    )


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder with real data, or a skip."""
    folder: Path = request.config.getoption("--real-data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; give its place with --real-data")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of 60 generated users for the next-item models."""
    from sharded_emb.data.prepare import prepare
    from sharded_emb.data.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("tiny") / "data"
    log = Synthetic(users=60, items=80, clusters=4, mean_length=6, min_length=5, max_length=12)
    prepare(log, folder, seed=0, overwrite=False)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))
