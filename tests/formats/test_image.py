"""Promises of deepgsr_cli.formats.image and deepgsr_cli.files."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import tracemalloc
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile

from deepgsr_cli.errors import InputError, OutputError
from deepgsr_cli.files import atomic_write
from deepgsr_cli.formats.codecs import Metadata, Resolution
from deepgsr_cli.formats.exif import enlarged_exif, enlarged_xmp
from deepgsr_cli.formats.image import FORMATS, Image, read_image, to_uint8, write_image
from deepgsr_cli.formats.png import decode_png, encode_png

H, W = 37, 53
ICC = b"\0\0\1\0made up" * 30
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="1"/>'
SAMPLES_OF_COLOUR_TYPE = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def noise(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0.5, 1.0, shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def saved(samples: np.ndarray, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(samples).save(stream, format, **options)
    return stream.getvalue()


def tiff(samples: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples, **({"metadata": None} | options))
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: np.ndarray, bits: int, colour_type: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    """PNG of samples (H, W, S), written from the specification, without filters."""

    def rows(part: np.ndarray) -> bytes:
        out = b""
        for row in part.reshape(len(part), -1):
            bytes_of_row = row.astype(">u2" if bits == 16 else "u1")
            if bits < 8:
                bytes_of_row = np.packbits(np.unpackbits(bytes_of_row[:, None], axis=1)[:, 8 - bits :])
            out += b"\0" + bytes_of_row.tobytes()
        return out

    parts = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [samples]
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour_type, 0, 0, interlaced)
    body = zlib.compress(b"".join(rows(part) for part in parts if part.size))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)
    return start + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def read(data: bytes, **options: float) -> Image:
    return read_image(io.BytesIO(data), **options)  # type: ignore[arg-type]


def written(image: Image, format: str | None = None) -> bytes:
    stream = io.BytesIO()
    write_image(stream, image, format=format)
    return stream.getvalue()


def assert_same(a: Image, b: Image) -> None:
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert a.depth == b.depth
    assert (a.alpha is None) == (b.alpha is None)
    if a.alpha is not None and b.alpha is not None:
        np.testing.assert_array_equal(a.alpha, b.alpha)
        assert a.alpha.dtype == b.alpha.dtype == a.depth


def exif_block(orientation: int, order: str = "<") -> bytes:
    """EXIF with a make, an orientation, and an artist."""
    mark = b"II" if order == "<" else b"MM"
    entries = struct.pack(order + "HHI4s", 271, 2, 4, b"Box\0")
    entries += struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    entries += struct.pack(order + "HHII", 315, 2, 9, 8 + 2 + 36 + 4)
    return mark + struct.pack(order + "HIH", 42, 8, 3) + entries + bytes(4) + b"A. Adams\0"


# Reading


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour_type", "bits"),
    [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)],
)
def test_every_png_keeps_its_samples(colour_type: int, bits: int, interlaced: bool) -> None:
    count = SAMPLES_OF_COLOUR_TYPE[colour_type]
    samples = noise((H, W, count), "uint16") >> (16 - bits)
    image = read(png(samples, bits, colour_type, interlaced=interlaced))
    channels = count - (count + 1) % 2
    assert image.depth == ("uint16" if bits == 16 else "uint8")
    assert image.pixels.shape == (channels, H, W)
    expected = samples[..., :channels].transpose(2, 0, 1) / (2**bits - 1)
    np.testing.assert_allclose(image.pixels, expected, rtol=1e-7)
    if count == channels:
        assert image.alpha is None
    else:
        np.testing.assert_array_equal(image.alpha, samples[..., -1])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_png_becomes_rgb_with_alpha(bits: int) -> None:
    indices = noise((H, W, 1), "uint8") >> (8 - bits)
    palette = noise((2**bits, 3), "uint8", seed=1)
    data = png(indices, bits, 3, chunk(b"PLTE", palette.tobytes()), chunk(b"tRNS", bytes([7, 200])))
    image = read(data)
    np.testing.assert_array_equal(to_uint8(image.pixels), palette[indices[..., 0]])
    alpha = np.full(2**bits, 255, np.uint8)
    alpha[:2] = 7, 200
    np.testing.assert_array_equal(image.alpha, alpha[indices[..., 0]])


@pytest.mark.parametrize(
    ("format", "alpha"), [("PNG", False), ("PNG", True), ("BMP", False), ("TIFF", False)]
)
def test_palette_of_grays_becomes_gray_whatever_colours_are_not_in_use(format: str, alpha: bool) -> None:
    indices = noise((H, W), "uint8") >> 7
    picture = PIL.Image.fromarray(indices).convert("P")
    picture.putpalette([10, 10, 10, 99, 99, 99, 1, 2, 3])
    stream = io.BytesIO()
    picture.save(stream, format, **({"transparency": bytes([5])} if alpha else {}))
    image = read(stream.getvalue())
    np.testing.assert_array_equal(to_uint8(image.pixels), np.where(indices, 99, 10))
    if alpha:
        np.testing.assert_array_equal(image.alpha, np.where(indices, 255, 5))


def test_palette_stays_rgb_where_a_channel_differs_or_a_profile_says_rgb() -> None:
    indices = noise((H, W, 1), "uint8") >> 7
    for palette, chunks in [
        (b"\1\1\2\3\3\3", []),
        (b"\1\2\1\3\3\3", []),
        (b"\1\1\1\3\3\3", [chunk(b"iCCP", b"name\0\0" + zlib.compress(ICC))]),
    ]:
        assert read(png(indices, 1, 3, *chunks, chunk(b"PLTE", palette))).pixels.shape == (3, H, W)


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_colour_of_a_png_becomes_alpha(bits: int) -> None:
    samples = noise((H, W, 3), "uint16") >> (16 - bits)
    image = read(png(samples, bits, 2, chunk(b"tRNS", samples[4, 5].astype(">u2").tobytes())))
    expected = np.full((H, W), 2**bits - 1)
    expected[(samples == samples[4, 5]).all(axis=2)] = 0
    np.testing.assert_array_equal(image.alpha, expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"tile": (16, 32)},
        {"rowsperstrip": 5},
        {"planarconfig": "separate"},
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "byteorder": ">", "tile": (16, 16)},
        {"compression": "zstd", "planarconfig": "separate"},
        {"compression": "packbits"},
    ],
    ids=str,
)
def test_every_layout_of_a_tiff_gives_the_same_picture(dtype: str, options: dict[str, object]) -> None:
    samples = noise((H, W, 4), dtype)
    planar = options.get("planarconfig") == "separate"
    stored = samples.transpose(2, 0, 1) if planar else samples
    image = read(tiff(stored, photometric="rgb", extrasamples=["unassalpha"], **options))
    full = 1 if dtype.startswith("float") else np.iinfo(dtype).max
    np.testing.assert_allclose(image.pixels, samples[..., :3].transpose(2, 0, 1) / full, rtol=1e-6)
    np.testing.assert_array_equal(image.alpha, samples[..., 3])
    assert image.depth == dtype
    assert image.alpha is not None
    assert image.alpha.dtype == dtype  # in the machine's byte order


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_miniswhite_tiff_is_inverted_and_its_alpha_is_not(dtype: str) -> None:
    samples = noise((H, W, 2), dtype)
    data = tiff(samples, photometric="miniswhite", planarconfig="contig", extrasamples=["unassalpha"])
    image = read(data)
    full = 1 if dtype == "float32" else np.iinfo(dtype).max
    np.testing.assert_allclose(image.pixels[0], 1 - samples[..., 0] / np.float64(full), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(image.alpha, samples[..., 1])
    assert_same(read(written(image)), image)


@pytest.mark.parametrize("compression", ["raw", "group4"])
def test_one_bit_tiff_is_read_as_black_and_white(compression: str) -> None:
    bits = noise((H, W), "uint8") > 127
    image = read(saved(bits, "TIFF", compression=compression))
    assert image.depth == "uint8"
    np.testing.assert_array_equal(image.pixels[0], bits)


def test_twelve_bit_tiff_fills_the_range_of_sixteen() -> None:
    samples = noise((H, W), "uint16") >> 4
    packed = np.unpackbits(samples.astype(">u2").view("u1").reshape(H, W, 2), axis=2)[:, :, 4:].reshape(H, -1)
    strip = np.packbits(packed, axis=1).tobytes()
    values = {256: W, 257: H, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 8 * 12 + 4, 277: 1, 279: len(strip)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(values)) + directory + bytes(4) + strip
    image = read(data)
    assert image.depth == "uint16"
    np.testing.assert_allclose(image.pixels[0], samples / 4095, atol=0.51 / 65535)


def test_palette_tiff_becomes_rgb() -> None:
    picture = PIL.Image.fromarray(noise((H, W), "uint8")).convert("P")
    picture.putpalette(noise((256, 3), "uint8", seed=1).tobytes())
    stream = io.BytesIO()
    picture.save(stream, "TIFF")
    np.testing.assert_array_equal(
        to_uint8(read(stream.getvalue()).pixels), np.asarray(picture.convert("RGB"))
    )


@pytest.mark.parametrize("count", [1, 3])
def test_jpeg_inside_a_tiff_is_read_as_gray_or_rgb(count: int) -> None:
    y, x = np.mgrid[:H, :W]
    samples = np.stack([x * 4, y * 6, 255 - x * 4], axis=-1).astype(np.uint8)[..., :count].squeeze()
    photometric = "rgb" if count == 3 else "minisblack"
    data = tiff(samples, photometric=photometric, compression="jpeg", compressionargs={"level": 95})
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.pages[0].photometric.name == ("YCBCR" if count == 3 else "MINISBLACK")
    image = read(data)
    assert image.pixels.shape == (count, H, W)
    assert np.mean((image.pixels - samples.reshape(H, W, count).transpose(2, 0, 1) / 255) ** 2) < 1e-3
    assert_same(read(written(image)), image)


def test_jpeg_with_further_pictures_gives_the_first() -> None:
    frames = [PIL.Image.fromarray(noise((H, W, 3), "uint8", seed)) for seed in (0, 1)]
    stream = io.BytesIO()
    frames[0].save(stream, "MPO", save_all=True, append_images=frames[1:])
    picture = PIL.Image.open(stream)
    assert picture.format == "MPO"
    np.testing.assert_array_equal(to_uint8(read(stream.getvalue()).pixels), np.asarray(picture))


def test_float_file_is_divided_by_white_and_written_back_as_it_was() -> None:
    samples = noise((H, W), "float32") * 4096
    image = read(tiff(samples), white=4096.0)
    np.testing.assert_array_equal(image.pixels[0], samples / 4096)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(written(image))), samples)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_gray_stays_gray(format: str) -> None:
    image = read(saved(noise((H, W), "uint8"), format))
    assert image.pixels.shape == (1, H, W)
    assert PIL.Image.open(io.BytesIO(written(image))).mode == "L"


def test_content_says_the_format_not_the_suffix(tmp_path: Path) -> None:
    samples = noise((H, W, 3), "uint8")
    (tmp_path / "a.jpg").write_bytes(saved(samples, "PNG"))
    image = read_image(tmp_path / "a.jpg")
    assert image.format == "PNG"
    np.testing.assert_array_equal(to_uint8(image.pixels), samples)


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="needs /dev/fd")
def test_pipe_with_a_path_is_read() -> None:
    samples = noise((H, W), "uint8")
    source, target = os.pipe()
    os.write(target, tiff(samples))
    os.close(target)
    try:
        np.testing.assert_array_equal(to_uint8(read_image(Path(f"/dev/fd/{source}")).pixels), samples)
    finally:
        os.close(source)


def test_pipes_are_read_and_written() -> None:
    data = tiff(noise((H, W, 3), "uint16"), photometric="rgb")
    ends = os.pipe()
    with open(ends[0], "rb") as source, open(ends[1], "wb") as target:
        target.write(data)
        target.close()
        image = read_image(source)
    back = os.pipe()
    with open(back[0], "rb") as source, open(back[1], "wb") as target:
        write_image(target, image)
        target.close()
        assert_same(read_image(source), image)


# Round trips


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        ("PNG", "uint8"),
        ("PNG", "uint16"),
        ("TIFF", "uint8"),
        ("TIFF", "uint16"),
        ("TIFF", "float16"),
        ("TIFF", "float32"),
        ("WEBP", "uint8"),
        ("BMP", "uint8"),
        ("JPEG2000", "uint8"),
        ("JPEG2000", "uint16"),
        ("J2K", "uint16"),
        ("PNM", "uint8"),
        ("PNM", "uint16"),
    ],
)
def test_write_then_read_is_exact(tmp_path: Path, format: str, dtype: str, count: int) -> None:
    if format in ("BMP", "PNM") and count in (2, 4):
        pytest.skip(f"{format} is written without alpha")
    channels = count - (count + 1) % 2
    source = tiff(
        noise((H, W, count), dtype).squeeze(),
        photometric="rgb" if count > 2 else "minisblack",
        planarconfig="contig" if count > 1 else None,
        extrasamples=["unassalpha"] if count > channels else None,
    )
    image = read(source)
    image.metadata = Metadata(icc=ICC, exif=exif_block(1), xmp=XMP, resolution=Resolution(300.0, 240.0))
    path = tmp_path / f"picture{FORMATS[format].suffixes[0].upper()}"
    write_image(path, image)
    again = read_image(path)
    if (format, channels) == ("WEBP", 1):
        image.pixels = np.repeat(image.pixels, 3, axis=0)
    assert_same(again, image)
    if "icc" in FORMATS[format].holds:
        assert (again.metadata.icc, again.metadata.xmp) == (ICC, XMP)
    if format in ("PNG", "WEBP", "JPEG2000"):
        assert again.metadata.exif == exif_block(1)
    if "resolution" in FORMATS[format].holds:
        # a whole number of pixels per metre in PNG and BMP: half of one is 0.0127 per inch
        assert again.metadata.dpi == pytest.approx((300.0, 240.0), abs=0.0128)
    twice = read(written(again))
    assert_same(twice, again)
    assert twice.metadata == again.metadata


def test_what_repeats_in_a_png_is_packed_as_repetition(tmp_path: Path) -> None:
    letter = np.where(np.random.default_rng(0).random((16, 9)) < 0.3, 0, 255).astype(np.uint8)
    page = np.tile(letter, (20, 40))
    write_image(tmp_path / "page.png", Image(page[None].astype(np.float32) / 255, "uint8", "PNG"))
    assert (tmp_path / "page.png").stat().st_size <= len(imagecodecs.png_encode(page))
    assert np.array_equal(to_uint8(read_image(tmp_path / "page.png").pixels), page)


@pytest.mark.parametrize("value", [0, 1, 2, 254, 255, 32767, 32768, 65534, 65535])
def test_every_level_survives_float32(value: int) -> None:
    levels = np.full((3, 5), value, np.uint16)
    np.testing.assert_array_equal(read(written(read(tiff(levels)))).pixels, read(tiff(levels)).pixels)
    assert tifffile.imread(io.BytesIO(written(read(tiff(levels)))))[0, 0] == value


def test_resolution_in_centimetres_comes_back_in_inches() -> None:
    image = read(tiff(noise((H, W), "uint8"), resolution=(100, 50), resolutionunit="centimeter"))
    assert image.metadata.dpi == pytest.approx((254, 127))
    assert read(written(image)).metadata.dpi == pytest.approx((254, 127))
    assert read(tiff(noise((H, W), "uint8"), resolution=(2, 1), resolutionunit="none")).metadata.dpi is None


def test_description_of_a_tiff_is_kept_unless_it_describes_the_array() -> None:
    samples = noise((3, H, W), "uint8")
    about_cat = tiff(samples, photometric="rgb", planarconfig="separate", description="a cat")
    about_shape = tiff(samples, photometric="rgb", planarconfig="separate", metadata={})
    for data, text in [(about_cat, "a cat"), (about_shape, "")]:
        with tifffile.TiffFile(io.BytesIO(written(read(data)))) as file:
            assert file.pages[0].description == text


@pytest.mark.parametrize("kind", ["unspecified", "assocalpha", "unassalpha"])
def test_tiff_keeps_what_its_alpha_means(kind: str) -> None:
    data = tiff(noise((H, W, 4), "uint8"), photometric="rgb", extrasamples=[kind])
    image = read(data)
    with tifffile.TiffFile(io.BytesIO(written(image))) as file:
        assert [sample.name.lower() for sample in file.pages[0].extrasamples] == [kind]
    if kind == "assocalpha":
        with pytest.raises(OutputError, match=r"premultiplied.*\.tif"):
            written(image, "PNG")


def test_colour_under_full_transparency_survives_webp() -> None:
    samples = noise((H, W, 4), "uint8")
    samples[..., 3] = 0
    samples[0, 0, 3] = 255
    image = read(saved(samples, "PNG"))
    assert_same(read(written(image, "WEBP")), image)


@pytest.mark.parametrize("lossless", [False, True])
def test_webp_is_written_as_its_source_was(lossless: bool) -> None:
    image = read(saved(noise((H, W, 3), "uint8"), "WEBP", lossless=lossless))
    assert (b"VP8L" in written(image)[:16]) == lossless


def test_png_text_and_colour_chunks_are_kept_and_stale_ones_are_not() -> None:
    gamma, text = chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"tEXt", b"Title\0a cat")
    stale = chunk(b"tIME", bytes(7)), chunk(b"bKGD", bytes(2))
    out = written(read(png(noise((H, W, 1), "uint8"), 8, 0, gamma, *stale, text)))
    assert gamma in out
    assert text in out
    assert b"tIME" not in out
    assert b"bKGD" not in out


def test_pillow_finds_the_metadata_of_a_png() -> None:
    image = read(saved(noise((H, W, 3), "uint8"), "PNG"))
    image.metadata = Metadata(icc=ICC, exif=exif_block(1), xmp=XMP, resolution=Resolution(300.0, 300.0))
    info = PIL.Image.open(io.BytesIO(written(image)))
    info.load()
    assert info.info["icc_profile"] == ICC
    assert info.info["xmp"] == XMP
    assert info.getexif()[315] == "A. Adams"
    assert info.info["dpi"] == pytest.approx((300, 300), abs=0.0128)


@pytest.mark.parametrize("order", ["<", ">"])
def test_text_tags_travel_from_jpeg_to_tiff_and_on_to_png(order: str) -> None:
    data = saved(noise((H, W, 3), "uint8"), "JPEG", exif=b"Exif\0\0" + exif_block(1, order))
    through_tiff = read(written(read(data), "TIFF"))
    with tifffile.TiffFile(io.BytesIO(written(through_tiff))) as file:
        assert file.pages[0].tags[315].value == "A. Adams"
    found = PIL.Image.open(io.BytesIO(written(through_tiff, "PNG"))).getexif()
    assert (found[271], found[315]) == ("Box", "A. Adams")


def test_jpeg_is_written_finely_with_its_metadata() -> None:
    y, x = np.mgrid[:H, :W]
    samples = np.stack([x * 4, y * 6, 255 - x * 4], axis=-1).astype(np.uint8)
    coarse = saved(
        samples, "JPEG", quality=20, dpi=(300, 200), icc_profile=ICC, exif=b"Exif\0\0" + exif_block(1)
    )
    image = read(coarse)
    again = read(written(image))
    assert np.mean((again.pixels - image.pixels) ** 2) < 1e-4  # 40 dB
    assert b"\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01" in written(image)  # in the frame header: 4:4:4
    assert (again.metadata.icc, again.metadata.exif) == (ICC, exif_block(1))
    assert again.metadata.dpi == (300, 200)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("format", "order"), [("PNG", "<"), ("PNG", ">"), ("JPEG", ">"), ("TIFF", "<")])
def test_orientation_is_applied_once_to_pixels_and_alpha(format: str, order: str, orientation: int) -> None:
    xmp = XMP.replace(b'"1"', b'"%d"' % orientation)
    samples = noise((H, W, 3), "uint8") if format == "JPEG" else noise((H, W, 4), "uint8")
    if format == "TIFF":
        data = tiff(
            samples,
            photometric="rgb",
            extrasamples=["unassalpha"],
            extratags=[(274, 3, 1, orientation, True), (700, 1, len(xmp), xmp, True)],
            resolution=(300, 100),
        )
    else:
        exif = b"Exif\0\0" + exif_block(orientation, order)
        data = saved(samples, format, exif=exif, dpi=(300, 100), **({"xmp": xmp} if format == "JPEG" else {}))
    image = read(data)
    picture = PIL.Image.open(io.BytesIO(data))
    expected = np.asarray(PIL.ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(to_uint8(image.pixels), expected[..., :3])
    if format != "JPEG":
        np.testing.assert_array_equal(image.alpha, expected[..., 3])
    assert image.metadata.dpi == pytest.approx((100, 300) if orientation > 4 else (300, 100), abs=0.0128)
    assert image.pixels.flags.c_contiguous
    if format != "TIFF":
        assert image.metadata.exif == exif_block(1, order)
    if format != "PNG":
        assert image.metadata.xmp == XMP
    assert_same(read(written(image, "PNG")), Image(image.pixels, "uint8", "PNG", image.alpha))


@pytest.mark.parametrize("exif", [b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff\1", b"text"])
def test_damaged_exif_costs_no_picture(exif: bytes) -> None:
    image = read(png(noise((H, W, 1), "uint8"), 8, 0, chunk(b"eXIf", exif)))
    assert image.metadata.exif == exif
    assert_same(read(written(image, "TIFF")), image)


# Refusals


def whole_files() -> dict[str, bytes]:
    samples = noise((H, W, 3), "uint8")
    return {
        "png": saved(samples, "PNG"),
        "png16": png(noise((H, W, 3), "uint16"), 16, 2, interlaced=True),
        "jpeg": saved(samples, "JPEG"),
        "progressive": saved(samples, "JPEG", progressive=True),
        "tiff": tiff(samples, photometric="rgb", rowsperstrip=8),
        "lzw": tiff(samples, photometric="rgb", rowsperstrip=8, compression="lzw"),
        "deflate": tiff(samples, photometric="rgb", rowsperstrip=8, compression="zlib"),
        "webp": saved(samples, "WEBP", lossless=True),
        "lossy": saved(samples, "WEBP"),
        "bmp": saved(samples, "BMP"),
        "gif": saved(samples, "GIF"),
        "jp2": saved(samples, "JPEG2000"),
        "ppm": saved(samples, "PPM"),
    }


@pytest.mark.parametrize("kind", whole_files())
def test_truncated_file_is_refused_wherever_it_is_cut(kind: str) -> None:
    data = whole_files()[kind]
    whole = read(data)
    for cut in [*range(1, 60, 7), *range(60, len(data), 131), *range(len(data) - 9, len(data))]:
        try:
            image = read(data[:cut])
        except InputError:
            continue
        # Padding at the end may be missing, or the last chunk, never a pixel.
        assert len(data) - cut < (13 if kind.startswith("png") else 4)
        assert_same(image, whole)


@pytest.mark.parametrize("kind", ["png", "deflate"])
def test_damaged_file_with_a_checksum_is_refused(kind: str) -> None:
    data = bytearray(whole_files()[kind])
    data[len(data) // 2] ^= 1
    with pytest.raises(InputError, match="damaged"):
        read(bytes(data))


def test_damage_is_named() -> None:
    clear = chunk(b"tRNS", bytes(2))
    wrong = clear[:-1] + bytes([clear[-1] ^ 1])
    strips = tiff(noise((H, W), "uint8"), rowsperstrip=8)
    fewer = strips
    for tag, kind in ((273, 4), (279, 3)):
        fewer = fewer.replace(struct.pack("<HHI", tag, kind, 5), struct.pack("<HHI", tag, kind, 3))
    for data, words in [
        (png(noise((H, W, 1), "uint8"), 8, 0, wrong), "tRNS chunk has a wrong checksum"),
        (whole_files()["png"][:-13], "IDAT chunk is incomplete"),
        (whole_files()["webp"][:-1], "bytes are there"),
        (fewer, "3 of 5 strips"),
    ]:
        with pytest.raises(InputError, match=words):
            read(data)


@pytest.mark.parametrize("missing", [1, 9, 12])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_that_lacks_nothing_but_its_end_is_read_and_mended(missing: int, interlaced: bool) -> None:
    samples = noise((H, W, 3), "uint8")
    whole = png(samples, 8, 2, interlaced=interlaced)
    image = read(whole[:-missing])
    assert_same(image, read(whole))
    assert (image.notes, image.left_out) == (("its end is missing, and all pixels are there",), ())
    assert image.mended
    at = whole.index(b"IDAT") - 4
    for half in (whole[:at], whole[:at] + chunk(b"IDAT", whole[at + 8 : at + 300])):
        with pytest.raises(InputError, match="damaged or cut short"):
            read(half)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_nothing_but_its_end_is_read(progressive: bool) -> None:
    whole = saved(
        np.kron(noise((9, 12, 3), "uint8"), np.ones((8, 8, 1), np.uint8)), "JPEG", progressive=progressive
    )
    for missing in (1, 2):
        image = read(whole[:-missing])
        assert_same(image, read(whole))
        assert image.notes[0].startswith("its end is missing")
        assert not image.mended
    for share in (0.3, 0.6, 0.95):
        if not progressive:
            with pytest.raises(InputError, match="damaged or cut short"):
                read(whole[: int(share * len(whole))])


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x20ftypisom",
        b"\0\0\0\x14ftypqt  ",
        b"\x1aE\xdf\xa3\xa3B\x86\x81",
        b"RIFF\xbeh\0\0AVI LIST",
        b"\0\0\1\xba!",
    ],
)
def test_a_film_is_refused_as_one_with_the_way_to_its_frames(head: bytes) -> None:
    with pytest.raises(InputError, match=r"is a film, and pictures are read; make them by ffmpeg -i FILM"):
        read(head + bytes(99))


@pytest.mark.parametrize("shape", [(3000, 1), (300, 2), (1, 3000), (1, 1), (300, 1, 3), (2000, 5, 4)])
@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_noise_of_any_shape_is_written_as_png(shape: tuple[int, ...], depth: str) -> None:
    samples = noise(shape, depth)
    stream = io.BytesIO()
    encode_png(stream, samples, Metadata())
    stream.seek(0)
    np.testing.assert_array_equal(decode_png("a.png", stream, 10**6).samples.squeeze(), samples.squeeze())


def bombs() -> dict[str, bytes]:
    side = 65000
    tiny = np.zeros((8, 8), np.uint8)
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    png_bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    jpeg = saved(tiny, "JPEG").replace(
        b"\xff\xc0\0\x0b\x08\0\x08\0\x08", b"\xff\xc0\0\x0b\x08" + struct.pack(">HH", side, side)
    )
    bmp = saved(tiny, "BMP")
    bmp = bmp[:18] + struct.pack("<ii", side, side) + bmp[26:]
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: side * side}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tif = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4)
    canvas = struct.pack("<I", 0) + (side - 1).to_bytes(3, "little") * 2
    inner = saved(tiny, "WEBP", lossless=True)[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + inner
    return {
        "png": png_bomb,
        "jpeg": jpeg,
        "bmp": bmp,
        "tiff": tif,
        "webp": b"RIFF" + struct.pack("<I", len(body)) + body,
    }


@pytest.mark.parametrize("kind", bombs())
def test_huge_claim_is_refused_before_memory_is_taken(kind: str) -> None:
    data = bombs()[kind]
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"65000 x 65000 pixels.*max_pixels"):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp", "lossy", "bmp"])
def test_max_pixels_is_the_bound(kind: str) -> None:
    data = whole_files()[kind]
    assert read(data, max_pixels=H * W).pixels.shape == (3, H, W)
    with pytest.raises(InputError, match=f"{W} x {H} pixels"):
        read(data, max_pixels=H * W - 1)


def test_pillow_limit_does_not_hold_back_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", H * W // 3)
    for kind, data in whole_files().items():
        if kind in ("jpeg", "webp", "png"):
            assert read(data).pixels.shape == (3, H, W)


def misfits() -> dict[str, tuple[bytes, str]]:
    frames = [PIL.Image.fromarray(noise((H, W, 3), "uint8", seed)) for seed in (0, 1)]
    animated = {}
    for format in ("PNG", "WEBP", "GIF"):
        stream = io.BytesIO()
        frames[0].save(stream, format, save_all=True, append_images=frames[1:])
        animated[format] = stream.getvalue()
    cmyk = saved(noise((H, W, 4), "uint8"), "PNG")
    stream = io.BytesIO()
    PIL.Image.open(io.BytesIO(cmyk)).convert("CMYK").save(stream, "JPEG")
    empty = tiff(noise((H, W), "uint8")).replace(
        struct.pack("<HHII", 257, 4, 1, H), struct.pack("<HHII", 257, 4, 1, 0)
    )
    return {
        "empty": (b"", "empty"),
        "text": (b"These are not pixels.\n", "no picture of a format that is read, PNG"),
        "apng": (animated["PNG"], "animated"),
        "animated gif": (animated["GIF"], "animated"),
        "animated webp": (animated["WEBP"], "animated"),
        "cmyk jpeg": (stream.getvalue(), "CMYK"),
        "cmyk tiff": (tiff(noise((H, W, 4), "uint8"), photometric="separated"), "has CMYK colours"),
        "pages": (tiff(noise((5, H, W), "uint8"), photometric="minisblack"), "5 pages"),
        "imagej stack": (
            tiff(noise((5, H, W), "uint8"), imagej=True, metadata={"axes": "ZYX"}),
            "5 pages",
        ),
        "no rows": (empty, "53 x 0 pixels"),
        "int16": (tiff(noise((H, W), "int16")), "int16"),
        "int32": (tiff(noise((H, W), "int32")), "int32"),
        "uint32": (tiff(noise((H, W), "uint32")), "uint32"),
        "complex": (tiff(noise((H, W), "float32").astype("complex64")), "complex64"),
        "five samples": (
            tiff(noise((H, W, 5), "uint8"), photometric="rgb", planarconfig="contig"),
            "5 bands",
        ),
    }


@pytest.mark.parametrize("kind", misfits())
def test_what_is_not_one_gray_or_rgb_picture_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    data, word = misfits()[kind]
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=word) as refusal:
        read_image(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "; " in str(refusal.value)


def test_previews_in_a_tiff_are_skipped() -> None:
    stream = io.BytesIO()
    samples = noise((H, W), "uint8")
    with tifffile.TiffWriter(stream) as writer:
        writer.write(samples, metadata=None)
        writer.write(samples[::2, ::2].copy(), subfiletype=1, metadata=None)
    np.testing.assert_array_equal(to_uint8(read(stream.getvalue()).pixels), samples)


def test_circle_of_pages_in_a_tiff_is_refused() -> None:
    data = bytearray(tiff(noise((H, W), "uint8")))
    (count,) = struct.unpack_from("<H", data, 8)
    again = len(data)
    following = struct.pack("<H", 0) + struct.pack("<I", again + 6) + struct.pack("<HI", 0, again)
    struct.pack_into("<I", data, 10 + 12 * count, again)
    with pytest.raises(InputError):
        read(bytes(data) + following)


def test_missing_path_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write all")
def test_missing_rights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(InputError, match="permission"):
        read_image(path)
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission"), atomic_write(tmp_path / "b.png"):
        pass


# Writing


def gray(value: float = 0.5, depth: str = "uint8", **fields: object) -> Image:
    return Image(np.full((1, 3, 5), value, np.float32), depth, "PNG", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "suffix", "words"),
    [
        (gray(depth="uint16"), ".jpg", r"uint16.*JPEG holds uint8.*\.png or \.tif"),
        (gray(depth="uint16"), ".webp", "uint16"),
        (gray(depth="uint16"), ".bmp", "uint16"),
        (gray(depth="float32"), ".png", r"float32.*uint8 or uint16; write \.tif"),
        (gray(alpha=np.zeros((3, 5), np.uint8)), ".jpg", "alpha"),
        (gray(alpha=np.zeros((3, 5), np.uint8)), ".bmp", "alpha"),
        (Image(np.zeros((1, 2, 16384), np.float32), "uint8", "PNG"), ".webp", "16384 pixels.*16383"),
        (gray(), ".tga", r"\.png"),
        (gray(), "", r"\.png"),
        (gray(metadata=Metadata(exif=b"II*\0" + bytes(70000))), ".jpg", "JPEG"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_written(
    image: Image, suffix: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=words):
        write_image(tmp_path / f"out{suffix}", image)
    assert list(tmp_path.iterdir()) == []


def test_values_are_rounded_to_nearest_and_clipped() -> None:
    pixels = np.array([[[-0.5, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 1.5, np.inf]]], np.float32)
    assert to_uint8(pixels).tolist() == [[0, 0, 0, 1, 255, 255, 255, 255]]
    samples = tifffile.imread(io.BytesIO(written(Image(pixels, "uint16", "TIFF"))))
    assert samples.tolist() == [[0, 0, 103, 154, 65432, 65535, 65535, 65535]]


def test_float_values_are_written_unclipped() -> None:
    assert tifffile.imread(io.BytesIO(written(gray(-7.5, "float16"), "TIFF")))[0, 0] == -7.5


def test_what_integers_cannot_say_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError):
        write_image(path, gray(np.nan))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_reading_and_writing_take_one_copy_beside_the_pixels() -> None:
    height, width = 700, 1100
    data = saved(np.zeros((height, width, 3), np.uint8), "PNG")
    slack = 5 * 2**20  # a band of floats
    tracemalloc.start()
    try:
        image = read(data)
        assert tracemalloc.get_traced_memory()[1] < 15 * height * width + slack
        tracemalloc.reset_peak()
        written(image)
        assert tracemalloc.get_traced_memory()[1] < 15 * height * width + 2 * slack
    finally:
        tracemalloc.stop()


# Files


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_interrupted_write_leaves_no_trace(failure: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "no space"), (errno.EROFS, "read-only"), (errno.EIO, "Input/output")]
)
def test_failing_disk_is_a_sentence(code: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=rf"out\.json: .*{words}.*; "), atomic_write(tmp_path / "out.json"):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_failing_input_inside_the_block_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "out.json"):
        (tmp_path / "missing").read_bytes()


def test_target_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for path, words in [
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "out.json", "does not exist"),
        (tmp_path / ("x" * 300), "too long"),
    ]:
        with pytest.raises(OutputError, match=words), atomic_write(path):
            pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="not a regular file"), atomic_write(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask and asks for rights to link")
def test_permissions_and_links_are_as_a_plain_write_leaves_them(tmp_path: Path) -> None:
    new, private, link = tmp_path / "new", tmp_path / "private", tmp_path / "link"
    private.write_text("old")
    private.chmod(0o600)
    link.symlink_to(private)
    before = os.umask(0o027)
    try:
        for path in (new, link):
            with atomic_write(path) as temporary:
                temporary.write_text("text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert link.is_symlink()
    assert private.read_text() == "text"


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_tells_the_size_and_the_density_of_an_enlarged_picture(order: str) -> None:
    """Sizes are given as 16 bits, which the larger one has no room in."""
    magic = {"<": b"II", ">": b"MM"}[order]
    texts = struct.pack(order + "2sHIH", magic, 42, 8, 4)
    texts += struct.pack(order + "HHIHH", 256, 3, 1, 30000, 0)
    texts += struct.pack(order + "HHII", 282, 5, 1, 84)
    texts += struct.pack(order + "HHI4s", 315, 2, 3, b"AA\0\0")
    texts += struct.pack(order + "HHII", 34665, 4, 1, 62) + bytes(4)
    inner = struct.pack(order + "H", 1) + struct.pack(order + "HHII", 40963, 4, 1, 20000)
    block = texts + inner + bytes(84 - len(texts) - len(inner)) + struct.pack(order + "II", 720000, 10000)
    larger = enlarged_exif(block, (90000, 60000), 3)
    exif = PIL.Image.Exif()
    exif.load(larger)
    assert (exif[256], exif[282], exif[315], exif.get_ifd(34665)[40963]) == (90000, 216, "AA", 60000)
    assert len(larger) == len(block)
    assert enlarged_exif(block[:30], (9, 9), 3)  # cut short, it has what can be read
    assert enlarged_exif(b"", (9, 9), 3) == b""


def test_xmp_tells_the_size_and_the_density_of_an_enlarged_picture() -> None:
    xmp = (
        b'<rdf:Description tiff:ImageWidth="40" tiff:XResolution="720000/10000" exif:PixelYDimension="30">'
        b"<tiff:ImageLength>30</tiff:ImageLength><dc:title>40 by 30</dc:title></rdf:Description>"
    )
    assert enlarged_xmp(xmp, (80, 60), 2) == (
        b'<rdf:Description tiff:ImageWidth="80" tiff:XResolution="1440000/10000" exif:PixelYDimension="60">'
        b"<tiff:ImageLength>60</tiff:ImageLength><dc:title>40 by 30</dc:title></rdf:Description>"
    )


@pytest.mark.parametrize(("format", "suffix"), [("AVIF", "avif"), ("HEIF", "heic")])
def test_formats_that_are_only_read_are_not_written(tmp_path: Path, format: str, suffix: str) -> None:
    image = Image(np.zeros((1, 4, 5), np.float32), "uint8", format)
    with pytest.raises(OutputError, match="no picture format is written by this name"):
        write_image(tmp_path / f"a.{suffix}", image)
