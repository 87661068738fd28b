"""What standard output or a path cannot take is a sentence, and no traceback."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deepgsr_cli.cli import app, output
from deepgsr_cli.errors import OutputError
from deepgsr_cli.files import copy_file
from tests.formats.test_image import noise, png


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(png(noise((24, 32), "uint8"), 8, 0))
    return path


def fail(code: int):
    def raise_it(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return raise_it


def test_a_full_disk_below_standard_output_is_a_sentence(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = typer.echo

    def echo_until_full(text: str, file: object = None, **options: bool) -> None:
        if not options.get("err"):
            fail(errno.ENOSPC)()
        echo(text, **options)

    monkeypatch.setattr(output.typer, "echo", echo_until_full)
    result = CliRunner().invoke(app, ["denoise", str(picture), "--sigma", "0"])
    assert result.exit_code == 1
    assert result.stderr == "standard output: cannot be written, No space left on device; free some space\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_picture_that_does_not_fit_standard_output_is_a_sentence(picture: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OutputError, match="No space left"):
        copy_file(picture, full)


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--skip-existing"]])
def test_a_name_that_is_too_long_is_a_sentence(picture: Path, arguments: list[str]) -> None:
    # The result's own name has eight letters more.
    long = picture.with_name("n" * 250 + ".png")
    picture.rename(long)
    result = CliRunner().invoke(app, ["denoise", str(long), "--sigma", "0", *arguments])
    if "--dry-run" in arguments:
        assert result.exit_code == 0
        assert result.stdout.startswith("write: ")
    else:
        assert result.exit_code == 1
        assert "the name is too long; give a shorter one" in result.stderr
    assert os.listdir(long.parent) == [long.name]


def test_an_input_whose_name_is_too_long_is_a_sentence(picture: Path) -> None:
    result = CliRunner().invoke(app, ["denoise", "n" * 300 + ".png", "-o", str(picture.with_name("b.png"))])
    assert result.exit_code == 1
    assert "File name too long" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_of_the_machine_is_a_sentence(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("deepgsr_cli.jobs.plan.os.path.isdir", refuse)
    result = CliRunner().invoke(app, ["denoise", str(picture), "--sigma", "0"])
    assert result.exit_code == 1
    assert result.stderr == f"{picture}: cannot be used, Permission denied; check it and its rights\n"


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_stream_that_is_closed_takes_nothing(
    picture: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    monkeypatch.setattr(sys, closed, None)  # as by `>&-` in a shell, or under a service of Windows
    with pytest.raises(SystemExit) as ended:
        app(["denoise", str(picture.parent), "-o", str(picture.parent / "out"), "--sigma", "0"])
    assert ended.value.code == 0
    assert (picture.parent / "out/a.png").exists()


def test_a_pipe_is_read_once_and_whole(tmp_path: Path) -> None:
    pipe, data = tmp_path / "pipe", png(noise((20, 24, 1), "uint8"), 8, 0)
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
    writer.start()
    out = tmp_path / "out.png"
    result = CliRunner().invoke(app, ["denoise", str(pipe), "-o", str(out), "--sigma", "0"])
    assert result.exit_code == 0, result.stderr
    assert out.read_bytes() == data


@pytest.mark.skipif(os.name == "nt", reason="there, the folder one is in cannot be removed")
def test_a_working_folder_that_is_gone_is_named(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for path in (str(picture), "a.png"):
        result = CliRunner().invoke(app, ["denoise", path, "--sigma", "0"])
        assert result.exit_code == 1
        assert result.stderr == (
            "the folder the command runs in cannot be used, No such file or directory; change to another\n"
        )
