"""Files of several pictures come back with all of them, and with what they say."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.image import to_uint8
from deepgsr_cli.formats.pages import open_pages, write_pages
from deepgsr_cli.formats.png import PNG_SIGNATURE, png_chunk, png_chunks
from tests.formats.test_image import ICC, XMP, H, W, chunk, exif_block, noise, png, saved
from tests.formats.test_kept import with_tags

FORMATS = ("GIF", "PNG", "WEBP")


def there_and_back(data: bytes, format: str) -> tuple[list[np.ndarray], bytes]:
    """The pixels of all pictures of a file, and the file of that format that is written of them."""
    pages = open_pages(io.BytesIO(data))
    assert pages is not None
    images = list(pages.read())
    assert len(images) == pages.count
    out = io.BytesIO()
    write_pages(out, iter(images), pages, format)
    return [image.pixels for image in images], out.getvalue()


def frames(mode: str, count: int = 3) -> list[PIL.Image.Image]:
    """Frames of few colours, so that a GIF holds them."""
    flat = [np.kron(noise((5, 7, 4), "uint8", i), np.ones((8, 8, 1), np.uint8)) for i in range(count)]
    for frame in flat:
        frame[..., 3] = np.where(frame[..., 3] > 99, 255, 0)
    return [PIL.Image.fromarray(frame).convert(mode) for frame in flat]


def animation(format: str, mode: str, **options: object) -> bytes:
    stream = io.BytesIO()
    first, *others = frames(mode)
    lossless = {"lossless": True} if format == "WEBP" else {}
    settings = {"duration": [50, 60, 70], "loop": 3} | lossless | options
    first.save(stream, format, save_all=True, append_images=others, **settings)
    return stream.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metadata": None},
        {"metadata": None, "compression": "lzw", "byteorder": ">"},
        {"truncate": True},
        {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 2.0, "unit": "um"}},
        {"imagej": True, "truncate": True, "byteorder": ">"},
        {"ome": True, "metadata": {"axes": "TYX", "PhysicalSizeX": 0.3, "TimeIncrement": 2.0}},
    ],
    ids=str,
)
def test_stacks_of_every_kind_come_back_whole(options: dict[str, object]) -> None:
    samples = noise((5, H, W), "uint16")
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples, photometric="minisblack", **options)
    read, out = there_and_back(stream.getvalue(), "TIFF")
    np.testing.assert_array_equal(np.rint(np.stack(read)[:, 0] * 65535), samples)
    with (
        tifffile.TiffFile(io.BytesIO(out)) as after,
        tifffile.TiffFile(io.BytesIO(stream.getvalue())) as before,
    ):
        np.testing.assert_array_equal(after.asarray(), samples)
        assert after.ome_metadata == before.ome_metadata
        assert (after.imagej_metadata is None) == (before.imagej_metadata is None)
        if options.get("imagej"):
            assert before.imagej_metadata is not None
            assert after.imagej_metadata is not None
            assert before.imagej_metadata.get("spacing") == after.imagej_metadata.get("spacing")


def test_pages_of_different_sizes_and_types_keep_theirs_and_previews_are_told() -> None:
    stream = io.BytesIO()
    kinds = [noise((H, W), "uint8"), noise((9, 12, 3), "uint16"), noise((W, H), "float32")]
    with tifffile.TiffWriter(stream) as writer:
        for number, samples in enumerate(kinds):
            name = (285, 2, 2, f"{number}", True)
            photometric = "rgb" if samples.ndim == 3 else "minisblack"
            writer.write(samples, photometric=photometric, metadata=None, extratags=[name])
        writer.write(kinds[0][::2, ::2].copy(), subfiletype=1, metadata=None)
    pages = open_pages(io.BytesIO(stream.getvalue()))
    assert pages is not None
    assert pages.left_out == ("1 preview or mask is left out",)
    _, out = there_and_back(stream.getvalue(), "TIFF")
    with tifffile.TiffFile(io.BytesIO(out)) as after:
        for number, (samples, page) in enumerate(zip(kinds, after.pages, strict=True)):
            np.testing.assert_array_equal(page.asarray(), samples)
            assert page.tags[285].value == f"{number}"


def test_planes_of_metamorph_are_pages_and_its_tags_are_named() -> None:
    planes = noise((3, H, W), "uint16")
    data = with_tags((33629, 5, bytes(24)), samples=planes[0]) + planes[1:].tobytes()
    pages = open_pages(io.BytesIO(data))
    assert pages is not None
    assert "MetaMorph" in next(pages.read()).left_out[0]
    _, out = there_and_back(data, "TIFF")
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(out)), planes)
    with pytest.raises(InputError, match="its plane 3 goes past the end"):
        there_and_back(data[:-9], "TIFF")


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("format", FORMATS)
def test_animations_come_back_frame_by_frame_with_durations_and_loop(format: str, mode: str, to: str) -> None:
    data = animation(format, mode)
    read, out = there_and_back(data, to)
    with PIL.Image.open(io.BytesIO(data)) as before, PIL.Image.open(io.BytesIO(out)) as after:
        assert after.format == to
        assert (after.n_frames, after.info["loop"]) == (3, 3 + (format == "GIF") - (to == "GIF"))
        for number, pixels in enumerate(read):
            before.seek(number)
            after.seek(number)
            one, two = (np.asarray(picture.convert("RGBA")) for picture in (before, after))
            shown = one[..., 3] > 0
            np.testing.assert_array_equal(two[shown], one[shown])
            np.testing.assert_array_equal(two[..., 3] > 0, shown)
            np.testing.assert_array_equal(to_uint8(pixels)[shown], one[shown][:, :3])
            assert after.info["duration"] == (50, 60, 70)[number]


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("plays", [0, 1, 2])
def test_animations_are_shown_as_often_as_before(plays: int, format: str, to: str) -> None:
    # A GIF counts repetitions, and has no count for none.
    counted = {} if (format, plays) == ("GIF", 1) else {"loop": max(0, plays - (format == "GIF"))}
    stream = io.BytesIO()
    first, *others = frames("RGB")
    first.save(stream, format, save_all=True, append_images=others, **counted)
    _, out = there_and_back(stream.getvalue(), to)
    with PIL.Image.open(io.BytesIO(out)) as after:
        loop = after.info.get("loop")
    assert loop == (plays if to != "GIF" else {0: 0, 1: None, 2: 1}[plays])


@pytest.mark.parametrize("delay", [(1, 30), (1001, 24000), (33, 1000), (70, 1)])
def test_a_png_shows_its_frames_as_long_as_before(delay: tuple[int, int]) -> None:
    def delays(data: bytes) -> list[tuple[int, int]]:
        chunks = png_chunks(memoryview(data))
        return [struct.unpack_from(">HH", whole, 28) for kind, whole in chunks if kind == b"fcTL"]

    data = PNG_SIGNATURE
    for kind, whole in png_chunks(memoryview(animation("PNG", "RGB"))):
        body = bytes(whole[8:-4])
        data += png_chunk(
            kind, body[:20] + struct.pack(">HH", *delay) + body[24:] if kind == b"fcTL" else body
        )
    assert delays(data) == [delay] * 3
    assert delays(there_and_back(data, "PNG")[1]) == [delay] * 3


@pytest.mark.parametrize("kinds", ["otto", "tooto", "ooot"])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_opaque_frame_of_a_gif_does_not_shine_through_the_next(format: str, kinds: str) -> None:
    first, *others = pictures = frames("RGBA", len(kinds))
    for picture, kind in zip(pictures, kinds, strict=True):
        if kind == "o":
            picture.putalpha(255)
    stream = io.BytesIO()
    lossless = {"lossless": True} if format == "WEBP" else {}
    first.save(stream, format, save_all=True, append_images=others, duration=50, **lossless)
    _, out = there_and_back(stream.getvalue(), "GIF")
    for data in (out, there_and_back(out, "GIF")[1]):
        with PIL.Image.open(io.BytesIO(data)) as after:
            for number, picture in enumerate(pictures):
                after.seek(number)
                samples, wanted = (np.asarray(one.convert("RGBA")) for one in (after, picture))
                np.testing.assert_array_equal(samples[..., 3], wanted[..., 3])
                shown = wanted[..., 3] > 0
                np.testing.assert_array_equal(samples[shown], wanted[shown])


def test_an_animation_of_grays_stays_gray_and_a_still_before_it_stays() -> None:
    read, out = there_and_back(animation("PNG", "L", default_image=True, duration=[60, 70]), "PNG")
    assert [len(pixels) for pixels in read] == [1, 1, 1]
    with PIL.Image.open(io.BytesIO(out)) as after:
        assert (after.mode, after.n_frames, after.info.get("default_image")) == ("L", 3, True)


def test_metadata_of_animations_are_kept() -> None:
    exif = exif_block(1)
    for format in ("PNG", "WEBP"):
        options = {"icc_profile": ICC, "exif": exif} | ({"xmp": XMP} if format == "WEBP" else {})
        _, out = there_and_back(animation(format, "RGB", **options), format)
        with PIL.Image.open(io.BytesIO(out)) as after:
            after.load()
            assert after.info["icc_profile"] == ICC
            assert after.getexif()[315] == "A. Adams"
            assert format == "PNG" or after.info["xmp"] == XMP
    _, out = there_and_back(animation("GIF", "RGB", comment=b"a cat"), "GIF")
    with PIL.Image.open(io.BytesIO(out)) as after:
        assert after.info["comment"] == b"a cat"


def test_one_picture_is_no_sequence() -> None:
    samples = noise((H, W, 3), "uint8")
    for data in (
        *(saved(samples, format) for format in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")),
        png(noise((H, W, 1), "uint8"), 8, 0, chunk(b"acTL", struct.pack(">II", 1, 0))),
    ):
        assert open_pages(io.BytesIO(data)) is None


def test_frames_of_sixteen_bits_are_refused_rather_than_cut_to_eight() -> None:
    data = png(noise((H, W, 1), "uint16"), 16, 0, chunk(b"acTL", struct.pack(">II", 2, 0)))
    with pytest.raises(InputError, match="16 bits"):
        open_pages(io.BytesIO(data))


@pytest.mark.parametrize("format", FORMATS)
def test_animations_cut_short_are_refused_wherever_they_are_cut(format: str, tmp_path: Path) -> None:
    data = animation(format, "RGB")
    for cut in range(40, len(data) - 9, 97):
        target = tmp_path / "out"
        with suppress(InputError):
            pages = open_pages(io.BytesIO(data[:cut]))
            if pages is not None:
                write_pages(target, pages.read(), pages, format)
                assert len(list(pages.read())) == pages.count
                target.unlink()
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", [1, 2])
def test_a_stack_that_lacks_pages_is_refused(left):
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((3, 8, 8), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(io.BytesIO(stream.getvalue())) as tiff:
        end = tiff.pages[left].offset
    with pytest.raises(InputError, match=f"cut short after {left} page"):
        open_pages(io.BytesIO(stream.getvalue()[:end]))
