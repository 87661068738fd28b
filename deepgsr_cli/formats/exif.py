"""EXIF and XMP of pictures: what is kept, upright."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np

# EXIF and TIFF share these: description, make, model, date, artist, copyright.
DESCRIPTION = 270
TEXT_TAGS = (DESCRIPTION, 271, 272, 306, 315, 33432)
ORIENTATION = 274


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


def _exif_entries(exif: bytes) -> Iterator[tuple[int, int, int, int, str]]:
    """Tag, type, count, position of the value, and byte order of each entry of the first directory.

    A damaged block has as many entries as can be read: it travels along, and no picture is lost for it.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "")
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
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
