"""What of a file is not in the picture is told, and is told only where it is lost."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.formats.image import losses
from deepgsr_cli.formats.pages import open_pages
from tests.formats.test_image import H, W, chunk, noise, png, read, tiff, written
from tests.formats.test_kept import chunks_of, jpeg, tags_of, with_tags

SHORT, TEXT = 3, 2


def nodata(value: int) -> tuple[int, int, bytes]:
    """GDAL's tag of the value that stands for no value."""
    return 42113, TEXT, b"%d\0" % value


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_no_value_is_found_as_stored_where_zero_is_white(dtype: str) -> None:
    samples = noise((H, W), dtype)
    samples[5:9, 4:8] = 0
    data = with_tags((262, SHORT, struct.pack("<H", 0)), nodata(0), samples=samples)
    image = read(data)
    full = np.iinfo(dtype).max
    assert image.holes is not None
    assert image.holes.value == full
    np.testing.assert_array_equal(image.holes.where[0], samples == 0)
    back = written(image, "TIFF")
    # Zero is black there, so that the value and the tag are the opposite.
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(back)), full - samples)
    assert tags_of(back)[42113] == str(full)


def test_no_value_is_found_among_samples_of_12_bits() -> None:
    samples = noise((H, W), "uint16") >> 4
    samples[5:9, 4:8] = 4095
    data = tiff(
        samples, bitspersample=12, photometric="minisblack", extratags=[(42113, TEXT, 5, "4095", True)]
    )
    image = read(data)
    assert image.holes is not None
    np.testing.assert_array_equal(image.holes.where[0], samples == 4095)
    back = written(image, "TIFF")
    assert tags_of(back)[42113] == "65535"
    assert (tifffile.imread(io.BytesIO(back))[5:9, 4:8] == 65535).all()


def test_a_value_that_no_sample_has_stands_for_none() -> None:
    image = read(with_tags(nodata(-9999)))
    assert image.holes is None
    assert tags_of(written(image, "TIFF"))[42113] == "-9999"


def test_the_colour_without_a_value_of_a_palette_is_left_out_and_named() -> None:
    colours = struct.pack("<768H", *range(0, 768 * 85, 85))
    image = read(with_tags((262, SHORT, struct.pack("<H", 3)), (320, SHORT, colours), nodata(0)))
    assert image.left_out == ("the colour that stands for no value cannot be kept",)
    assert 42113 not in tags_of(written(image, "TIFF"))


def test_previews_below_a_page_are_told() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(noise((H, W), "uint8"), subifds=2)
        writer.write(noise((H // 2, W // 2), "uint8"), subfiletype=1)
        writer.write(noise((H // 4, W // 4), "uint8"), subfiletype=1)
    assert read(buffer.getvalue()).left_out == ("2 previews or masks are left out",)


def test_parameters_of_a_compression_do_not_outlive_it() -> None:
    image = read(tiff(noise((H, W), "uint8"), compression="lerc"))
    assert 50674 not in tags_of(written(image, "TIFF"))


def damaged(data: bytes, kind: bytes) -> bytes:
    """A PNG whose chunk of that kind has another last byte than its checksum says."""
    at = data.index(kind)
    end = at + 4 + struct.unpack_from(">I", data, at - 4)[0]
    return data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:]


@pytest.mark.parametrize("kind", [b"tEXt", b"gAMA", b"prVt"])
def test_a_damaged_chunk_beside_the_pixels_costs_no_picture(kind: bytes) -> None:
    samples = noise((H, W), "uint8")
    sound = png(samples, 8, 0, chunk(kind, b"Title\0words"))
    image = read(damaged(sound, kind))
    np.testing.assert_array_equal(image.stored[0], samples)
    assert image.notes == (f"its {kind.decode()} chunk is damaged and left out",)
    assert image.mended
    assert kind not in chunks_of(written(image, "PNG"))


def test_a_gamma_that_is_not_of_srgb_is_named_where_it_is_lost() -> None:
    def lost(*chunks: bytes) -> list[str]:
        return losses(read(png(noise((H, W), "uint8"), 8, 0, *chunks)), "TIFF")

    def gamma(value: int) -> bytes:
        return chunk(b"gAMA", struct.pack(">I", value))

    assert lost(gamma(100000)) == ["chunk gAMA"]
    assert lost(gamma(45455)) == []
    assert lost(gamma(100000), chunk(b"sRGB", b"\0")) == []


def test_bytes_after_the_picture_are_told() -> None:
    sound = png(noise((H, W), "uint8"), 8, 0)
    assert read(sound).left_out == ()
    words = "what follows the picture in the file is left out (7 bytes)"
    assert read(sound + b"further").left_out == (words,)
    ppm = b"P6 4 3 255\n" + bytes(36)
    assert read(ppm + b"further").left_out == (words,)
    assert read(ppm + b"\n").left_out == ()
    assert read(ppm + ppm).left_out == (
        "the first picture in the file is read, those that follow are left out",
    )


def test_comments_of_a_pgm_are_kept() -> None:
    image = read(b"P5\n# by hand\n4 3 # wide and high\n255\n" + bytes(12))
    assert image.metadata.comments == (b" by hand", b" wide and high")
    back = written(image, "PGM")
    assert back == b"P5\n# by hand\n# wide and high\n4 3\n255\n" + bytes(12)
    assert written(image, "PPM").startswith(b"P6\n# by hand\n")
    assert losses(image, "BMP") == ["comments"]
    assert losses(image, "PPM") == []


def test_what_is_left_out_is_not_told_of_a_copy(tmp_path: Path) -> None:
    two = tmp_path / "two.jpg"
    two.write_bytes(jpeg(size=(24, 32)) + b"further")
    runner = CliRunner()

    def run(target: str) -> str:
        arguments = ["denoise", str(two), "-o", str(tmp_path / target), "--sigma", "0"]
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.stderr

    assert run("copy.jpg") == ""
    assert (tmp_path / "copy.jpg").read_bytes() == two.read_bytes()
    assert "what follows the picture in the file is left out (7 bytes)" in run("other.png")


def test_pictures_of_a_file_that_is_copied_are_written_once_to_standard_output(tmp_path: Path) -> None:
    frames = [PIL.Image.fromarray(noise((24, 32, 3), "uint8", seed)) for seed in range(3)]
    source = tmp_path / "frames.gif"
    frames[0].save(source, save_all=True, append_images=frames[1:])
    pages = open_pages(source)
    assert pages is not None
    assert pages.count == 3
    result = CliRunner().invoke(app, ["denoise", str(source), "-o", "-", "--sigma", "0"])
    assert result.exit_code == 0, result.output
    assert result.stdout_bytes == source.read_bytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (with_tags((33550, 12, struct.pack("<3d", 30, 30, 0))), "ModelPixelScaleTag"),
        (png(noise((H, W), "uint8"), 8, 0, chunk(b"sCAL", b"\x01" + b"0.1\0" + b"0.1")), "sCAL"),
    ],
    ids=["tiff", "png"],
)
def test_where_the_old_pixels_were_is_left_out_of_an_enlargement_and_named(
    data: bytes, words: str, tmp_path: Path
) -> None:
    source = tmp_path / "a.tif"
    source.write_bytes(data)
    target = tmp_path / ("b.png" if words == "sCAL" else "b.tif")
    result = CliRunner().invoke(app, ["upscale", str(source), "-o", str(target), "--method", "bicubic"])
    assert result.exit_code == 0, result.output
    assert result.stderr == f"{source}: {words} are of the old pixels and left out\n"


def test_an_option_is_advised_only_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((H, W), "uint8").astype(np.float32))
    runner = CliRunner()
    denoised = runner.invoke(app, ["denoise", str(path), "-o", str(tmp_path / "b.tif"), "--sigma", "25"])
    assert "state the value of white by --white" in denoised.stderr
    measured = runner.invoke(app, ["eval", "denoise", "--data", str(tmp_path), "--sigma", "25"])
    assert measured.exit_code == 1
    assert "white is 1; divide the values by that of white" in measured.stderr
