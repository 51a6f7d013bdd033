"""Files that are there whole or not at all."""

from pathlib import Path

import pytest

from sharded_emb.replacing import replacing


@pytest.mark.parametrize("writer", ["", "17"])
def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path, writer: str) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with replacing(file, writer) as aside:
        aside.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert [*tmp_path.iterdir()] == [file]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def half() -> None:
        with replacing(tmp_path / "file") as aside:
            aside.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert [*tmp_path.iterdir()] == []


def test_a_link_replaces_one_whatever_was_left_of_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    (tmp_path / ".link.part").symlink_to("b")
    with replacing(tmp_path / "link") as aside:
        aside.symlink_to("c")
    assert (tmp_path / "link").readlink() == Path("c")
