"""EXIF and XMP of pictures, and directories of TIFF tags: kept, made true, or true of another size."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np

DESCRIPTION = 270
ORIENTATION = 274
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD = 34665, 34853, 40965
# Text on the whole picture, which EXIF shares with TIFF: description, make, model, software, date, artist,
# host computer, rating, copyright, and Windows' title to subject.
MAIN_TAGS = frozenset((DESCRIPTION, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096)))

TEXT_TAGS = (DESCRIPTION, 271, 272, 305, 306, 315, 33432)

_DENSITIES = (X_RESOLUTION, Y_RESOLUTION, 41486, 41487)  # of paper and of the sensor
_POINTERS = (EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD)
_WIDTH_TAGS, _HEIGHT_TAGS = (0x0100, 0xA002), (0x0101, 0xA003)
_THUMBNAIL, _THUMBNAIL_BYTES = 0x0201, 0x0202
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_MOST_BYTES = 2**26  # of a value, as a damaged count can claim any
_INTEGERS = {3: "H", 4: "I"}


class Tag(NamedTuple):
    """A tag of a directory.

    Attributes:
        code: What it is.
        kind: Type of its values, as TIFF numbers them.
        value: Its values, packed in the byte order of its directory.
        at: Position of the value in what it was read from.
    """

    code: int
    kind: int
    value: bytes
    at: int = 0

    @property
    def num_values(self) -> int:
        """Number of its values."""
        return len(self.value) // _SIZES[self.kind]


@dataclass
class Directory:
    """A directory of tags, and those its tags point at.

    Attributes:
        tags: Tags other than pointers.
        below: Directories by the code of the tag that points at them.
    """

    tags: list[Tag] = field(default_factory=list)
    below: dict[int, Directory] = field(default_factory=dict)


def read_directory(
    read: Callable[[int, int], bytes], at: int, order: str, *, big: bool = False, depth: int = 0
) -> Directory:
    """Read a directory and those below it; a damaged one has as many tags as can be read.

    Args:
        read: Returns the bytes at a position, of that many.
        at: Position of the directory.
        order: "<" or ">".
        big: Whether positions have 8 bytes, as in a BigTIFF.
        depth: Directories above this one; a damaged file can have a circle of them.
    """
    found = Directory()
    for tag in _tags(read, at, order, big):
        if tag.code not in _POINTERS:
            found.tags.append(tag)
        elif depth < 3 and tag.kind in (4, 13, 16, 18) and tag.num_values == 1:
            start = int.from_bytes(tag.value, "little" if order == "<" else "big")
            found.below[tag.code] = read_directory(read, start, order, big=big, depth=depth + 1)
    return found


def pack_directory(directory: Directory, at: int, order: str, *, big: bool = False) -> bytes:
    """Bytes of a directory at a position, with its values and the directories below it."""
    pointer = Tag(0, 16 if big else 4, bytes(8 if big else 4))
    tags = {tag.code: tag for tag in directory.tags} | {
        code: pointer._replace(code=code) for code in directory.below
    }
    count, head, place = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    inline = struct.calcsize(place)
    entry = struct.calcsize(order + head) + inline
    values_at = at + struct.calcsize(count) + entry * len(tags) + inline
    values_at += values_at % 2
    values: list[bytes] = []
    places: dict[int, bytes] = {}

    def store(value: bytes) -> bytes:
        """Put a value after the directory; return its position."""
        position = values_at + sum(map(len, values))
        values.append(value + bytes(len(value) % 2))
        return struct.pack(order + place, position)

    for code, tag in tags.items():
        if code not in directory.below:
            places[code] = tag.value.ljust(inline, b"\0") if len(tag.value) <= inline else store(tag.value)
    for code, below in directory.below.items():
        start = values_at + sum(map(len, values))
        places[code] = store(pack_directory(below, start, order, big=big))
    packed = struct.pack(order + count, len(tags))
    for code in sorted(tags):
        packed += struct.pack(order + head, code, tags[code].kind, tags[code].num_values) + places[code]
    return (packed + bytes(inline)).ljust(values_at - at, b"\0") + b"".join(values)


def read_exif(exif: bytes) -> Directory:
    """Read the tags of EXIF, a TIFF block; its thumbnail is no part of them."""
    order = order_of(exif)
    (start,) = struct.unpack_from(order + "I", exif, 4) if order and len(exif) >= 8 else (0,)
    return read_directory(_reader(exif), start, order) if start else Directory()


def pack_exif(directory: Directory, order: str) -> bytes | None:
    """EXIF, a TIFF block, of a directory; None for an empty one."""
    if not directory.tags and not directory.below:
        return None
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HI", 42, 8) + pack_directory(directory, 8, order)


def exif_of(texts: dict[int, bytes]) -> bytes | None:
    """EXIF of nothing but text tags; None without any."""
    return pack_exif(Directory([Tag(code, 2, text + b"\0") for code, text in texts.items()]), "<")


def order_of(exif: bytes) -> str:
    """Byte order of EXIF, "<" or ">"; empty if it has none."""
    return {b"II": "<", b"MM": ">"}.get(exif[:2], "")


def resolution_of(tags: list[Tag], order: str) -> tuple[float, float, str] | None:
    """Pixels in x and y a unit, "inch", "cm" or "none", by tags of a picture; None where they do not say."""
    by_code = {tag.code: tag for tag in tags}
    unit = by_code.get(RESOLUTION_UNIT)
    name = {1: "none", 3: "cm"}.get(_integer(unit, order) if unit else 2, "inch")
    x, y = (_number(by_code.get(code), order) for code in (X_RESOLUTION, Y_RESOLUTION))
    return (x, y, name) if x > 0 and y > 0 else None


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """View of `samples` (H, W, S) as it is to be seen; Exif 2.32, tag 0x0112."""
    if orientation > 4:
        samples = samples.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples


def made_true(
    exif: bytes | None, xmp: bytes | None, size: tuple[int, int]
) -> tuple[int, bytes | None, bytes | None]:
    """Orientation that EXIF asks for, and both blocks made true of the restored, upright picture.

    They ask for no orientation and state the width and height of the upright picture, and EXIF has no
    thumbnail: it would show the old picture. Every other byte is as it was, as makers' notes have positions
    in them.

    Args:
        exif: A TIFF block.
        xmp: XMP packet.
        size: Width and height of the picture as it is stored.
    """
    order = order_of(exif or b"")
    if not exif or not order or len(exif) < 8:
        return 1, exif, xmp
    block, read = bytearray(exif), _reader(exif)
    (start,) = struct.unpack_from(order + "I", exif, 4)
    main = read_directory(read, start, order)
    every = [*main.tags, *(tag for below in main.below.values() for tag in below.tags)]
    asked = next((_integer(tag, order) for tag in main.tags if tag.code == ORIENTATION), 1)
    orientation = asked if 1 <= asked <= 8 else 1
    width, height = size[::-1] if orientation > 4 else size
    for tag in every:
        value = width if tag.code in _WIDTH_TAGS else height if tag.code in _HEIGHT_TAGS else None
        value = 1 if tag.code == ORIENTATION and orientation > 1 else value
        if (
            value is not None
            and tag.kind in _INTEGERS
            and tag.num_values == 1
            and value < 2 ** (8 * len(tag.value))
        ):
            block[tag.at : tag.at + len(tag.value)] = struct.pack(order + _INTEGERS[tag.kind], value)
    _remove_thumbnail(block, read, start, order)
    return orientation, bytes(block), upright_xmp(xmp, orientation, (width, height))


def upright_xmp(xmp: bytes | None, orientation: int, size: tuple[int, int]) -> bytes | None:
    """XMP of a picture that has been turned upright, which is of that width and height now."""
    if not xmp or orientation == 1:
        return xmp
    xmp = re.sub(rb"(tiff:Orientation(?:>|=[\"']))\d", rb"\g<1>1", xmp)
    for value, names in zip(
        size, (b"tiff:ImageWidth|exif:PixelXDimension", b"tiff:ImageLength|exif:PixelYDimension")
    ):
        xmp = re.sub(rb"((?:" + names + rb")(?:>|=[\"']))\d+", rb"\g<1>%d" % value, xmp)
    return xmp


def enlarged_exif(exif: bytes, size: tuple[int, int], scale: int) -> bytes:
    """EXIF of a picture enlarged to a size, (width, height): with that size and its densities times the
    scale, every other byte as it was."""
    order, data = order_of(exif), bytearray(exif)
    main = read_exif(exif)
    for directory in (main, main.below.get(EXIF_IFD, Directory())):
        for tag in directory.tags:
            length = size[0] if tag.code in _WIDTH_TAGS else size[1] if tag.code in _HEIGHT_TAGS else None
            if length is not None and tag.kind in _INTEGERS and tag.num_values == 1:
                # A size beyond 65535 needs the longer type, for which there is room.
                struct.pack_into(order + "H", data, tag.at - 6, 4)
                struct.pack_into(order + "I", data, tag.at, length)
            if tag.code in _DENSITIES and tag.kind == 5:
                above, below = struct.unpack_from(order + "II", tag.value)
                density = Fraction(above * scale, below or 1)
                if below and density.numerator < 2**32:
                    struct.pack_into(order + "II", data, tag.at, density.numerator, density.denominator)
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


def _remove_thumbnail(block: bytearray, read: Callable[[int, int], bytes], start: int, order: str) -> None:
    """Cut the directory of the thumbnail off the chain, and blank the thumbnail."""
    try:
        (count,) = struct.unpack(order + "H", read(start, 2))
        link = start + 2 + 12 * count
        (second,) = struct.unpack(order + "I", read(link, 4))
    except struct.error:
        return
    if not second:
        return
    block[link : link + 4] = bytes(4)
    tags = {tag.code: tag for tag in _tags(read, second, order, False)}
    if _THUMBNAIL in tags and _THUMBNAIL_BYTES in tags:
        at, length = (_integer(tags[code], order) for code in (_THUMBNAIL, _THUMBNAIL_BYTES))
        end = min(at + length, len(block))
        if end == len(block) and at > link:
            del block[at:]
        elif at > link:
            block[at:end] = bytes(end - at)


def _reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda at, size: data[at : at + size]


def _tags(read: Callable[[int, int], bytes], at: int, order: str, big: bool) -> Iterator[Tag]:
    """The tags of one directory, as many as can be read."""
    count_format, head, place = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    head_size, inline = struct.calcsize(order + head), struct.calcsize(order + place)
    at_entry = at + struct.calcsize(count_format)
    try:
        (count,) = struct.unpack(order + count_format, read(at, struct.calcsize(count_format)))
        for entry_at in range(
            at_entry, at_entry + min(count, 65535) * (head_size + inline), head_size + inline
        ):
            code, kind, length = struct.unpack(order + head, read(entry_at, head_size))
            size = length * _SIZES.get(kind, 0)
            value_at = entry_at + head_size
            if size > inline:
                (value_at,) = struct.unpack(order + place, read(value_at, inline))
            if 0 < size <= _MOST_BYTES and len(value := read(value_at, size)) == size:
                yield Tag(code, kind, value, value_at)
    except struct.error:
        return


def _integer(tag: Tag, order: str) -> int:
    """First value of a tag of integers; 0 for another kind."""
    if tag.kind not in _INTEGERS:
        return 0
    return int(struct.unpack_from(order + _INTEGERS[tag.kind], tag.value)[0])


def _number(tag: Tag | None, order: str) -> float:
    """First value of a tag of rational, floating point or whole numbers; 0 where it has none."""
    if tag is None:
        return 0.0
    if tag.kind == 5:
        above, below = struct.unpack_from(order + "II", tag.value)
        return above / below if below else 0.0
    if tag.kind in (11, 12):
        return float(struct.unpack_from(order + {11: "f", 12: "d"}[tag.kind], tag.value)[0])
    return float(_integer(tag, order))
