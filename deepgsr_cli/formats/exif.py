"""EXIF and XMP of pictures: what is kept, upright, and true of another size."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

# EXIF and TIFF share these: description, make, model, date, artist, copyright.
DESCRIPTION = 270
TEXT_TAGS = (DESCRIPTION, 271, 272, 306, 315, 33432)
ORIENTATION = 274
# Where EXIF has the directory of what TIFF does not share, and in either the size in pixels, (width, height),
# and the densities, of paper and of the sensor.
_EXIF_DIRECTORY = 34665
_SIZES = ((256, 257), (40962, 40963))
_DENSITIES = (282, 283, 41486, 41487)


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """View of `samples` (H, W, S) as it is to be seen; Exif 2.32, tag 0x0112."""
    if orientation > 4:
        samples = samples.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples


def reset_orientation(exif: bytes | None, xmp: bytes | None) -> tuple[int, bytes | None, bytes | None]:
    """The orientation `exif` asks for, and both blocks asking for none; every other byte as it was."""
    for tag, kind, _, at, order in _exif_entries(exif or b""):
        if tag == ORIENTATION and exif and kind in (3, 4):
            number = struct.Struct(order + {3: "H", 4: "I"}[kind])
            (orientation,) = number.unpack_from(exif, at)
            if 2 <= orientation <= 8:
                exif = exif[:at] + number.pack(1) + exif[at + number.size :]
                return orientation, exif, upright_xmp(xmp)
    return 1, exif, xmp


def upright_xmp(xmp: bytes | None) -> bytes | None:
    return xmp and re.sub(rb"(tiff:Orientation(?:>|=[\"']))\d", rb"\g<1>1", xmp)


def enlarged_exif(exif: bytes, size: tuple[int, int], scale: int) -> bytes:
    """EXIF of a picture enlarged to a size, (width, height): with that size and its densities times the
    scale, every other byte as it was."""
    data = bytearray(exif)
    inner = [at for tag, _, _, at, _ in _exif_entries(exif) if tag == _EXIF_DIRECTORY]
    for place in (4, *inner):
        for tag, kind, _, at, order in _exif_entries(exif, place):
            axis = [pair.index(tag) for pair in _SIZES if tag in pair]
            if axis and kind in (3, 4):  # a size beyond 65535 needs the longer type, for which there is room
                struct.pack_into(order + "H", data, at - 6, 4)
                struct.pack_into(order + "I", data, at, size[axis[0]])
            if tag in _DENSITIES and kind == 5 and at + 8 <= len(data):
                above, below = struct.unpack_from(order + "II", data, at)
                density = Fraction(above * scale, below or 1)
                if below and density.numerator < 2**32:
                    struct.pack_into(order + "II", data, at, density.numerator, density.denominator)
    return bytes(data)


def enlarged_xmp(xmp: bytes, size: tuple[int, int], scale: int) -> bytes:
    """XMP of a picture enlarged to a size, as `enlarged_exif`."""
    for names, length in zip(
        (rb"tiff:ImageWidth|exif:PixelXDimension", rb"tiff:ImageLength|exif:PixelYDimension"), size
    ):
        xmp = re.sub(rb"((?:%b)(?:>|=[\"']))\d+" % names, rb"\g<1>%d" % length, xmp)
    return re.sub(
        rb"((?:tiff:[XY]Resolution|exif:FocalPlane[XY]Resolution)(?:>|=[\"']))(\d+)",
        lambda found: found[1] + b"%d" % (int(found[2]) * scale),
        xmp,
    )


def _exif_entries(exif: bytes, place: int = 4) -> Iterator[tuple[int, int, int, int, str]]:
    """Tag, type, count, position of the value, and byte order of each entry of a directory.

    A damaged block has as many entries as can be read: it travels along, and no picture is lost for it.

    Args:
        exif: The block.
        place: Where it says where the directory starts; the first one by default.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "")
    try:
        (start,) = struct.unpack_from(order + "I", exif, place)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length, offset = struct.unpack_from(order + "HHII", exif, at)
            size = length * {1: 1, 2: 1, 3: 2, 4: 4}.get(kind, 8)
            yield tag, kind, length, at + 8 if size <= 4 else offset, order
    except struct.error:
        return


def texts_of(exif: bytes) -> Iterator[tuple[int, bytes]]:
    """The text tags TIFF shares with EXIF, without their final zero."""
    for tag, kind, length, at, _ in _exif_entries(exif):
        if tag in TEXT_TAGS and kind == 2:
            yield tag, exif[at : at + length].rstrip(b"\0")


def exif_of(texts: dict[int, bytes]) -> bytes:
    """EXIF of nothing but text tags."""
    start = 8 + 2 + 12 * len(texts) + 4
    directory, values = struct.pack("<2sHIH", b"II", 42, 8, len(texts)), b""
    for tag, text in sorted(texts.items()):
        text += b"\0"
        place = text.ljust(4, b"\0") if len(text) <= 4 else struct.pack("<I", start + len(values))
        directory += struct.pack("<HHI", tag, 2, len(text)) + place
        values += text if len(text) > 4 else b""
    return directory + bytes(4) + values
