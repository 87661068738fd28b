import hashlib
import os
import time

import numpy as np
import pytest
import tifffile

from deepgsr_cli.errors import InputError, OutputError
from deepgsr_cli.files import (
    atomic_write,
    check_readable,
    clean_up,
    files_below,
    fingerprint,
    reading,
    sha256,
)
from tests.samples import body_hu, saved_slice


def test_a_checksum_is_that_of_the_whole_file(tmp_path):
    data = os.urandom(3 * 2**20 + 17)
    (tmp_path / "a").write_bytes(data)
    assert sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_a_fingerprint_tells_contents_and_order(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path, data in zip(paths, (b"1", b"2", b"1")):
        path.write_bytes(data)
    a, b, c = paths
    digests = hashlib.sha256(b"1").digest() + hashlib.sha256(b"2").digest()
    assert fingerprint([a, b]) == fingerprint([c, b]) == hashlib.sha256(digests).hexdigest()[:12]
    assert fingerprint([b, a]) != fingerprint([a, b])


def test_hidden_files_and_a_folder_left_out_are_not_below(tmp_path):
    for name in ("b", "a", "in/c", "out/d", ".hidden/e", "in/.f"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = files_below(tmp_path, without=tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a", "b", "in/c"]
    assert files_below(tmp_path / "b") == [tmp_path / "b"]


def test_a_folder_that_cannot_be_listed_is_told_or_raised(tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    failures = []
    assert files_below(tmp_path, failures) == []
    assert "cannot be listed" in str(failures[0])
    with pytest.raises(InputError, match="cannot be listed"):
        files_below(tmp_path)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"none: there is no such file; check the path"):
        check_readable(tmp_path / "none")
    with pytest.raises(InputError, match=r"cannot be read, .*; check the path"):
        check_readable(tmp_path)
    with (
        pytest.raises(InputError, match="a: there is no permission to read it; change its mode"),
        reading("a"),
    ):
        raise PermissionError
    (tmp_path / "a").touch()
    check_readable(tmp_path / "a")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(9000)),
        lambda path: tifffile.imwrite(path, np.zeros((60, 60), np.float32)),
        lambda path: saved_slice(path, body_hu()),
    ],
    ids=["bytes", "numpy", "pydicom"],
)
def test_a_file_that_finds_no_space_is_one_sentence(tmp_path, write):
    """Whatever the library that writes makes of it: numpy loses the number of the error, pydicom wraps it."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OutputError) as caught, atomic_write(tmp_path / "a") as temporary:
            write(temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    no_space = "there is no space left; free some or", "the file is larger than this disk allows;"
    assert str(caught.value) in [
        f"{tmp_path / 'a'}: cannot be written, {words} give another folder" for words in no_space
    ]
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_may_be_being_written_is_not(tmp_path):
    target = tmp_path / "a"
    left = []
    for hours in (2, 0):
        with atomic_write(target) as temporary:
            pass
        target.unlink()
        temporary.touch()
        os.utime(temporary, (time.time() - 3600 * hours,) * 2)
        left.append(temporary)
    clean_up([tmp_path / "b"])
    assert set(tmp_path.iterdir()) == set(left)
    clean_up([target], sparing=True)
    assert list(tmp_path.iterdir()) == left[1:]
    (tmp_path / "links").mkdir()
    link = tmp_path / "links/b"
    link.symlink_to(target)
    clean_up([link])  # whose target is what was written
    assert list(tmp_path.iterdir()) == [link.parent]


def test_the_paths_of_many_results_are_not_resolved_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "realpath", None)
    clean_up([tmp_path / "a", tmp_path / "b"])
