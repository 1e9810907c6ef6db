"""Files and folders that appear whole or not at all."""

import stat

import pytest

from hp_sdk.errors import ConfigError
from hp_sdk.files import write_bytes, write_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_into_a_new_folder_and_nothing_else(tmp_path):
    path = write_bytes(tmp_path / "new" / "a.bin", b"abc")
    assert path.read_bytes() == b"abc"
    assert names(path.parent) == ["a.bin"]


def test_a_file_has_the_mode_of_any_other_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    path = write_bytes(tmp_path / "ours", b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_file_where_a_folder_is_needed_is_one_clear_error(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match="cannot write"):
        write_bytes(tmp_path / "out" / "a.png", b"")
    with pytest.raises(ConfigError, match="cannot write"), write_folder(tmp_path / "out" / "b"):
        pass


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "a", b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(ConfigError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "bundle"
    with write_folder(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    assert names(target) == ["x"]
    assert names(target.parent) == ["bundle"]


def test_a_failed_block_leaves_nothing(tmp_path):
    def half_done():
        with write_folder(tmp_path / "b") as folder:
            (folder / "x").write_text("1")
            raise RuntimeError("verification")

    with pytest.raises(RuntimeError, match="verification"):
        half_done()
    assert names(tmp_path) == []


def test_an_older_bundle_is_replaced_only_on_success(tmp_path):
    target = tmp_path / "b"
    with write_folder(target) as folder:
        (folder / "bundle.json").write_text("old")
        (folder / "gone").write_text("")
    with pytest.raises(RuntimeError, match="no"), write_folder(target):
        raise RuntimeError("no")
    assert (target / "bundle.json").read_text() == "old"
    with write_folder(target) as folder:
        (folder / "bundle.json").write_text("new")
    assert (target / "bundle.json").read_text() == "new"
    assert names(target) == ["bundle.json"]
    assert names(tmp_path) == ["b"]


def test_somebodys_folder_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"1")
    photos = tmp_path / "photos"
    with pytest.raises(ConfigError, match=r"holds no bundle\.json"), write_folder(photos):
        pass
    with pytest.raises(ConfigError, match="is a file"), write_folder(photos / "me.jpg"):
        pass
    assert (tmp_path / "photos" / "me.jpg").read_bytes() == b"1"
