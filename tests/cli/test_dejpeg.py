"""The command dejpeg, from files to files."""

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from deepgsr_cli import dejpeg
from deepgsr_cli.cli import app
from deepgsr_cli.formats.image import Image, read_image, to_uint8, write_image
from deepgsr_cli.formats.jpeg import jpeg_file
from tests.samples import smooth_picture


@pytest.fixture
def run(jpeg_weights, tmp_path, monkeypatch):
    """The command line in an empty folder, with tiny weights."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, channels=3, **options):
        given = ("--weights", str(jpeg_weights[channels]), "--device", "cpu")
        return CliRunner().invoke(app, ["dejpeg", *map(str, arguments), *given], **options)

    return invoke


def clean(channels=3, size=(130, 155)):
    """A picture of whole levels, (C, H, W), with texture enough to find a quality in."""
    pixels = 0.2 + 0.6 * smooth_picture(channels, *size)
    pixels = pixels + np.random.default_rng(0).normal(0, 0.03, pixels.shape)
    return np.rint(255 * pixels.clip(0, 1)).astype(np.float32) / 255


def save(path, quality=30, channels=3):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(jpeg_file(to_uint8(clean(channels)), quality).getvalue())
    write_image(Path("clean.png"), Image(clean(channels), "uint8", "PNG"))


def line(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_becomes_a_png_and_its_file_tells_the_quality(run, channels):
    save("in.jpg", channels=channels)
    result = run("in.jpg", "--reference", "clean.png", channels=channels)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("in_dejpeg.png  PSNR ")
    assert "in.jpg: quality 30, as the file says" in result.stderr
    assert Path("in_dejpeg.png").read_bytes().startswith(b"\x89PNG")
    assert not np.array_equal(read_image(Path("in_dejpeg.png")).pixels, read_image(Path("in.jpg")).pixels)


def test_a_png_of_the_same_pixels_gives_the_same(run):
    save("in.jpg")
    write_image(Path("saved.png"), Image(read_image(Path("in.jpg")).pixels, "uint8", "PNG"))
    assert line(run("in.jpg", "--json"))["quality_from"] == "file"
    facts = line(run("saved.png", "--json"))
    assert (facts["quality"], facts["quality_from"]) == (30, "pixels")
    assert Path("in_dejpeg.png").read_bytes() == Path("saved_dejpeg.png").read_bytes()


def test_a_part_of_a_picture_is_restored_on_its_grid(run):
    save("in.jpg")
    pixels = read_image(Path("in.jpg")).pixels
    write_image(Path("part.png"), Image(np.ascontiguousarray(pixels[:, 3:, 6:]), "uint8", "PNG"))
    facts = line(run("part.png", "--json"))
    assert (facts["quality"], facts["first_block"]) == (30, [5, 2])
    run("in.jpg")
    part, whole = (read_image(Path(f"{name}_dejpeg.png")).pixels for name in ("part", "in"))
    inner = np.abs(part - whole[:, 3:, 6:])[:, 40:, 40:]  # the cut is not far enough elsewhere
    assert part.shape == (3, 127, 149)
    assert inner.mean() < 0.5 / 255


def test_the_command_the_function_and_a_stream_agree(run, jpeg_weights):
    save("in.jpg")
    run("in.jpg", "-o", "out.png")
    array = dejpeg("in.jpg", weights=str(jpeg_weights[3]), device="cpu")
    assert np.array_equal(to_uint8(read_image(Path("out.png")).pixels), array)
    result = run("-", "-o", "-", input=Path("in.jpg").read_bytes())
    streamed = read_image(io.BytesIO(result.stdout_bytes))
    assert streamed.format == "PNG"
    assert np.array_equal(to_uint8(streamed.pixels), array)


def test_a_jpeg_is_written_where_it_is_asked_for(run):
    save("in.jpg")
    run("in.jpg", "-o", "out.jpg")
    run("in.jpg", "--format", "jpeg")
    run("in.jpg", "--format", "tiff")
    assert all(Path(name).read_bytes().startswith(b"\xff\xd8") for name in ("out.jpg", "in_dejpeg.jpg"))
    assert read_image(Path("in_dejpeg.tif")).format == "TIFF"


@pytest.mark.parametrize("quality", [97, 100])
def test_a_jpeg_of_full_quality_is_written_unchanged(run, quality):
    note = f"quality {quality}, as the file says; nothing to remove at this quality, pixels unchanged"
    save("in.jpg", quality)
    result = run("in.jpg")
    assert note in result.stderr
    assert np.array_equal(read_image(Path("in_dejpeg.png")).pixels, read_image(Path("in.jpg")).pixels)


def test_a_picture_without_a_trace_is_written_unchanged_unless_a_quality_is_given(run):
    write_image(Path("in.png"), Image(clean(), "uint8", "PNG"))
    result = run("in.png")
    assert "no trace of JPEG found, written unchanged; give --quality if there is one" in result.stderr
    assert np.array_equal(read_image(Path("in_dejpeg.png")).pixels, read_image(Path("in.png")).pixels)
    result = run("in.png", "--quality", 30, "-o", "given.png")
    assert "quality 30, as given" in result.stderr
    assert not np.array_equal(read_image(Path("given.png")).pixels, read_image(Path("in.png")).pixels)


def test_a_compression_before_the_last_is_told_of(run):
    save("in.jpg")
    levels = to_uint8(read_image(Path("in.jpg")).pixels)
    Path("again.jpg").write_bytes(jpeg_file(levels, 95).getvalue())
    facts = line(run("again.jpg", "--json"))
    assert (facts["quality"], facts["quality_last"], facts["quality_from"]) == (30, 95, "pixels")
    result = run("again.jpg", "--overwrite")
    sentence = "quality 30, found in the pixels; compressed twice, the last time at quality 95"
    assert sentence in result.stderr


def test_a_folder_is_resumed_and_reported(run):
    for name in ("a.jpg", "sub/b.jpeg"):
        save(f"in/{name}")
    result = run("in", "-o", "out", "--dry-run")
    assert sorted(result.stdout.split()[3::4]) == ["out/a.png", "out/sub/b.png"]
    options = ("in", "-o", "out", "--report", "r.json", "--json")
    assert len(run(*options).stdout.splitlines()) == 2
    items = json.loads(Path("r.json").read_text())["items"]
    assert [(item["metrics"]["quality"], len(item["images"])) for item in items] == [(30, 2)] * 2
    assert '"skipped"' in run(*options, "--skip-existing").stdout


@pytest.mark.parametrize("quality", ["0", "101", "fine"])
def test_a_quality_that_cannot_be_is_named(run, quality):
    save("in.jpg")
    result = run("in.jpg", "--quality", quality)
    assert result.exit_code == 2
    assert f"--quality {quality}: give a number from 1 to 100, or auto to have it found" in result.stderr


def test_what_is_no_picture_and_other_weights_are_refused(run, tiny_weights):
    Path("in.jpg").write_bytes(b"\xff\xd8\xff damaged")
    assert run("in.jpg").exit_code == 1
    save("in.jpg")
    result = CliRunner().invoke(app, ["dejpeg", "in.jpg", "--weights", str(tiny_weights[3])])
    assert "trained for denoise; give weights for dejpeg" in result.stderr
    result = run("in.jpg", channels=1)
    assert "made for gray pictures, this one is colour" in result.stderr


def test_train_then_restore_then_measure(run):
    for i in range(3):
        picture = np.clip(smooth_picture(3, 70, 81, seed=i), 0, 1)
        Path("data").mkdir(exist_ok=True)
        write_image(Path(f"data/{i}.png"), Image(picture, "uint8", "PNG"))
    runner = CliRunner()
    train = "train dejpeg --data data -o run --held-out 1 --steps 2 --batch 2 --patch 32 --device cpu --json"
    result = runner.invoke(app, [*train.split(), "--channels", "3"])
    assert result.exit_code == 0, result.output
    weights = json.loads(result.stdout)["weights"]
    save("in.jpg")
    assert runner.invoke(app, ["dejpeg", "in.jpg", "--weights", weights, "--device", "cpu"]).exit_code == 0
    measure = "eval dejpeg --data data --quality 20 --quality 95 --csv x.csv --report r.html --device cpu"
    result = runner.invoke(app, [*measure.split(), "--weights", weights])
    assert result.exit_code == 0, result.output
    assert [row.split()[:2] for row in result.stdout.splitlines()[-4:]] == [
        ["20", "jpeg"],
        ["20", "deepgsr"],
        ["95", "jpeg"],
        ["95", "deepgsr"],
    ]
    assert Path("x.csv").read_text().startswith("picture,quality,method,psnr,ssim,seconds,psnr_b")
    assert "Evaluation of JPEG restoration" in Path("r.html").read_text(encoding="utf-8")


def test_alpha_orientation_and_profile_are_kept(run):
    exif = PIL.Image.Exif()
    exif[274], exif[270] = 6, "title"
    PIL.Image.fromarray(to_uint8(clean())).save("in.jpg", quality=30, exif=exif, icc_profile=b"profile")
    facts = line(run("in.jpg", "--json"))
    restored = read_image(Path("in_dejpeg.png"))
    assert (facts["width"], facts["height"], facts["first_block"]) == (130, 155, [0, 2])
    assert restored.metadata.icc == b"profile"
    assert b"title" in restored.metadata.exif
    alpha = np.arange(130 * 155, dtype=np.uint8).reshape(155, 130)
    pixels = read_image(Path("in.jpg")).pixels
    write_image(Path("alpha.png"), Image(pixels, "uint8", "PNG", alpha=alpha))
    run("alpha.png")
    assert np.array_equal(read_image(Path("alpha_dejpeg.png")).alpha, alpha)
