"""Which files the commands over pictures take, and what their results are called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from typer.testing import CliRunner, Result

from deepgsr_cli.cli import app
from deepgsr_cli.errors import InputError
from tests.formats.test_image import noise, png

PNG = png(noise((24, 32), "uint8"), 8, 0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["denoise", *arguments, "--sigma", "0"])


def test_files_that_differ_in_their_suffix_alone_are_all_done(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in/a.png").write_bytes(PNG)
    (folder / "in/a.pgm").write_bytes(b"P5 3 2 255 " + bytes(6))
    (folder / "in/a.pbm").write_bytes(b"P4 8 1 " + bytes(1))
    result = run("in", "-o", "out")
    assert result.exit_code == 0, result.stderr
    assert sorted(os.listdir("out")) == ["a.pbm.png", "a.pgm", "a.png"]
    assert (folder / "out/a.png").read_bytes() == PNG
    assert "differ by their input's suffix alone keep it: out/a.pbm.png" in result.stderr


def test_a_file_that_is_no_picture_does_not_stop_those_named_beside_it(folder: Path) -> None:
    (folder / "a.png").write_bytes(PNG)
    (folder / "notes.txt").write_text("no picture")
    result = run("a.png", "notes.txt", "missing", "-o", "out")
    assert result.exit_code == 1
    assert os.listdir("out") == ["a.png"]
    assert "notes.txt: is no picture of a format that is read" in result.stderr
    assert "missing: there is no such file; check the path" in result.stderr
    assert "1 restored, 2 failed" in result.stderr


@pytest.mark.parametrize("name", ["download", "photo.png_large", "v1.2"])
def test_a_name_that_says_no_format_gets_the_suffix_of_its_content(folder: Path, name: str) -> None:
    (folder / name).write_bytes(PNG)
    result = run(name, "-o", "out/")
    assert result.exit_code == 0, result.stderr
    assert os.listdir("out") == [f"{name}.png"]


@pytest.mark.parametrize("output", [[], ["-o", "out"], ["-o", "out/"]])
def test_a_folder_that_is_not_there_is_named_and_not_the_output(output: list[str]) -> None:
    result = run("fotos", *output)
    assert result.exit_code == 1
    assert result.stderr == "fotos: there is no such file; check the path\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["", "-o", "out"], "INPUTS is empty, as a variable is that is not set; give a value"),
        (["a.png", "-o", ""], "--output is empty, as a variable is that is not set; give a value"),
        (["-", "-o", "out/"], "-o out/: is a folder, and standard input has no name; give a file in it"),
    ],
)
def test_names_that_cannot_be_are_refused(folder: Path, arguments: list[str], sentence: str) -> None:
    (folder / "a.png").write_bytes(PNG)
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert os.listdir() == ["a.png"]


def test_a_pipe_without_an_output_has_no_name_for_its_result(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    result = run("pipe")
    assert result.exit_code == 2
    assert result.stderr == "pipe: has no name that a result could have; give -o FILE\n"


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
def test_a_folder_that_cannot_be_listed_has_a_line_of_json(
    folder: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    (folder / "a.png").write_bytes(PNG)
    sentence = "in: cannot be listed, Permission denied; change its mode"

    def listed(path: Path, failures: list[InputError], *arguments: object) -> list[Path]:
        failures.append(InputError(sentence))
        return [folder / "a.png"]

    monkeypatch.setattr("deepgsr_cli.jobs.plan.files_below", listed)
    result = run(str(folder), "-o", "out", "--json", *extra)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.get("status", line.get("action")) for line in lines] == (
        ["write", "fail"] if extra else ["done", "failed"]
    )
    assert lines[1]["error"] == sentence


def test_names_cannot_steer_the_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a\x1b[31m\nb.png").write_bytes(b"no picture")
    result = run("a\x1b[31m\nb.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("a\\x1b[31m\\nb.png: is no picture of a format")
    assert len(result.stderr.splitlines()) == 1


def test_closed_streams_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepgsr_cli.cli import options
    from deepgsr_cli.errors import UsageError

    for stream, inputs, output in (("stdin", ["-"], "a.png"), ("stdout", ["a.png"], "-")):
        with monkeypatch.context() as patch:
            patch.setattr(f"sys.{stream}", None)
            with pytest.raises(UsageError, match="closed"):
                options._check_streams(inputs, output)


def test_an_enlarged_gif_stays_a_gif_where_it_is_transparent(folder: Path) -> None:
    colours = np.zeros((6, 8), np.uint8)
    colours[2:, 3:] = 1
    picture = PillowImage.fromarray(colours, "P")
    picture.putpalette([0, 0, 0, 200, 30, 90])
    picture.save("a.gif", transparency=0)
    result = CliRunner().invoke(app, ["upscale", "a.gif", "-o", "b.gif", "--method", "bicubic"])
    assert result.exit_code == 0, result.stderr
    alpha = np.array(PillowImage.open("b.gif").convert("RGBA"))[..., 3]
    assert alpha.shape == (12, 16)
    np.testing.assert_array_equal(np.unique(alpha), (0, 255))
    assert (alpha == 255).sum() == pytest.approx(4 * 20, abs=8)
