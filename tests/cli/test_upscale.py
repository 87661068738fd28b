"""The command upscale, from files to files."""

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.evaluation.metrics import psnr, rounded8
from deepgsr_cli.formats.codecs import Metadata, Resolution
from deepgsr_cli.formats.image import Image, read_image, write_image
from deepgsr_cli.pictures.resampling import interpolated
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from tests.samples import smooth_picture


@pytest.fixture
def run(upscale_weights, tmp_path, monkeypatch):
    """The command line in an empty folder, with tiny weights unless told otherwise."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, weights=upscale_weights, **options):
        given = ("--device", "cpu", *(("--weights", str(weights)) if weights else ()))
        return CliRunner().invoke(app, ["upscale", *map(str, arguments), *given], **options)

    return invoke


def save(path, channels=3, depth="uint8", size=(37, 53), **extra):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Image(smooth_picture(channels, *size), depth, "PNG", **extra))
    return path


def line(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[0])


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_picture_is_enlarged_at_its_depth(run, upscale_weights, depth, channels, scale):
    source = save("in.tif", channels, depth)
    assert run(source, "--scale", scale, "-o", "out.tif").exit_code == 0
    pixels, result = read_image(source).pixels, read_image(Path("out.tif"))
    assert (result.depth, result.pixels.shape) == (depth, (channels, scale * 37, scale * 53))
    restorer = Restorer(str(upscale_weights), RunOptions("cpu"), task="upscale")
    expected = restorer.enlarge_pixels(pixels, scale)
    step = {"uint8": 1 / 255, "uint16": 1 / 65535, "float32": 0}[depth]
    clipped = expected if depth == "float32" else expected.clip(0, 1)
    np.testing.assert_allclose(result.pixels, clipped, rtol=0, atol=step / 2 + 1e-6)
    assert np.abs(expected - interpolated(pixels, scale)).max() > 0.02


def test_without_options_the_sides_are_doubled_beside_the_input(run):
    result = run(save("in.png"))
    assert result.stdout == "in_upscale.png\n"
    assert read_image(Path("in_upscale.png")).pixels.shape == (3, 74, 106)


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_interpolated_and_what_it_hides_does_not_show(run, depth, channels):
    full = np.iinfo(depth).max
    alpha = np.zeros((37, 53), depth)
    alpha[8:30, 10:40] = full
    pixels = np.where(alpha > 0, 0.8, 0).astype(np.float32)[None].repeat(channels, 0)
    write_image(Path("in.png"), Image(pixels, depth, "PNG", alpha))
    assert run("in.png", "--method", "bicubic", "-o", "out.png", weights=None).exit_code == 0
    result = read_image(Path("out.png"))
    assert result.alpha.dtype == depth
    assert (result.alpha[20:56, 24:76] == full).all()
    assert (result.alpha[:12] == 0).all()
    np.testing.assert_allclose(result.pixels[:, result.alpha > 0], 0.8, rtol=0, atol=0.003)


@pytest.mark.parametrize("method", ["bicubic", "lanczos"])
def test_interpolations_need_no_weights(run, method):
    source = save("in.png")
    assert line(run(source, "--method", method, "--json", "-o", "out.png", weights=None))["method"] == method
    expected = rounded8(interpolated(read_image(source).pixels, 2, method))
    found = read_image(Path("out.png")).pixels  # a half may be rounded either way
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_strength_leads_from_bicubic_to_the_network(run, precision):
    save("in.tif", depth="float32")
    none, half, all_ = (
        (
            run("in.tif", "--strength", s, "-o", f"{s}.tif", "--precision", precision),
            read_image(Path(f"{s}.tif")).pixels,
        )[1]
        for s in ("0", "0.5", "1")
    )
    np.testing.assert_allclose(none, interpolated(read_image(Path("in.tif")).pixels, 2), rtol=0, atol=1e-6)
    np.testing.assert_allclose(half, (none + all_) / 2, rtol=0, atol=1e-6)
    assert np.abs(all_ - none).max() > 0.02


def test_tiles_leave_no_trace(run):
    save("in.tif", depth="float32", size=(150, 170))
    for name, tile in (("whole", 0), ("tiled", 96)):
        assert run("in.tif", "--tile", tile, "--batch", 2, "-o", f"{name}.tif").exit_code == 0
    tiled, whole = (read_image(Path(f"{name}.tif")).pixels for name in ("tiled", "whole"))
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)


def test_paper_size_and_the_size_in_exif_stay_true(run):
    exif = PIL.Image.Exif()
    exif[282], exif[315] = 300.0, "A. Adams"
    exif.get_ifd(34665).update({40962: 53, 40963: 37})
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    save("in.png", metadata=Metadata(exif=block, resolution=Resolution(300.0, 150.0)))
    for name in ("out.png", "out.jpg"):
        assert run("in.png", "--scale", 3, "-o", name).exit_code == 0
        with PIL.Image.open(name) as picture:
            assert picture.info["dpi"] == pytest.approx((900, 450), abs=0.04)
            found = picture.getexif()
            inner = found.get_ifd(34665)
            assert (found[282], found[315], inner[40962], inner[40963]) == (900, "A. Adams", 159, 111)


def test_a_reference_is_compared_beside_bicubic(run):
    save("true.png", size=(74, 106))
    small = read_image(Path("true.png")).pixels[:, ::2, ::2]
    write_image(Path("in.png"), Image(np.ascontiguousarray(small), "uint8", "PNG"))
    facts = line(run("in.png", "--reference", "true.png", "--json", "--report", "report.json"))
    true = read_image(Path("true.png")).pixels
    assert facts["psnr"] == pytest.approx(psnr(read_image(Path("in_upscale.png")).pixels, true), abs=1e-4)
    assert facts["psnr_in"] == pytest.approx(psnr(rounded8(interpolated(small, 2)), true), abs=1e-3)
    report = json.loads(Path("report.json").read_text())
    assert report["items"][0]["metrics"]["PSNR bicubic (dB)"] == facts["psnr_in"]
    again = run("in.png", "--reference", "true.png", "--skip-existing", "--report", "again.json")
    assert again.exit_code == 0
    found = json.loads(Path("again.json").read_text())["items"][0]["metrics"]
    assert found["PSNR (dB)"] == pytest.approx(facts["psnr"], abs=1e-3)


def test_folders_streams_and_shards_as_for_any_picture(run):
    save("photos/a.png"), save("photos/sub/b.png", 1)
    result = run("photos", "-o", "out")
    assert result.exit_code == 0
    assert "2 enlarged" in result.stderr
    assert read_image(Path("out/sub/b.png")).pixels.shape == (1, 74, 106)
    assert "new/sub/b.png" in run("photos", "-o", "new", "--shard", "2/2").stdout.split()
    data = Path("photos/a.png").read_bytes()
    streamed = run("-", "-o", "-", input=data)
    assert PIL.Image.open(io.BytesIO(streamed.stdout_bytes)).size == (106, 74)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--scale", "5"), "--scale 5: give 2, 3 or 4"),
        (("--scale", "1"), "--scale 1: give 2, 3 or 4"),
        (("--method", "nearest"), "--method nearest: known are deepgsr, bicubic, lanczos"),
        (("--method", "bicubic"), "--weights and --method bicubic exclude each other; give one"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(run, arguments, sentence):
    result = run(save("in.png"), *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not Path("in_upscale.png").exists()


@pytest.mark.parametrize("option", [("--ensemble",), ("--strength", "0.5")])
def test_what_is_the_networks_alone_goes_with_no_interpolation(run, option):
    result = run(save("in.png"), "--method", "lanczos", *option, weights=None)
    assert result.exit_code == 2
    assert f"{option[0]} and --method lanczos exclude each other; give one" in result.stderr


def test_what_cannot_be_done_is_said_and_nothing_is_written(run, tiny_weights):
    save("in.png")
    result = run("in.png", "--max-pixels", 5000)
    assert result.exit_code == 1
    assert "the result would have 106 x 74 pixels, more than the 5,000 allowed; give a smaller --scale" in (
        " ".join(result.stderr.split())
    )
    other = run("in.png", weights=tiny_weights[3])
    assert "trained for denoise; give weights for upscale" in other.stderr
    save("true.png", size=(70, 106))
    wrong = run("in.png", "--reference", "true.png")
    assert "is 106 x 70 x 3, the enlarged picture 106 x 74 x 3" in " ".join(wrong.stderr.split())
    assert not Path("in_upscale.png").exists()
