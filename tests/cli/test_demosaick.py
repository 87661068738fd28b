import json
import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.formats.image import Image, read_image, write_image
from deepgsr_cli.pictures.demosaicking import demosaick
from tests.dng import BLACK, WHITE, write_dng
from tests.samples import smooth_picture


@pytest.fixture
def run(mosaic_weights, tmp_path, monkeypatch):
    """The command in this process, in an empty folder, with tiny weights."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        options = ["demosaick", "--weights", str(mosaic_weights), "--device", "cpu"]
        return CliRunner().invoke(app, [*options, *map(str, arguments)])

    return invoke


def samples(depth="uint8", height=40, width=52):
    """Stored values of a mosaic, and its picture."""
    clean = smooth_picture(3, height, width)
    values = clean[1].copy()
    values[::2, ::2], values[1::2, 1::2] = clean[0, ::2, ::2], clean[2, 1::2, 1::2]
    return np.rint(values * np.iinfo(depth).max).astype(depth), clean


def write_png(path, values):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(values)))


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("options", [[], ["--sigma", "4"], ["--method", "malvar"], ["--ensemble"]])
def test_a_mosaic_becomes_a_picture_of_its_depth_beside_it(run, mosaic_weights, depth, options):
    values, _ = samples(depth)
    write_png("in.png", values)
    result = run("in.png", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == "in_demosaick.png"
    picture = read_image(Path("in_demosaick.png"))
    assert (picture.depth, picture.pixels.shape) == (depth, (3, 40, 52))
    if options and options[0] != "--ensemble":
        named = {options[0].removeprefix("--"): float(options[1]) if options[1] == "4" else options[1]}
        expected = demosaick(Path("in.png"), weights=str(mosaic_weights), **named)
        np.testing.assert_array_equal(
            np.rint(picture.pixels * np.iinfo(depth).max), expected.transpose(2, 0, 1)
        )


def test_every_pattern_finds_the_same_picture(run):
    values, clean = samples()
    for pattern, axes in (("GRBG", 1), ("GBRG", 0), ("bggr", (0, 1))):
        write_png(f"{pattern}.png", np.flip(values, axes))
        assert run(f"{pattern}.png", "--pattern", pattern, "--method", "malvar").exit_code == 0
        found = read_image(Path(f"{pattern}_demosaick.png")).pixels
        assert np.abs(np.flip(found, np.add(axes, 1)) - clean).mean() < 0.03


def test_levels_spread_what_is_between_them(run):
    values, _ = samples()
    write_png("in.png", values)
    np.save("in.npy", values.astype(np.uint16) * 15 + 64)
    assert run("in.png", "--method", "bilinear", "-o", "a.png").exit_code == 0
    options = ["--black", 64, "--white", 64 + 255 * 15, "--method", "bilinear", "-o", "b.png"]
    assert run("in.npy", *options).exit_code == 0
    first, second = (read_image(Path(name)) for name in ("a.png", "b.png"))
    assert (first.depth, second.depth) == ("uint8", "uint16")
    np.testing.assert_allclose(first.pixels, second.pixels, rtol=0, atol=0.003)


def test_a_dim_mosaic_is_said_to_be_so(run):
    np.save("in.npy", samples()[0].astype(np.uint16) * 16)
    result = run("in.npy", "--method", "bilinear")
    assert "its largest value is" in result.stderr
    assert "give --white" in result.stderr
    assert Path("in_demosaick.png").exists()


def test_a_folder_of_all_kinds_goes_to_pictures(run):
    values, _ = samples()
    write_png("in/deep/a.png", values)
    np.save("in/b.npy", values)
    Path("in/c.pgm").write_bytes(b"P5\n52 40\n255\n" + values.tobytes())
    tifffile.imwrite("in/d.tif", values)
    write_dng(Path("in/e.DNG"), values.astype(np.uint16) * 15 + BLACK)
    Path("in/notes.txt").write_text("no mosaic")
    result = run("in", "-o", "out", "--report", "report.html", "--method", "malvar", "-v")
    assert result.exit_code == 0, result.output
    found = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.*"))
    assert found == ["b.png", "c.png", "d.tif", "deep/a.png", "e.tif"]
    assert "5 demosaicked" in result.stderr
    assert Path("report.html").exists()
    again = run("in", "-o", "out", "--skip-existing", "--report", "again.json", "--method", "malvar")
    assert "0 demosaicked, 5 skipped" in again.stderr


def test_two_inputs_of_one_name_are_not_written_to_one_picture(run):
    values, _ = samples()
    write_png("in/a.png", values)
    np.save("in/a.npy", values)
    result = run("in", "-o", "out", "--method", "malvar")
    assert result.exit_code == 0, result.stderr
    assert sorted(os.listdir("out")) == ["a.npy.png", "a.png"]


def test_figures_are_told_with_a_reference(run):
    values, clean = samples("uint16")
    write_png("in.png", values)
    write_image(Path("clean.png"), Image(clean, "uint16", "PNG"))
    result = run("in.png", "--reference", "clean.png", "--method", "malvar", "--json")
    line = json.loads(result.stdout)
    keys = ("width", "height", "depth", "pattern", "method", "sigma", "status")
    assert [line[key] for key in keys] == [52, 40, "uint16", "RGGB", "malvar", 0, "done"]
    error = read_image(Path("in_demosaick.png")).pixels.astype(float) - read_image(Path("clean.png")).pixels
    assert line["psnr"] == pytest.approx(-10 * np.log10(np.mean(error**2)), abs=0.01)
    write_png("small.png", np.zeros((8, 8, 3), np.uint8))
    result = run("in.png", "--reference", "small.png", "-o", "x.png")
    assert "small.png: is 8 x 8 x 3, and 52 x 40 x 3 comes of the mosaic" in result.stderr


def test_noise_is_estimated_on_demand(run):
    values, _ = samples(height=300, width=310)
    noisy = values + np.random.default_rng(0).normal(0, 6, values.shape)
    write_png("in.png", np.rint(noisy.clip(0, 255)).astype(np.uint8))
    result = run("in.png", "--sigma", "auto", "--json")
    line = json.loads(result.stdout)
    assert line["sigma"] == pytest.approx(6, rel=0.2)
    assert line["note"] == f"noise estimated as sigma {line['sigma']:.2f} (0-255 scale)"


def test_a_raw_file_is_developed_upright_with_its_texts(run):
    values = np.random.default_rng(0).integers(BLACK, WHITE, (40, 52)).astype(np.uint16)
    write_dng(Path("a.dng"), values, orientation=8)
    result = run("a.dng")
    assert result.exit_code == 0, result.output
    with tifffile.TiffFile("a_demosaick.tif") as tiff:
        page = tiff.pages[0]
        assert (page.shape, page.dtype) == ((52, 40, 3), np.dtype("uint16"))
        assert (page.tags[271].value, page.tags[272].value) == ("Acme", "One")
        assert 274 not in page.tags or page.tags[274].value == 1
        coded = page.asarray() / 65535
    assert run("a.dng", "--linear", "-o", "linear.tif").exit_code == 0
    linear = tifffile.imread("linear.tif") / 65535
    inside = (coded > 0.05) & (coded < 1)
    np.testing.assert_allclose(((coded + 0.055) / 1.055)[inside] ** 2.4, linear[inside], rtol=0, atol=1e-3)
    assert run("a.dng", "-o", "eight.jpg").exit_code == 1


def test_a_mosaic_goes_through_pipes(run, mosaic_weights):
    write_png("in.png", samples()[0])
    options = ["demosaick", "-", "-o", "-", "--method", "bilinear"]
    result = CliRunner().invoke(app, options, input=Path("in.png").read_bytes())
    assert result.exit_code == 0
    assert imagecodecs.png_decode(result.stdout_bytes).shape == (40, 52, 3)


@pytest.mark.parametrize(
    ("options", "sentence", "code"),
    [
        (["--pattern", "RGBG"], "--pattern RGBG: give the colours of the first 2 x 2 pixels", 2),
        (["--method", "ahd"], "--method ahd: known are deepgsr, bilinear, malvar", 2),
        (
            ["--method", "malvar", "--sigma", "5"],
            "--sigma 5: malvar removes no noise; give 0, or --method",
            2,
        ),
        (["--sigma", "21"], "--sigma 21: these weights know 0 to 20", 2),
        (["--sigma", "x"], "--sigma x: give a number from 0 to 255, or auto", 2),
        (["--white", "0"], "--white 0: give a value of white above that of black, 0", 2),
        (["--black", "nan"], "--black nan: give a number", 2),
        (["--max-pixels", "0"], "--max-pixels 0: give 1 or more", 2),
        (["--max-pixels", "10"], "more than the 10 allowed", 1),
        (["--json", "-o", "-"], "--json and -o - would both use standard output", 2),
        (["--reference", "missing"], "--reference missing: no such file or folder", 2),
        (["-o", "out.txt"], "out.txt: no picture format is written by this name", 2),
        (["--tile", "32"], "--tile 32 is too small beside an overlap of", 2),
    ],
)
def test_wrong_options_are_a_sentence(run, options, sentence, code):
    write_png("in.png", samples()[0])
    result = run("in.png", *options)
    assert sentence in result.stderr
    assert result.exit_code == code
    assert not Path("in_demosaick.png").exists()


def test_wrong_files_are_a_sentence_and_the_others_are_done(run):
    values, clean = samples()
    write_png("in/a.png", values)
    write_png("in/odd.png", values[1:])
    write_image(Path("in/colour.png"), Image(clean, "uint8", "PNG"))
    result = run("in", "-o", "out", "--method", "malvar")
    assert result.exit_code == 1
    assert "in/odd.png: is 52 x 39 pixels, and the pattern of 2 x 2 asks for even sides" in result.stderr
    assert "in/colour.png: has 3 channels, and a mosaic has one" in result.stderr
    assert [path.name for path in Path("out").iterdir()] == ["a.png"]
