import struct
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile

from deepgsr_cli.errors import InputError, OptionError, ShapeError
from deepgsr_cli.formats.mosaics import read_mosaic
from deepgsr_cli.formats.png import PNG_SIGNATURE, png_chunk
from tests.dng import BLACK, NEUTRAL, WHITE, XYZ_TO_CAMERA, write_dng


def stored(dtype, height=20, width=26, top=None):
    top = np.iinfo(dtype).max if top is None else top
    return np.random.default_rng(0).integers(0, top, (height, width), endpoint=True).astype(dtype)


def written(folder, kind, values, white):
    path = folder / f"mosaic.{kind}"
    if kind == "png":
        path.write_bytes(imagecodecs.png_encode(values))
    elif kind == "tif":
        tifffile.imwrite(path, values, photometric="minisblack")
    elif kind == "npy":
        np.save(path, values)
    else:
        height, width = values.shape
        header = f"P5 # by a test\n{width} {height}\n{white}\n".encode()
        path.write_bytes(header + values.astype(values.dtype.newbyteorder(">")).tobytes())
    return path


@pytest.mark.parametrize("kind", ["png", "tif", "npy", "pgm"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_kind_of_file_gives_what_it_holds(tmp_path, kind, dtype):
    values, full = stored(dtype), np.iinfo(dtype).max
    path = written(tmp_path, kind, values, full)
    mosaic = read_mosaic(path)
    np.testing.assert_allclose(mosaic.values * full, values, rtol=0, atol=0.01)
    assert mosaic.depth == np.dtype(dtype).name
    assert mosaic.pattern is None
    levels = read_mosaic(path, black=20, white=200)
    np.testing.assert_allclose(levels.values, (values - 20.0) / 180, rtol=0, atol=1e-4)
    with path.open("rb") as stream:
        np.testing.assert_array_equal(read_mosaic(BytesIO(stream.read())).values, mosaic.values)


def test_a_pgm_says_where_white_is(tmp_path):
    values = stored(np.uint16, top=4095)
    mosaic = read_mosaic(written(tmp_path, "pgm", values, 4095))
    np.testing.assert_allclose(mosaic.values * 4095, values, rtol=0, atol=0.01)
    text = tmp_path / "text.pgm"
    text.write_text("P2\n4 2\n4095\n" + " ".join(map(str, range(0, 4000, 500))))
    np.testing.assert_allclose(read_mosaic(text).values.ravel() * 4095, range(0, 4000, 500), atol=0.01)


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        *(("tif", bits) for bits in (1, 4, 10, 12, 14)),
        *(("png", bits) for bits in (1, 2, 4)),
        ("jp2", 5),
        ("jp2", 12),
    ],
)
def test_levels_are_stored_values_whatever_the_depth(tmp_path, kind, bits):
    top = 2**bits - 1
    values = stored(np.uint16 if bits > 8 else np.uint8, top=top)
    path = tmp_path / f"mosaic.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, values, photometric="minisblack", bitspersample=bits)
    elif kind == "png":
        path.write_bytes(gray_png(values, bits))
    else:
        path.write_bytes(imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits, reversible=True))
    mosaic = read_mosaic(path)
    np.testing.assert_allclose(mosaic.values * top, values, rtol=0, atol=1e-3)
    assert (mosaic.highest, mosaic.top) == (values.max(), top)
    black, white = top * 0.1, top * 0.8
    levels = read_mosaic(path, black=black, white=white)
    np.testing.assert_allclose(levels.values, (values - black) / (white - black), rtol=0, atol=1e-4)


def gray_png(values, bits):
    """A PNG of fewer bits than a byte a sample."""
    height, width = values.shape
    rows = [np.packbits(np.unpackbits(row[:, None], 1)[:, 8 - bits :]).tobytes() for row in values]
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return PNG_SIGNATURE + chunks


def test_values_of_fewer_bits_than_their_samples_are_found_dark(tmp_path):
    path = written(tmp_path, "npy", stored(np.uint16, top=4095), 0)
    mosaic = read_mosaic(path)
    assert mosaic.highest < 4096
    assert mosaic.top == 65535
    assert read_mosaic(path, white=4095).highest is None


def test_a_mosaic_is_not_turned_when_it_is_read(tmp_path):
    values = stored(np.uint8)
    PIL.Image.fromarray(values).save(tmp_path / "turned.tif", tiffinfo={274: 6})
    mosaic = read_mosaic(tmp_path / "turned.tif")
    assert mosaic.orientation == 6
    np.testing.assert_allclose(mosaic.values * 255, values, atol=0.01)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.png",
            imagecodecs.png_encode(np.zeros((4, 4, 3), np.uint8)),
            "has 3 channels, and a mosaic has one",
        ),
        (
            "a.png",
            imagecodecs.png_encode(np.zeros((4, 5), np.uint8)),
            "5 x 4 pixels, and the pattern of 2 x 2",
        ),
        ("a.pgm", b"P5\n4 4\n255\n" + bytes(15), "damaged or cut short"),
        ("a.pgm", b"P5\n4 x\n255\n", "its header is not that of a PGM"),
        ("a.pgm", b"P5\n4 4\n70000\n", "its largest value is 70000"),
        ("a.npy", b"\x93NUMPY rubbish", "damaged or cut short"),
        ("a.png", b"rubbish", "is no picture"),
        ("a.dng", b"rubbish", "LibRaw cannot read it"),
        ("a.png", b"", "the file is empty"),
    ],
)
def test_what_is_no_mosaic_is_a_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((InputError, ShapeError), match=sentence):
        read_mosaic(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "dng"])
def test_a_missing_file_is_a_sentence(tmp_path, suffix):
    with pytest.raises(InputError, match="there is no such file"):
        read_mosaic(tmp_path / f"missing.{suffix}")


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((4, 4, 3), np.uint8), "has 3 channels"),
        (np.zeros((4, 4), np.int32), "an array of int32"),
        (np.full((4, 4), np.nan, np.float32), "NaN"),
        (np.array([{}]), "damaged or cut short"),
    ],
)
def test_an_array_that_is_no_mosaic_is_a_sentence(tmp_path, array, sentence):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=sentence):
        read_mosaic(tmp_path / "a.npy")


def test_a_jpeg_is_a_sentence(tmp_path):
    PIL.Image.fromarray(stored(np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="is a JPEG, which mixes the colours of a mosaic"):
        read_mosaic(tmp_path / "a.jpg")


def test_a_mosaic_larger_than_allowed_is_a_sentence(tmp_path):
    for kind in ("png", "npy", "pgm"):
        path = written(tmp_path, kind, stored(np.uint8), 255)
        with pytest.raises(InputError, match="more than the 100 allowed"):
            read_mosaic(path, max_pixels=100)


@pytest.mark.parametrize(("black", "white"), [(300, None), (10, 10), (0, np.inf)])
def test_white_is_above_black(tmp_path, black, white):
    with pytest.raises(OptionError, match="give a value of white above that of black"):
        read_mosaic(written(tmp_path, "png", stored(np.uint8), 255), black=black, white=white)


@pytest.mark.parametrize("pattern", ["RGGB", "GRBG", "GBRG", "BGGR"])
def test_a_raw_file_says_what_its_values_mean(tmp_path, pattern):
    values = stored(np.uint16, 40, 52, top=WHITE)
    write_dng(tmp_path / "a.dng", values, pattern)
    mosaic = read_mosaic(tmp_path / "a.dng")
    np.testing.assert_allclose(mosaic.values, (values - float(BLACK)) / (WHITE - BLACK), rtol=0, atol=1e-6)
    assert (mosaic.pattern, mosaic.depth, mosaic.format, mosaic.orientation) == (pattern, "uint16", "TIFF", 1)
    assert b"Acme" in mosaic.metadata.exif
    np.testing.assert_allclose(mosaic.camera.gains, 1 / np.array(NEUTRAL), rtol=1e-4)
    # Of sRGB in linear light to XYZ: IEC 61966-2-1. White becomes white.
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    from_srgb = XYZ_TO_CAMERA @ to_xyz
    from_srgb /= from_srgb.sum(1, keepdims=True)
    np.testing.assert_allclose(mosaic.camera.to_srgb, np.linalg.inv(from_srgb), rtol=0, atol=2e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_raw_file_says_how_it_is_turned(tmp_path, orientation):
    write_dng(tmp_path / "a.dng", stored(np.uint16, 40, 52, top=WHITE), orientation=orientation)
    assert read_mosaic(tmp_path / "a.dng").orientation == orientation


def test_levels_that_are_given_stand_before_those_of_a_raw_file(tmp_path):
    values = stored(np.uint16, 40, 52, top=WHITE)
    write_dng(tmp_path / "a.dng", values)
    mosaic = read_mosaic(tmp_path / "a.dng", black=0, white=1000)
    np.testing.assert_allclose(mosaic.values, values / 1000, rtol=1e-5)
