"""JPEG, with its metadata, and with what libjpeg says of damage."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import Decoded, JpegCoding, Metadata, Resolution, bands, check_size
from deepgsr_cli.formats.exif import made_true, order_of, read_exif, resolution_of, upright
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    from PIL.JpegImagePlugin import JpegImageFile

_COMMENT, _START_OF_SCAN, _END = 0xFE, 0xDA, 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_READ_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # baseline to progressive, Huffman or arithmetic coding
_PROGRESSIVE = (0xC2, 0xCA)
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in entropy-coded data, where the others are no ends
_EXIF, _XMP, _IPTC, _ICC = (
    b"Exif\0\0",
    b"http://ns.adobe.com/xap/1.0/\0",
    b"Photoshop 3.0\0",
    b"ICC_PROFILE\0",
)
_FURTHER, _GAIN_MAP = b"MPF\0", b"urn:iso:std:iso:ts:21496:-1\0"
# Application segments that are written anew, or would not be true of the new pixels: JFIF, MPF, gain map, a
# signature of the old pixels (JUMBF), the quality of the old coding, and its colour transform.
_LEFT_OUT = {
    0xE0: (b"JFIF", b"JFXX"),
    0xE1: (_EXIF, _XMP),
    0xE2: (_ICC, _FURTHER, _GAIN_MAP),
    0xEB: (b"JP",),
    0xEC: (b"Ducky",),
    0xED: (_IPTC,),
    0xEE: (b"Adobe",),
}
_SEGMENT_BYTES = 65533
_THUMBNAILS = (0x0409, 0x040C)  # image resources of Photoshop
_DENSITY_AT = 13  # of unit and resolution in a file of libjpeg, which starts with JFIF


@dataclass
class _Parts:
    """What is in a JPEG beside coefficients.

    Attributes:
        segments: Marker and body of each, up to the first scan.
        frame: Marker, bits a sample, and components; zeros where there is no frame.
        in_scan: Components in the first scan.
        end: Position after the picture; None where its end is missing.
    """

    segments: list[tuple[int, bytes]] = field(default_factory=list)
    frame: tuple[int, int, int] = (0, 0, 0)
    in_scan: int = 0
    end: int | None = None

    def bodies(self, marker: int, prefix: bytes) -> list[bytes]:
        return [
            body[len(prefix) :] for kind, body in self.segments if kind == marker and body.startswith(prefix)
        ]


def decode_jpeg(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    from PIL.JpegImagePlugin import JpegImageFile

    data = stream.read()
    parts = _parts(data)
    if misfit := _misfit(*parts.frame):
        raise InputError(f"{name}: {misfit}, and JPEGs of 8 bits in gray or RGB are read; convert it")
    notes = []
    if parts.end is None and _has_every_pixel(data, parts):
        data += bytes((0xFF, _END))
        stream = BytesIO(data)
        later = (
            ", and fine detail may be, too"
            if parts.frame[0] in _PROGRESSIVE
            else ", and all pixels are there"
        )
        notes.append(f"its end is missing{later}")
    stream.seek(0)
    # Not PIL.Image.open: its limit on pixels is a global of the process and below max_pixels.
    with JpegImageFile(stream) as picture:
        width, height = picture.size
        check_size(name, width, height, max_pixels)
        mode = picture.mode
        samples = np.empty((height, width, len(mode)), np.uint8)
        # numpy's own reading of a picture takes two copies of it in bytes.
        for top, bottom in bands(height, samples[0].size):
            band = picture.crop((0, top, width, bottom))
            samples[top:bottom] = np.asarray(band).reshape(-1, width, len(mode))
        info, coding = picture.info, _coding(picture)
    exif = b"".join(parts.bodies(0xE1, _EXIF)) or None
    resolution = _resolution(info, exif)
    orientation, exif, xmp = made_true(exif, next(iter(parts.bodies(0xE1, _XMP)), None), (width, height))
    if coding is not None:
        coding = replace(coding, corner=_corner(height, width, orientation))
    metadata = Metadata(
        icc=info.get("icc_profile"),
        exif=exif,
        # It would claim a gain map after the picture.
        xmp=xmp and re.sub(rb"\s+hdrgm:Version=([\"']).*?\1", b"", xmp),
        iptc=without_thumbnail(b"".join(parts.bodies(0xED, _IPTC))) or None,
        comments=tuple(parts.bodies(_COMMENT, b"")),
        resolution=resolution,
        jpeg=coding,
        jpeg_segments=tuple(_segment(kind, body) for kind, body in parts.segments if _is_kept(kind, body)),
    )
    if damage := _damage(data):
        notes.append(f"the JPEG data is damaged ({damage}), and a part of the picture may be wrong")
    left_out = tuple(_left_out(data, parts))
    return Decoded(samples, orientation, metadata, notes=tuple(notes), left_out=left_out)


def encode_jpeg(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    from PIL import Image as Pillow

    iptc = metadata.iptc or b""
    room = _SEGMENT_BYTES - len(_IPTC)
    extra = [_segment(0xED, _IPTC + iptc[at : at + room]) for at in range(0, len(iptc), room)]
    extra += [_segment(_COMMENT, comment[:_SEGMENT_BYTES]) for comment in metadata.comments]
    Pillow.fromarray(samples).save(
        stream,
        "JPEG",
        quality=95,
        subsampling="4:4:4",
        icc_profile=metadata.icc,
        exif=_EXIF + metadata.exif if metadata.exif else b"",
        xmp=metadata.xmp or b"",
        extra=b"".join([*extra, *metadata.jpeg_segments]),
    )
    if metadata.resolution:
        x, y, unit = metadata.resolution
        whole = [min(max(1, round(value)), 65535) for value in (x, y)]
        stream.seek(_DENSITY_AT)
        stream.write(struct.pack(">BHH", {"none": 0, "inch": 1, "cm": 2}[unit], *whole))
        stream.seek(0, 2)


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


def without_thumbnail(resources: bytes) -> bytes:
    """Photoshop's image resources without the thumbnail, which would show the old picture."""
    kept, at = b"", 0
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        (code,) = struct.unpack_from(">H", resources, at + 4)
        name = 1 + resources[at + 6]
        head = 6 + name + name % 2
        if at + head + 4 > len(resources):
            break
        (length,) = struct.unpack_from(">I", resources, at + head)
        following = at + head + 4 + length + length % 2
        if code not in _THUMBNAILS:
            kept += resources[at:following]
        at = following
    return kept + resources[at:]


def _parts(data: bytes) -> _Parts:
    """Parse a JPEG's markers; where they make no sense it ends, and the decoder says why."""
    parts, at, scanned = _Parts(), 2, False
    while at + 4 <= len(data):
        if scanned:
            found = _MARKER.search(data, at)
            if found is None:
                break
            at = found.start()
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == _END:
            parts.end = at + 2
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        body = data[at + 4 : at + 2 + length]
        if marker in _FRAMES and not parts.frame[0] and len(body) >= 6:
            parts.frame = (marker, body[0], body[5])
        if marker == _START_OF_SCAN and not scanned and body:
            parts.in_scan = body[0]
        scanned = scanned or marker == _START_OF_SCAN
        if not scanned:
            parts.segments.append((marker, body))
        at += 2 + length
    if parts.end is None and data[-2:] == b"\xff\xd9":
        parts.end = len(data)
    return parts


def _misfit(marker: int, bits: int, components: int) -> str:
    """Return what of a frame cannot be read, as words; empty when all can, and where there is no frame."""
    if not marker:
        return ""
    if marker not in _READ_FRAMES:
        return "is a lossless or hierarchical JPEG"
    if bits != 8:
        return f"has {bits}-bit samples"
    if components == 4:
        return "is a CMYK picture"
    return "" if components in (1, 3) else f"has {components} components a pixel"


def _left_out(data: bytes, parts: _Parts) -> list[str]:
    """Return what of the file is not in the picture, as sentences without an end."""
    notes = []
    count = max((_count_of_pictures(body) for body in parts.bodies(0xE2, _FURTHER)), default=0)
    rest = len(data[parts.end :].strip(b"\0")) if parts.end else 0
    if count > 1:
        notes.append(f"1 of {count} pictures in the file is read, further views or a gain map are left out")
    elif parts.bodies(0xE2, _GAIN_MAP):
        notes.append("1 of 2 pictures in the file is read, a gain map is left out")
    elif rest:
        notes.append(f"what follows the picture in the file is left out ({counted(rest, 'byte')})")
    if parts.bodies(0xEB, b"JP"):
        notes.append("its content credentials are about the old pixels and left out")
    return notes


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


def _has_every_pixel(data: bytes, parts: _Parts) -> bool:
    """Whether a file without an end has all pixels nevertheless: libjpeg misses none in its scan of all
    components, or in the scans so far of a progressive one."""
    whole = parts.in_scan == parts.frame[2] or parts.frame[0] in _PROGRESSIVE
    return bool(parts.in_scan) and whole and not _damage(data + bytes((0xFF, _END)))


def _damage(data: bytes) -> str:
    """Return libjpeg's word on damaged coefficients; empty for a sound picture.

    Pillow decodes such pictures without a word.
    """
    import simplejpeg

    try:
        # An eighth of the size: all coefficients are decoded, and few pixels.
        simplejpeg.decode_jpeg(data, "GRAY", min_factor=8, strict=True)
    except ValueError as error:
        found = re.match(r"(?:Corrupt JPEG data: |(?=Premature))(.*)", str(error))
        return found[1] if found else ""
    return ""


def _count_of_pictures(body: bytes) -> int:
    """Return the number of pictures that a multi-picture segment states; CIPA DC-007, tag 0xB001."""
    tags = read_exif(body).tags
    value = next((tag.value for tag in tags if tag.code == 0xB001), b"\0")
    return int.from_bytes(value, "little" if order_of(body) == "<" else "big")


def _resolution(info: dict[Any, Any], exif: bytes | None) -> Resolution | None:
    """Return the resolution that JFIF states, or EXIF."""
    x, y = info.get("jfif_density", (0, 0))
    unit = info.get("jfif_unit", 0)
    if x and y and (unit in (1, 2) or x != y):
        return Resolution(x, y, {1: "inch", 2: "cm"}.get(unit, "none"))  # type: ignore[arg-type]
    found = resolution_of(read_exif(exif).tags, order_of(exif)) if exif else None
    return Resolution(*found) if found else None  # type: ignore[arg-type]


def _is_kept(marker: int, body: bytes) -> bool:
    """Whether a segment is an application's that is copied as it is."""
    left_out = _LEFT_OUT.get(marker, ())
    return 0xE0 <= marker <= 0xEF and not body.startswith(left_out)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
