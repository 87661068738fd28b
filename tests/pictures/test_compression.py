import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from deepgsr_cli.errors import OptionError
from deepgsr_cli.formats.codecs import JpegCoding
from deepgsr_cli.formats.image import Image, read_image, to_uint8, write_image
from deepgsr_cli.formats.jpeg import jpeg_file
from deepgsr_cli.formats.resize import resized
from deepgsr_cli.pictures.compression import compression_of, found_in, of_coding, of_quality
from tests.samples import smooth_picture


def photograph(channels=1, height=181, width=203, seed=0):
    """A picture with edges, slopes and texture of many frequencies, uint8, (H, W) or (H, W, 3)."""
    pixels = smooth_picture(channels, height, width, seed=seed)
    grain = np.random.default_rng(seed).normal(0, 1, pixels.shape)
    for axis in (1, 2):
        grain = grain + 0.7 * np.roll(grain, 1, axis)
    return to_uint8((0.15 + 0.7 * pixels + 0.03 * grain).astype(np.float32))


def decoded(levels, quality, subsampled=True):
    """Pixels, (C, H, W), of a JPEG."""
    return read_image(jpeg_file(levels, quality, subsampled=subsampled)).pixels


@pytest.mark.parametrize("quality", [10, 30, 60, 80, 90, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_quality_and_grid_are_found_in_pixels(channels, quality):
    pixels = decoded(photograph(channels), quality)
    for row, column in ((0, 0), (3, 6)):
        found = found_in(pixels[:, row:, column:])
        assert (found.quality, found.corner) == (quality, (-row % 8, -column % 8))


@pytest.mark.parametrize("quality", [30, 80])
def test_the_resolution_of_chroma_is_found(quality):
    for subsampled in (True, False):
        pixels = decoded(photograph(3), quality, subsampled)
        assert found_in(np.rint(255 * pixels).astype(np.uint8)) == found_in(pixels)
        found = found_in(pixels)
        assert replace(found, luma=None, chroma=None) == of_quality(quality, 3, subsampled=subsampled)


def test_the_steps_of_libjpeg_are_found_and_of_other_encoders_are_not():
    file = jpeg_file(photograph(3), 60, subsampled=False)
    image = read_image(file)
    stated, found = of_coding(image.metadata.jpeg, 3), found_in(image.pixels)
    assert (found.luma, found.chroma) == (stated.luma, stated.chroma)
    assert len(found.luma) == len(found.chroma) == 64
    file, tables = io.BytesIO(), [[7 + i // 3 for i in range(64)], [19] * 64]
    PIL.Image.fromarray(photograph(3)).save(file, "JPEG", qtables=tables, subsampling="4:4:4")
    file.seek(0)
    other = found_in(read_image(file).pixels)
    assert other.quality > 1
    assert other.luma is None


@pytest.mark.parametrize("quality", [20, 60])
def test_a_little_noise_and_another_brightness_leave_the_traces(quality):
    pixels = decoded(photograph(3), quality)[:, 2:, 7:]
    noise = np.random.default_rng(0).normal(0, 1.5 / 255, pixels.shape)
    for changed in (pixels + noise, pixels**0.95):
        found = found_in(np.rint(255 * changed.clip(0, 1)).astype(np.float32) / 255)
        assert (abs(found.quality - quality) <= 2, found.corner) == (True, (6, 1))


def test_16_bits_tell_as_much():
    pixels = decoded(photograph(), 60)
    file = io.BytesIO()
    write_image(file, Image(pixels, "uint16", "PNG"))
    file.seek(0)
    assert found_in(read_image(file).pixels) == found_in(pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_that_were_never_compressed_have_no_trace(channels):
    levels = photograph(channels)
    assert found_in(decoded(levels, 100)) is None
    planes = np.moveaxis(np.atleast_3d(levels), 2, 0)
    for picture in (
        planes,
        np.random.default_rng(0).integers(0, 256, planes.shape),
        np.full_like(planes, 77),
        np.broadcast_to(np.arange(planes.shape[2]) % 256, planes.shape),
        np.where(np.indices(planes.shape).sum(0) // 6 % 2, 255, 0),
        resized(np.rint(255 * decoded(levels, 30)).astype(np.uint8), (150, 170), "lanczos"),
    ):
        assert found_in((picture / 255).astype(np.float32)) is None


def test_drawings_have_no_trace():
    generator = np.random.default_rng(3)
    page = np.full((240, 320), 255, np.uint8)
    for _ in range(300):  # strokes of a few gray levels, as of letters
        y, x, down, right = generator.integers((0, 0, 1, 1), (230, 310, 10, 10))
        page[y : y + down, x : x + right] = generator.choice([0, 128])
    assert found_in((page[None] / 255).astype(np.float32)) is None


@pytest.mark.parametrize("size", [(1, 1), (8, 300), (30, 30)])
def test_small_pictures_do_not_tell(size):
    assert found_in(decoded(photograph(1, *size), 10)) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_says_where_its_blocks_lie_once_it_is_upright(orientation):
    exif = PIL.Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    PIL.Image.fromarray(photograph(1, 187, 203)).save(file, "JPEG", quality=40, exif=exif)
    file.seek(0)
    image = read_image(file)
    stated, found = of_coding(image.metadata.jpeg, 1), found_in(image.pixels)
    assert stated.corner == found.corner
    # Where rows have become columns, the tables have, and are not those of a quality any more.
    assert abs(stated.quality - found.quality) <= (orientation > 4)


@pytest.mark.parametrize(("subsampling", "share"), [("4:4:4", 0), ("4:2:2", 0.5), ("4:2:0", 1)])
def test_a_file_says_the_resolution_of_its_chroma(subsampling, share):
    file = io.BytesIO()
    PIL.Image.fromarray(photograph(3)).save(file, "JPEG", quality=50, subsampling=subsampling)
    file.seek(0)
    coding = read_image(file).metadata.jpeg
    assert coding.subsampled == share
    assert of_coding(coding, 3).told[-1] == share


def test_tables_of_any_encoder_are_told():
    file = io.BytesIO()
    tables = [[9] * 64, [20] * 64]
    PIL.Image.fromarray(photograph(3)).save(file, "JPEG", qtables=tables, subsampling="4:4:4")
    file.seek(0)
    found = of_coding(read_image(file).metadata.jpeg, 3)
    np.testing.assert_allclose(found.told, [8 / 255, 8 / 255, 19 / 255, 19 / 255, 0], rtol=1e-5)
    assert 70 < found.quality < 95


def test_steps_out_of_range_are_taken_for_the_nearest():
    coding = JpegCoding((0,) * 64, (60000,) * 64, 0.0)
    np.testing.assert_allclose(of_coding(coding, 3).told, [0, 0, 254 / 255, 254 / 255, 0], rtol=1e-5)


def test_a_quality_that_is_given_goes_over_what_is_known_and_leaves_the_grid():
    levels = photograph(3)
    pixels = decoded(levels, 40, subsampled=False)[:, 2:, 5:]
    given = compression_of(pixels, None, 20)
    assert (given.quality, given.corner, given.told[-1]) == (20, (6, 3), 0)
    assert given.told[:-1] == of_quality(20, 3).told[:-1]
    coding = read_image(jpeg_file(levels, 40, subsampled=False)).metadata.jpeg
    assert compression_of(pixels, coding, 20).told == given.told
    assert compression_of(pixels, coding) == of_coding(coding, 3)
    clean = np.zeros((1, 8, 8), np.float32)
    assert compression_of(clean) is None
    assert compression_of(clean, quality=20) == of_quality(20, 1)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_coarser_compression_is_found_below_a_fine_one(channels, stated):
    first = np.rint(255 * decoded(photograph(channels), 30)).astype(np.uint8)
    planes = np.ascontiguousarray(np.moveaxis(first, 0, 2)[3:, 5:].squeeze())
    image = read_image(jpeg_file(planes, 92))
    found = compression_of(image.pixels, image.metadata.jpeg if stated else None)
    assert (found.quality, found.corner, found.last, found.luma) == (30, (5, 3), 92, None)
    once = read_image(jpeg_file(photograph(channels), 92))
    known = compression_of(once.pixels, once.metadata.jpeg if stated else None)
    assert (known.quality, known.last) == (92, None)


@pytest.mark.parametrize("quality", [0, 101, float("nan")])
def test_a_quality_that_cannot_be_is_named(quality):
    with pytest.raises(OptionError, match=r"quality is .*: give 1 to 100"):
        compression_of(np.zeros((1, 8, 8), np.float32), quality=quality)


def test_little_is_lost_at_the_highest_qualities():
    assert [q for q in range(1, 101) if of_quality(q, 3).negligible] == [97, 98, 99, 100]
