"""What a file says beside its pixels comes back as it was, is made true of the new picture, or is named."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.IptcImagePlugin
import pytest
import tifffile

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.image import Image, check_range, losses, to_uint8
from deepgsr_cli.formats.jpeg import without_thumbnail
from tests.formats.test_image import H, W, chunk, noise, png, read, saved, tiff, written

TEXT = b"Field 7\0"


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(body) + 2) + body


def jpeg(*segments: bytes, quality: int = 90, size: tuple[int, int] = (H, W)) -> bytes:
    """A JPEG of noise, with segments after that of JFIF."""
    data = saved(noise((*size, 3), "uint8"), "JPEG", quality=quality)
    return data[:20] + b"".join(segments) + data[20:]


def with_tags(*tags: tuple[int, int, bytes], samples: np.ndarray | None = None, order: str = "<") -> bytes:
    """A TIFF written from the specification, in one strip, with tags of code, type and packed values."""
    samples = noise((H, W), "uint8") if samples is None else samples
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 11: 4, 12: 8}
    own = {tag: (kind, len(value) // sizes[kind], value) for tag, kind, value in tags}
    count = 1 if samples.ndim == 2 else samples.shape[2]
    bits = samples.dtype.itemsize * 8

    def numbers(kind: int, *values: int) -> tuple[int, int, bytes]:
        return kind, len(values), struct.pack(order + {3: "H", 4: "I"}[kind] * len(values), *values)

    sample_format = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    entries = {
        256: numbers(4, samples.shape[1]), 257: numbers(4, samples.shape[0]),
        258: numbers(3, *[bits] * count), 262: numbers(3, 1 if count < 3 else 2), 273: numbers(4, 0),
        277: numbers(3, count), 278: numbers(4, samples.shape[0]), 279: numbers(4, samples.nbytes),
        339: numbers(3, *[sample_format] * count),
    } | own  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    values = {code: value for code, (_, _, value) in entries.items() if len(value) > 4}
    places, tail = {}, b""
    for code, value in values.items():
        places[code] = start + len(tail)
        tail += value + bytes(len(value) % 2)
    entries[273] = numbers(4, start + len(tail))
    out = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    for code, (kind, number, value) in sorted(entries.items()):
        place = struct.pack(order + "I", places[code]) if code in places else value.ljust(4, b"\0")
        out += struct.pack(order + "HHI", code, kind, number) + place
    return out + bytes(4) + tail + samples.astype(samples.dtype.newbyteorder(order)).tobytes()


def tags_of(data: bytes) -> dict[int, object]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return {tag.code: tag.value for tag in file.pages[0].tags}


def chunks_of(data: bytes) -> dict[bytes, bytes]:
    found, at = {}, 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found[kind] = data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def exif(order: str = "<", thumbnail: bytes = b"", orientation: int = 6) -> bytes:
    """EXIF with a make, an orientation, the size in pixels and an exposure, GPS, and a thumbnail."""

    def directory(at: int, rows: list[tuple[int, int, int, bytes]], following: int = 0) -> bytes:
        start, values = at + 2 + 12 * len(rows) + 4, b""
        packed = struct.pack(order + "H", len(rows))
        for code, kind, count, value in rows:
            place = value.ljust(4, b"\0")
            if len(value) > 4:
                place, values = struct.pack(order + "I", start + len(values)), values + value
            packed += struct.pack(order + "HHI", code, kind, count) + place
        return packed + struct.pack(order + "I", following) + values

    def integer(value: int) -> bytes:
        return struct.pack(order + "I", value)

    at_exif, at_gps, at_thumbnail = 100, 200, 300
    main = [
        (271, 2, 4, b"Box\0"),
        (274, 3, 1, struct.pack(order + "H", orientation)),
        (34665, 4, 1, integer(at_exif)),
        (34853, 4, 1, integer(at_gps)),
    ]
    inner = [
        (33434, 5, 1, integer(1) + integer(250)),
        (0xA002, 4, 1, integer(W)),
        (0xA003, 3, 1, struct.pack(order + "H", H)),
    ]
    place = [(1, 2, 2, b"N\0"), (2, 5, 3, b"".join(map(integer, (50, 1, 3, 1, 0, 1))))]
    block = {"<": b"II*\0", ">": b"MM\0*"}[order] + integer(8)
    block += directory(8, main, at_thumbnail if thumbnail else 0)
    block = block.ljust(at_exif, b"\0") + directory(at_exif, inner)
    block = block.ljust(at_gps, b"\0") + directory(at_gps, place)
    if thumbnail:
        rows = [(0x201, 4, 1, integer(at_thumbnail + 30)), (0x202, 4, 1, integer(len(thumbnail)))]
        block = block.ljust(at_thumbnail, b"\0") + directory(at_thumbnail, rows) + thumbnail
    return block


# Values and colours


@pytest.mark.parametrize("channels", [1, 3])
def test_a_float_picture_on_another_scale_is_refused_by_name_and_range(channels: int) -> None:
    samples = (noise((H, W, channels), "uint8").squeeze() / np.float32(1)).astype("float32")
    photometric = "rgb" if channels == 3 else "minisblack"
    data = tiff(samples, photometric=photometric)
    with pytest.raises(
        InputError, match=r"^scan\.tif: its values go from 0 to 255, but white is 1; .*as white=255"
    ):
        check_range(read(data), "scan.tif", has_option=True)
    check_range(read(data, white=255), "scan.tif")


@pytest.mark.parametrize("white", [1, 255])
def test_a_float_picture_whose_black_is_below_zero_is_refused(white: int) -> None:
    samples = (noise((H, W), "uint8") / np.float32(127.5) - 1) * np.float32(white)
    with pytest.raises(
        InputError, match=rf"^scan\.tif: its values go from -{white} to {white}, and black is 0"
    ):
        check_range(read(tiff(samples), white=white), "scan.tif")
    strong = np.float32(0.25) + np.float32(75 / 255) * np.random.default_rng(0).normal(size=(H, W))
    check_range(read(tiff(strong.astype(np.float32))), "noisy.tif")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("low", "contrast"), [(-0.5, 1.0), (-0.4, 1.2), (-0.5, 0.2)])
def test_a_float_picture_with_areas_below_black_is_refused(
    channels: int, low: float, contrast: float
) -> None:
    ramp = np.linspace(0, contrast, H * W * channels, dtype=np.float32).reshape(H, W, channels).squeeze()
    photometric = "rgb" if channels == 3 else "minisblack"
    high = low + contrast
    with pytest.raises(
        InputError, match=rf"^scan\.tif: its values go from {low:g} to {high:g}, and whole areas are below 0"
    ):
        check_range(read(tiff(low + ramp, photometric=photometric)), "scan.tif")


def test_noise_and_colours_below_black_are_no_areas_below_it() -> None:
    generator = np.random.default_rng(0)
    for level in (10, 50):
        dark = np.float32(level / 255) * generator.normal(size=(H, W)).astype(np.float32)
        check_range(read(tiff(dark)), "night.tif")
    vivid = np.full((H, W, 3), 0.8, np.float32)
    vivid[..., 0] = -0.3
    check_range(read(tiff(vivid, photometric="rgb")), "vivid.tif")


def test_a_few_values_beyond_white_are_no_other_scale() -> None:
    samples = np.full((H, W), 0.5, np.float32)
    samples[0, :9] = 80
    check_range(read(tiff(samples)), "sky.tif")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused_by_name(value: float, tmp_path: Path) -> None:
    samples = np.full((H, W), 0.5, np.float32)
    samples[3:5, 7] = value
    with pytest.raises(InputError, match="has 2 NaN or infinite pixels"):
        read(tiff(samples))


@pytest.mark.parametrize(("dtype", "empty"), [("float32", -9999.0), ("float32", np.nan), ("uint16", 65535.0)])
def test_pixels_without_a_value_are_kept_exactly_and_filled_by_their_surroundings(
    dtype: str, empty: float
) -> None:
    samples = (noise((H, W), "uint16") * (0.5 if dtype == "uint16" else 0.5 / 65535)).astype(dtype)
    samples[4:20, 9:30] = samples[0, 0] = empty
    data = with_tags((42113, 2, f"{empty:g}".encode() + b"\0"), samples=samples)
    image = read(data)
    assert image.pixels.min() >= 0
    assert image.pixels.max() <= 0.51
    assert image.pixels[0, 4:20, 9:30].std() > 0.1  # noise, as around it
    assert "337 pixels without a value" in image.notes[0]
    image.pixels += np.float32(0.125)
    result = tifffile.imread(io.BytesIO(written(image)))
    hole = np.isnan(samples) if np.isnan(empty) else samples == empty
    np.testing.assert_array_equal(result[hole], samples[hole])
    full = 65535 if dtype == "uint16" else 1
    np.testing.assert_allclose(result[~hole], samples[~hole] + 0.125 * full, atol=1)
    assert tags_of(written(image))[42113] == f"{empty:g}"


def test_a_picture_without_any_value_is_read() -> None:
    samples = np.full((H, W), -1, np.float32)
    image = read(with_tags((42113, 2, b"-1\0"), samples=samples))
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(written(image))), samples)


def test_a_float_picture_whose_zero_is_white_keeps_its_values_and_says_so() -> None:
    samples = noise((H, W), "uint8").astype(np.float32)
    image = read(tiff(samples, photometric="miniswhite"), white=255)
    np.testing.assert_allclose(image.pixels[0], 1 - samples / 255, atol=1e-6)
    np.testing.assert_allclose(tifffile.imread(io.BytesIO(written(image))), samples, atol=1e-4)
    assert tags_of(written(image))[262] == 0


@pytest.mark.parametrize("times", [1, 256, 257])
def test_a_colour_map_is_read_whether_it_has_8_bits_or_16(times: int) -> None:
    samples = noise((H, W), "uint8")
    colours = noise((3, 256), "uint8", seed=1).astype(np.uint16)
    map_ = (320, 3, (colours * np.uint16(times)).astype("<u2").tobytes())
    image = read(with_tags((262, 3, struct.pack("<H", 3)), map_, samples=samples))
    np.testing.assert_array_equal(to_uint8(image.pixels), colours.T[samples])
    assert image.mended == (times == 1)


def test_a_fourth_band_without_a_meaning_is_named() -> None:
    samples = noise((H, W, 4), "uint8")
    assert "its last band" in read(tiff(samples, photometric="rgb", extrasamples=["unspecified"])).notes[0]
    assert not read(tiff(samples, photometric="rgb", extrasamples=["unassalpha"])).notes


# Damage


def test_damage_of_jpeg_coefficients_is_told() -> None:
    whole = jpeg(size=(96, 128))
    half = len(whole) // 2
    zeroed = whole[:half] + bytes(len(whole) - half - 2) + b"\xff\xd9"
    flipped = whole[:half] + b"\x5a" * 200 + whole[half + 200 :]
    for data in (zeroed, flipped):
        (note,) = read(data).notes
        assert "damaged" in note
        assert "extraneous bytes" in note
    assert not read(whole).notes


def test_a_damaged_or_second_profile_costs_no_picture() -> None:
    profile = zlib.compress(b"profile" * 50)
    zeros = zlib.compress(bytes(2**26 + 1))
    good = chunk(b"iCCP", b"good\0\0" + profile)
    for body in (profile[:-8], zeros, zeros[:99], b"text"):
        image = read(png(noise((H, W, 3), "uint8"), 8, 2, chunk(b"iCCP", b"bad\0\0" + body)))
        assert image.metadata.icc is None
        assert image.mended
        assert "colour profile is damaged" in image.notes[0]
    image = read(png(noise((H, W, 3), "uint8"), 8, 2, good, chunk(b"iCCP", b"2\0\0" + zlib.compress(b"no"))))
    assert image.metadata.icc == b"profile" * 50
    assert "of its 2 colour profiles the first is kept" in image.notes[0]


@pytest.mark.parametrize(("bits", "colour_type", "samples"), [(16, 2, 3), (8, 4, 2), (1, 0, 1), (4, 3, 1)])
def test_interlaced_pngs_are_read_without_a_word_of_libpng(
    bits: int, colour_type: int, samples: int, capfd: pytest.CaptureFixture[str]
) -> None:
    values = noise((H, W, samples), "uint16") >> (16 - bits)
    palette = [chunk(b"PLTE", noise((16, 3), "uint8").tobytes())] if colour_type == 3 else []
    plain, woven = (read(png(values, bits, colour_type, *palette, interlaced=i)) for i in (False, True))
    np.testing.assert_array_equal(woven.pixels, plain.pixels)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 2), (8, 9)])
def test_small_interlaced_pngs_lack_passes(size: tuple[int, int]) -> None:
    values = noise((*size, 1), "uint8")
    np.testing.assert_array_equal(read(png(values, 8, 0, interlaced=True)).pixels[0] * 255, values[..., 0])


# Metadata


@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_of_a_tiff_come_back_in_either_byte_order(order: str) -> None:
    def doubles(*values: float) -> bytes:
        return struct.pack(f"{order}{len(values)}d", *values)

    tags = [
        (33550, 12, doubles(30, 30, 0)), (33922, 12, doubles(0, 0, 0, 5e5, 4.2e6, 0)),
        (34735, 3, struct.pack(order + "8H", 1, 1, 0, 1, 3072, 0, 1, 32633)), (42113, 2, b"7\0"),
        (269, 2, b"page.tif\0"), (285, 2, TEXT), (305, 2, b"Scan 1.0\0"), (316, 2, b"host\0"),
        (286, 5, struct.pack(order + "2I", 3, 2)), (297, 3, struct.pack(order + "2H", 2, 7)),
        (318, 5, struct.pack(order + "4I", 3127, 10000, 3290, 10000)),
        (301, 3, struct.pack(order + "256H", *range(0, 65536, 256))), (65000, 7, b"made up"),
    ]  # fmt: skip
    data = with_tags(*tags, samples=noise((H, W), "uint16"), order=order)
    before, after = tags_of(data), tags_of(written(read(data)))
    for code, _, _ in tags:
        np.testing.assert_array_equal(after[code], before[code])


def test_places_on_the_earth_do_not_outlive_a_turn() -> None:
    scale = (33550, 12, struct.pack("<3d", 30, 30, 0))
    image = read(with_tags(scale, (274, 3, struct.pack("<H", 6))))
    assert 33550 not in tags_of(written(image))
    assert image.left_out == ("the place on the earth cannot be kept",)


def test_positions_in_the_old_file_are_left_out_and_named() -> None:
    image = read(with_tags((37724, 7, bytes(40))))
    assert 37724 not in tags_of(written(image))
    assert image.left_out == ("Photoshop's layers cannot be kept",)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_travels_between_jpeg_tiff_and_png(order: str) -> None:
    image = read(jpeg(segment(0xE1, b"Exif\0\0" + exif(order, orientation=1))))
    as_tiff = written(image, "TIFF")
    tags = tags_of(as_tiff)
    assert tags[271] == "Box"
    assert tags[34665]["ExposureTime"] == (1, 250)
    assert tags[34853]["GPSLatitude"] == (50, 1, 3, 1, 0, 1)
    again = written(read(as_tiff), "TIFF")
    assert tags_of(again)[34665] == tags[34665]
    found = PIL.Image.open(io.BytesIO(written(read(again), "PNG"))).getexif()
    assert found[271] == "Box"
    assert found.get_ifd(34665)[33434] == pytest.approx(1 / 250)
    assert found.get_ifd(34853)[1] == "N"


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_made_true_of_the_upright_picture(order: str) -> None:
    thumbnail = saved(noise((8, 12, 3), "uint8"), "JPEG")
    xmp = b'<x:xmpmeta tiff:Orientation="6" exif:PixelXDimension="%d" exif:PixelYDimension="%d"/>' % (W, H)
    data = jpeg(
        segment(0xE1, b"Exif\0\0" + exif(order, thumbnail)),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp),
    )
    out = written(read(data))
    picture = PIL.Image.open(io.BytesIO(out))
    found = picture.getexif()
    assert picture.size == (H, W)
    assert found[274] == 1
    assert (found.get_ifd(34665)[0xA002], found.get_ifd(34665)[0xA003]) == (H, W)
    assert not found.get_ifd(1)
    assert thumbnail[30:] not in out
    assert b'tiff:Orientation="1" exif:PixelXDimension="%d" exif:PixelYDimension="%d"' % (H, W) in out


def test_iptc_comments_and_private_segments_of_a_jpeg_are_kept() -> None:
    title = b"\x1c\x02\x05" + struct.pack(">H", 5) + b"Title"
    iptc = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(title)) + title
    own = segment(0xE7, b"Maker's own")
    data = jpeg(segment(0xED, b"Photoshop 3.0\0" + iptc), segment(0xFE, b"one"), segment(0xFE, b"two"), own)
    image = read(data)
    out = written(image)
    found = PIL.Image.open(io.BytesIO(out))
    assert PIL.IptcImagePlugin.getiptcinfo(found)[(2, 5)] == b"Title"
    assert read(out).metadata.comments == (b"one", b"two")
    assert own in out
    assert tags_of(written(image, "TIFF"))[34377] == iptc
    assert losses(image, "PNG") == ["IPTC", "further segments of a JPEG"]


def test_a_thumbnail_among_image_resources_goes_and_the_others_stay() -> None:
    def resource(code: int, body: bytes) -> bytes:
        return b"8BIM" + struct.pack(">HHI", code, 0, len(body)) + body + bytes(len(body) % 2)

    first, thumbnail, last = (
        resource(0x0404, b"odd"),
        resource(0x040C, bytes(31)),
        resource(0x03ED, b"x" * 16),
    )
    assert without_thumbnail(first + thumbnail + last) == first + last
    for damaged in (b"", b"8BIM", b"other", first[:9], thumbnail[:20]):
        assert len(without_thumbnail(damaged)) <= len(damaged)


def test_further_pictures_in_a_jpeg_are_counted() -> None:
    frames = [PIL.Image.fromarray(noise((H, W, 3), "uint8", seed)) for seed in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "MPO", save_all=True, append_images=frames[1:])
    assert "1 of 3 pictures" in read(stream.getvalue()).left_out[0]
    assert "left out (9 bytes)" in read(jpeg() + b"any bytes").left_out[0]
    for whole in (jpeg(), jpeg() + bytes(100), saved(noise((H, W, 3), "uint8"), "JPEG", progressive=True)):
        assert not read(whole).left_out


def test_a_claim_of_a_gain_map_goes_with_it() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta hdrgm:Version="1.0" a:b="c"/>'
    image = read(jpeg(segment(0xE1, xmp), segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")))
    assert image.metadata.xmp == b'<x:xmpmeta a:b="c"/>'
    assert "gain map" in image.left_out[0]


@pytest.mark.parametrize(
    ("data", "unit", "x", "y"),
    [
        (jpeg()[:13] + struct.pack(">BHH", 2, 1, 2) + jpeg()[18:], "cm", 1, 2),
        (jpeg()[:13] + struct.pack(">BHH", 0, 4, 1) + jpeg()[18:], "none", 4, 1),
        (jpeg()[:13] + struct.pack(">BHH", 1, 300, 200) + jpeg()[18:], "inch", 300, 200),
        (png(noise((H, W, 1), "uint8"), 8, 0, chunk(b"pHYs", struct.pack(">IIB", 4, 1, 0))), "none", 4, 1),
        (tiff(noise((H, W), "uint8"), resolution=(2, 1), resolutionunit="none"), "none", 2, 1),
        (tiff(noise((H, W), "uint8"), resolution=(100, 50), resolutionunit="centimeter"), "cm", 100, 50),
        (with_tags((282, 11, struct.pack("<f", 300)), (283, 11, struct.pack("<f", 150))), "inch", 300, 150),
    ],
    ids=str,
)
def test_resolution_and_the_shape_of_pixels_are_kept_in_their_unit(
    data: bytes, unit: str, x: float, y: float
) -> None:
    image = read(data)
    for again in (image, read(written(image))):
        assert again.metadata.resolution == (x, y, unit)


def test_no_resolution_is_made_up() -> None:
    assert read(jpeg(segment(0xE1, b"Exif\0\0" + exif()))).metadata.resolution is None
    out = written(read(jpeg(segment(0xE1, b"Exif\0\0" + exif()))))
    assert out[13:18] == struct.pack(">BHH", 0, 1, 1)


def test_size_and_place_of_the_pixels_of_a_png_are_kept_and_what_is_private_where_it_is_safe() -> None:
    kept = [
        chunk(b"sCAL", b"\1" + b"0.0025\0" + b"0.0025"),
        chunk(b"sTER", b"\1"),
        chunk(b"oFFs", struct.pack(">iiB", 10, 20, 0)),
        chunk(b"prVt", b"safe to copy"),
    ]
    data = png(noise((H, W, 1), "uint8"), 8, 0, *kept, chunk(b"prVT", b"bound to the pixels"))
    found = chunks_of(written(read(data)))
    assert all(found[one[4:8]] == one[8:-4] for one in kept)
    assert b"prVT" not in found
    turned = png(noise((H, W, 1), "uint8"), 8, 0, *kept, chunk(b"eXIf", exif()))
    assert not {b"sCAL", b"oFFs"} & chunks_of(written(read(turned))).keys()


def test_descriptions_of_microscopes_come_back_where_they_are_still_true() -> None:
    stream = io.BytesIO()
    axes = {"axes": "YX", "PhysicalSizeX": 0.325, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(stream, noise((H, W), "uint16"), ome=True, metadata=axes)
    with tifffile.TiffFile(io.BytesIO(written(read(stream.getvalue())))) as file:
        assert 'PhysicalSizeX="0.325"' in str(file.ome_metadata)
    stream = io.BytesIO()
    tifffile.imwrite(stream, noise((H, W), "uint16"), imagej=True, metadata={"unit": "um", "Info": "cell 3"})
    with tifffile.TiffFile(io.BytesIO(written(read(stream.getvalue())))) as file:
        assert file.imagej_metadata is not None
        assert (file.imagej_metadata["unit"], file.imagej_metadata["Info"]) == ("um", "cell 3")


def bmp_v5(profile: bytes) -> bytes:
    samples = noise((H, 52, 3), "uint8")
    data = samples[::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 124, 52, H, 1, 24, 0, len(data), 11811, 11811, 0, 0) + bytes(16)
    head += b"DEBM" + bytes(48) + struct.pack("<IIII", 4, 124 + len(data), len(profile), 0)
    return b"BM" + struct.pack("<IHHI", 14 + 124 + len(data), 0, 0, 14 + 124) + head + data + profile


def test_the_profile_of_a_bmp_is_read_and_named_where_it_cannot_be_kept() -> None:
    image = read(bmp_v5(b"profile" * 20))
    assert image.metadata.icc == b"profile" * 20
    assert read(written(image, "PNG")).metadata.icc == b"profile" * 20
    assert losses(image, "BMP") == ["colour profile"]


def test_what_a_format_cannot_hold_is_named() -> None:
    data = with_tags((305, 2, b"Scan 1.0\0"), (269, 2, TEXT), (33723, 7, b"\x1c\x02\x05\0\1T"))
    assert losses(read(data), "PNG") == ["tags DocumentName, IPTCNAA"]
    gamma = chunk(b"cHRM", bytes(32))
    assert losses(read(png(noise((H, W, 1), "uint8"), 8, 0, gamma)), "JPEG") == ["chunk cHRM"]
    assert not losses(Image(np.zeros((1, 4, 4), np.float32), "uint8", "PNG"), "BMP")


# Sound files


def bmp_with_masks(*masks: int, bits: int = 32) -> tuple[bytes, np.ndarray]:
    """A BMP of bit fields, and the fields, (H, 52, channels)."""
    fields = np.stack(
        [noise((H, 52), "uint32", i) & (mask // (mask & -mask)) for i, mask in enumerate(masks)], 2
    )
    packed = sum(fields[..., i] * (mask & -mask) for i, mask in enumerate(masks))
    data = np.asarray(packed)[::-1].astype(f"<u{bits // 8}").tobytes()
    size = 56 if len(masks) == 4 else 40
    head = struct.pack("<IiiHHIIiiII", size, 52, H, 1, bits, 3, len(data), 2835, 2835, 0, 0)
    head += struct.pack(f"<{len(masks)}I", *masks)
    return b"BM" + struct.pack(
        "<IHHI", 14 + len(head) + len(data), 0, 0, 14 + len(head)
    ) + head + data, fields


@pytest.mark.parametrize(
    ("masks", "bits"),
    [
        ((0xFF0000, 0xFF00, 0xFF), 32),
        ((0x3FC00000, 0x000FF000, 0x000003FC), 32),
        ((0xFF, 0xFF00, 0xFF0000, 0xFF000000), 32),
        ((0xF800, 0x7E0, 0x1F), 16),
        ((0xF00, 0xF0, 0xF, 0xF000), 16),
        ((0x180, 0x38, 0x1), 16),
    ],
)
def test_colours_of_a_bmp_are_read_at_any_bits(masks: tuple[int, ...], bits: int) -> None:
    data, fields = bmp_with_masks(*masks, bits=bits)
    image = read(data)
    tops = np.array([mask // (mask & -mask) for mask in masks])
    expected = np.rint(fields * 255 / tops)
    np.testing.assert_array_equal(to_uint8(image.pixels), expected[..., :3])
    if len(masks) == 4:
        np.testing.assert_array_equal(image.alpha, expected[..., 3])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bmp_with_masks(0x3FF00000, 0xFFC00, 0x3FF)[0], "has 10-bit colours"),
        (jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "has 12-bit samples"),
        (jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc3\0\x11\x08"), "lossless or hierarchical JPEG"),
        (
            with_tags((262, 3, struct.pack("<H", 1)), samples=noise((H, W, 3), "uint8")),
            r"3 bands.*MINISBLACK",
        ),
        (bmp_v5(b"")[:30] + struct.pack("<I", 4) + bmp_v5(b"")[34:], "kind of BMP"),
    ],
)
def test_a_kind_that_is_not_read_is_not_called_damaged(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        read(data)
    assert "damaged" not in str(refusal.value)
    assert "convert it" in str(refusal.value)


def test_sound_files_of_old_or_odd_writers_are_read() -> None:
    samples = noise((H, W), "uint8")
    frame = chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(
        b"fcTL", struct.pack(">IIIIIHHBB", 0, W, H, 0, 0, 1, 10, 0, 0)
    )
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>\0'
    for data in (
        with_tags(samples=samples),  # without a tag of compression
        with_tags((700, 2, xmp), samples=samples),
        with_tags((254, 4, struct.pack("<I", 1)), samples=samples),  # a preview of no other page
        png(samples[..., None], 8, 0, frame),
    ):
        np.testing.assert_array_equal(to_uint8(read(data).pixels), samples)


def test_a_webp_has_no_profile_of_gray_as_its_pixels_are_rgb():
    profile = bytes(16) + b"GRAY" + bytes(108)
    image = read(saved(noise((H, W), "uint8"), "PNG", icc_profile=profile))
    assert image.metadata.icc == profile
    assert losses(image, "WEBP") == ["colour profile of gray"]
    assert read(written(image, "WEBP")).metadata.icc is None
    assert losses(image, "JPEG") == []
    assert read(written(image, "JPEG")).metadata.icc == profile
