"""Files that are never half-written."""

from pathlib import Path

import pytest

from fedstill.common.files import atomic_path, default_home, write_bytes_atomically, write_text_atomically


def test_content_is_written_whole(tmp_path):
    write_bytes_atomically(tmp_path / "file", b"abc")
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_text_is_utf8(tmp_path):
    write_text_atomically(tmp_path / "file", "größer")
    assert (tmp_path / "file").read_bytes() == "größer".encode()


def test_folders_are_made(tmp_path):
    write_bytes_atomically(tmp_path / "a" / "b" / "file", b"")
    assert (tmp_path / "a" / "b" / "file").exists()


def test_nothing_but_the_file_is_left(tmp_path):
    write_bytes_atomically(tmp_path / "file", b"abc")
    write_bytes_atomically(tmp_path / "file", b"def")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_others_may_read_it(tmp_path):
    write_bytes_atomically(tmp_path / "file", b"abc")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path):
    write_bytes_atomically(tmp_path / "file", b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_bytes(b"ne") / 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_readers_see_the_old_file_until_the_end(tmp_path):
    write_bytes_atomically(tmp_path / "file", b"old")
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_bytes(b"new")
        assert (tmp_path / "file").read_bytes() == b"old"


def test_a_folder_in_the_way_leaves_no_temporary_file(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        write_bytes_atomically(tmp_path / "file", b"abc")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_home_is_taken_from_its_own_variable(monkeypatch):
    monkeypatch.setenv("FEDSTILL_HOME", "/there")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_home() == Path("/there")


def test_home_is_in_the_configured_cache(monkeypatch):
    monkeypatch.delenv("FEDSTILL_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_home() == Path("/cache/fedstill")


def test_home_is_in_the_users_cache_otherwise(monkeypatch):
    monkeypatch.delenv("FEDSTILL_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_home() == Path("/home/someone/.cache/fedstill")
