"""JPEG, WebP and BMP, by Pillow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import IO, TYPE_CHECKING

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import Decoded, JpegCoding, Metadata, bands, check_size, gray_palette
from deepgsr_cli.formats.exif import reset_orientation, upright

if TYPE_CHECKING:
    from PIL.JpegImagePlugin import JpegImageFile


def decode_pillow(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.JpegImagePlugin import JpegImageFile

    # Not PIL.Image.open: its limit on pixels is a global of the process and below max_pixels.
    kind = JpegImageFile if stream.read(2) == b"\xff\xd8" else BmpImageFile
    stream.seek(0)
    with kind(stream) as picture:
        width, height = picture.size
        check_size(name, width, height, max_pixels)
        if picture.mode == "CMYK":
            raise InputError(f"{name}: is a CMYK picture, and gray and RGB are read; convert it to RGB")
        mode = {"1": "L", "P": "RGB"}.get(picture.mode, picture.mode)
        samples = np.empty((height, width, len(mode)), np.uint8)
        # numpy's own reading of a picture takes two copies of it in bytes.
        for top, bottom in bands(height, samples[0].size):
            band = picture.crop((0, top, width, bottom)).convert(mode)
            samples[top:bottom] = np.asarray(band).reshape(-1, width, len(mode))
        if picture.mode == "P":
            samples = gray_palette(samples, None)
        info = picture.info
        coding = _coding(picture) if isinstance(picture, JpegImageFile) else None
    exif = info.get("exif", b"").removeprefix(b"Exif\0\0") or None
    orientation, exif, xmp = reset_orientation(exif, info.get("xmp"))
    dpi = (float(info["dpi"][0]), float(info["dpi"][1])) if "dpi" in info else None
    if coding is not None:
        coding = replace(coding, corner=_corner(height, width, orientation))
    return Decoded(samples, orientation, Metadata(info.get("icc_profile"), exif, xmp, dpi, jpeg=coding))


def _coding(picture: JpegImageFile) -> JpegCoding | None:
    """How a file was quantised; None where its tables come too late in it to be known."""
    first, *others = picture.layer  # identifier, samples across and down, table of each component
    second = others[0] if others else first
    tables = picture.quantization
    if first[3] not in tables or second[3] not in tables:
        return None
    luma, chroma = (tuple(tables[component[3]]) for component in (first, second))
    return JpegCoding(luma, chroma, sum(first[axis] > second[axis] for axis in (1, 2)) / 2)


def _corner(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Row and column of the first whole block of a picture that has been brought upright."""
    places = upright(np.indices((2, 2)).transpose(1, 2, 0), orientation)  # rows and columns as stored
    steps = (places[1, 0] - places[0, 0], places[0, 1] - places[0, 0])
    # Where the stored picture is shown backwards, the part of a block at its end comes first.
    row, column = (int(-(step @ (height, width)) % 8) if step.sum() < 0 else 0 for step in steps)
    return row, column


def decode_webp(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    import imagecodecs

    data = stream.read()
    chunks = dict(_webp_chunks(memoryview(data)))
    if b"ANIM" in chunks or b"ANMF" in chunks:
        raise InputError(f"{name}: is an animated WebP; extract its frames first")
    if b"VP8L" in chunks:
        (bits,) = struct.unpack_from("<I", chunks[b"VP8L"], 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", chunks[b"VP8 "], 6))
    check_size(name, width, height, max_pixels)
    if canvas := chunks.get(b"VP8X"):
        across, down = (1 + int.from_bytes(canvas[at : at + 3], "little") for at in (4, 7))
        check_size(name, across, down, max_pixels)
    samples = imagecodecs.webp_decode(data)
    icc, exif, xmp = (bytes(chunks.get(kind, b"")) or None for kind in (b"ICCP", b"EXIF", b"XMP "))
    orientation, exif, xmp = reset_orientation(exif and exif.removeprefix(b"Exif\0\0"), xmp)
    return Decoded(samples, orientation, Metadata(icc, exif, xmp, lossless=b"VP8L" in chunks))


def _webp_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """RIFF chunks of a WebP: type and body."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise ValueError(f"{len(data):,} of {end:,} bytes are there")
    at = 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def jpeg_file(levels: np.ndarray, quality: int, *, subsampled: bool = True) -> BytesIO:
    """Return a JPEG file as libjpeg makes it by default, to be read from its beginning.

    Args:
        levels: Picture, (H, W) or (H, W, 3), uint8.
        quality: 1 to 100.
        subsampled: Whether chroma has half the resolution, 4:2:0, or all of it.
    """
    from PIL import Image as Pillow

    file = BytesIO()
    subsampling = "4:2:0" if subsampled else "4:4:4"
    Pillow.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    file.seek(0)
    return file


def encode_pillow(stream: IO[bytes], samples: np.ndarray, metadata: Metadata, format: str) -> None:
    from PIL import Image as Pillow

    options: dict[str, object] = {}
    if format != "BMP":
        prefix = b"Exif\0\0" if format == "JPEG" else b""
        options |= {"icc_profile": metadata.icc, "exif": prefix + metadata.exif if metadata.exif else b""}
        options |= {"xmp": metadata.xmp or b"", "quality": 95}
    if format == "JPEG":
        options |= {"subsampling": "4:4:4"}
    if format == "WEBP":
        options |= {"lossless": metadata.lossless, "exact": True}  # exact keeps colour where alpha is 0
    elif metadata.dpi:
        options |= {"dpi": metadata.dpi}
    Pillow.fromarray(samples).save(stream, format, **options)
