"""AVIF is read with all it says, where Pillow is built with it."""

from __future__ import annotations

import io
from types import SimpleNamespace

import imagecodecs
import numpy as np
import PIL.features
import PIL.Image
import pytest

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.avif import describe_avif
from deepgsr_cli.formats.image import suffixes_in_folders, to_uint8
from deepgsr_cli.formats.pages import open_pages, write_pages
from deepgsr_cli.formats.png import png_chunks
from tests.formats.test_image import ICC, XMP, H, W, exif_block, noise, read, saved, written

needs_avif = pytest.mark.skipif(not PIL.features.check("avif"), reason="Pillow has no AVIF")
FILE = b"\0\0\0\x1cftypavif" + bytes(60)


def avif(samples: np.ndarray, **options: object) -> bytes:
    return saved(samples, "AVIF", **({"quality": 100, "subsampling": "4:4:4"} | options))


@needs_avif
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_those_that_another_reader_finds(channels: int) -> None:
    samples = noise((H, W, channels), "uint8").squeeze()
    data = avif(samples) if channels > 1 else imagecodecs.avif_encode(samples, level=100)
    image = read(data)
    expected = imagecodecs.avif_decode(data).reshape(H, W, channels)
    assert (image.format, image.depth) == ("AVIF", "uint8")
    np.testing.assert_array_equal(to_uint8(image.pixels).reshape(H, W, -1), expected[..., :3])
    assert (image.alpha is None) == (channels != 4)
    if image.alpha is not None:
        np.testing.assert_array_equal(image.alpha, samples[..., 3])
    with pytest.raises(InputError, match=f"{W} x {H} pixels"):
        read(data, max_pixels=H * W - 1)


@needs_avif
@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("shape", [(H, W, 3), (H, W)])
def test_more_than_8_bits_are_kept(bits: int, shape: tuple[int, ...]) -> None:
    samples = noise(shape, "uint16") >> (16 - bits)
    image = read(imagecodecs.avif_encode(samples, level=100, bitspersample=bits))
    assert image.depth == "uint16"
    expected = samples.reshape(H, W, -1).transpose(2, 0, 1) / (2**bits - 1)
    np.testing.assert_allclose(image.pixels, expected, atol=0.51 / 65535)


@needs_avif
def test_metadata_is_kept_and_the_picture_upright() -> None:
    samples = np.kron(noise((5, 7, 3), "uint8"), np.ones((8, 8, 1), np.uint8))
    data = avif(samples, exif=exif_block(6), xmp=XMP, icc_profile=ICC)
    image = read(data)
    assert image.pixels.shape == (3, 56, 40)
    turned = np.rot90(imagecodecs.avif_decode(data), -1)
    np.testing.assert_array_equal(to_uint8(image.pixels), turned)
    assert (image.metadata.icc, image.metadata.xmp) == (ICC, XMP)
    with PIL.Image.open(io.BytesIO(written(image, "PNG"))) as after:
        assert after.getexif()[315] == "A. Adams"
        assert after.getexif().get(274, 1) == 1


@needs_avif
def test_colours_other_than_those_of_srgb_are_told_in_the_png() -> None:
    data = avif(noise((H, W, 3), "uint8"))
    at = data.index(b"colrnclx") + 8
    wide = data[:at] + bytes([0, 9, 0, 16]) + data[at + 4 :]
    for file, told in ((data, []), (wide, [bytes([9, 16, 0, 1])])):
        chunks = png_chunks(memoryview(written(read(file), "PNG")))
        assert [bytes(chunk[8:-4]) for kind, chunk in chunks if kind == b"cICP"] == told


@needs_avif
def test_a_container_that_names_both_is_an_avif() -> None:
    data = avif(noise((H, W, 3), "uint8"))
    assert read(data[:8] + b"mif1" + data[12:]).format == "AVIF"


def test_a_gain_map_is_told() -> None:
    data = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1tmap"
    *_, left_out = describe_avif(SimpleNamespace(info={}, size=(W, H)), data)  # type: ignore[arg-type]
    assert left_out == ("1 of 2 pictures in the file is read, a gain map is left out",)


def animation(count: int = 3) -> tuple[bytes, np.ndarray]:
    """A moving AVIF, and its frames as another reader finds them."""
    flat = [np.kron(noise((5, 7, 3), "uint8", i), np.ones((8, 8, 1), np.uint8)) for i in range(count)]
    first, *others = map(PIL.Image.fromarray, flat)
    stream = io.BytesIO()
    settings = {"save_all": True, "append_images": others, "duration": [50, 60, 70]}
    first.save(stream, "AVIF", quality=100, subsampling="4:4:4", exif=exif_block(1), **settings)
    return stream.getvalue(), imagecodecs.avif_decode(stream.getvalue())


@needs_avif
def test_an_animation_becomes_one_of_another_kind() -> None:
    data, frames = animation()
    with pytest.raises(InputError, match="is an animated AVIF"):
        read(data)
    pages = open_pages(io.BytesIO(data))
    assert pages is not None
    out = io.BytesIO()
    write_pages(out, pages.read(), pages, "PNG")
    with PIL.Image.open(out) as after:
        assert (after.n_frames, after.info["loop"]) == (3, 0)
        assert after.getexif()[315] == "A. Adams"
        for number, frame in enumerate(frames):
            after.seek(number)
            np.testing.assert_array_equal(np.asarray(after.convert("RGB")), frame)
            assert after.info["duration"] == (50, 60, 70)[number]


@needs_avif
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.99])
def test_damaged_files_end_in_a_sentence(share: float) -> None:
    data = avif(noise((H, W, 3), "uint8"))
    with pytest.raises(InputError, match="damaged or cut short"):
        read(data[: int(share * len(data))])


def test_without_it_in_pillow_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    taken, foreign = suffixes_in_folders()
    assert ".avif" not in taken
    assert ".avif" in foreign
    for reader in (read, lambda data: open_pages(io.BytesIO(data))):
        with pytest.raises(InputError, match=r"is an AVIF.*pip install -U pillow; or convert it"):
            reader(FILE)
