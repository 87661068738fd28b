"""JPEG 2000: gray and RGB of up to 16 bits, as a file of boxes (JP2) or a codestream; without loss."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import Decoded, Metadata, check_size
from deepgsr_cli.formats.exif import made_true

JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM_SIGNATURE = b"\xff\x4f\xff\x51"
_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_EXIF = b"JpgTiffExif->JP2"
_SRGB, _GRAY = 16, 17
_RESTRICTED_ICC = 2
_END = b"\xff\xd9"


def decode_jpeg2000(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    """Decode a picture.

    Source:
        ISO/IEC 15444-1, annexes A (codestream) and I (boxes).
    """
    import imagecodecs

    data = stream.read()
    parts = list(_boxes(data)) if data.startswith(JP2_SIGNATURE) else [(b"jp2c", data)]
    boxes = dict(parts)
    header = dict(_boxes(boxes.get(b"jp2h", b"")))
    codestream = boxes.get(b"jp2c", b"")
    if not codestream.startswith(CODESTREAM_SIGNATURE):
        raise ValueError("it has no picture")
    right, bottom, left, top = struct.unpack_from(">IIII", codestream, 8)
    width, height = right - left, bottom - top
    check_size(name, width, height, max_pixels)
    (count,) = struct.unpack_from(">H", codestream, 40)
    if not codestream.rstrip(b"\0").endswith(_END):
        raise ValueError("its end is missing")
    layouts = {codestream[42 + 3 * i : 45 + 3 * i] for i in range(count)}
    depth = codestream[42]
    if misfit := _misfit(count, layouts, header):
        raise InputError(f"{name}: has {misfit}, and gray and RGB of 1 to 16 bits are read; convert it")
    samples = imagecodecs.jpeg2k_decode(data)
    if samples.shape[:2] != (height, width):
        raise ValueError(f"{samples.shape[1]} x {samples.shape[0]} of {width} x {height} pixels are there")
    samples = samples.reshape(height, width, -1)
    bits, full = depth + 1, 65535 if depth + 1 > 8 else 255
    if 2**bits - 1 != full:
        samples = ((samples.astype(np.uint32) * full + 2 ** (bits - 1)) // (2**bits - 1)).astype(
            samples.dtype
        )
    uuids = {body[:16]: body[16:] for kind, body in parts if kind == b"uuid"}
    colour = header.get(b"colr", b"")
    icc = colour[3:] if colour[:1] == bytes([_RESTRICTED_ICC]) else None
    orientation, exif, xmp = made_true(uuids.get(_EXIF), uuids.get(_XMP), (width, height))
    notes = []
    if count in (2, 4) and b"cdef" not in header:
        notes.append("no meaning is stated of its last band, which is kept as it is, as transparency is")
    metadata = Metadata(icc=icc, exif=exif, xmp=xmp)
    return Decoded(samples, orientation, metadata, notes=tuple(notes), top=2**bits - 1)


def encode_jpeg2000(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    for kind, body in _boxes(_encode(samples, "jp2")):
        if kind == b"jp2c":
            for uuid, block in ((_EXIF, metadata.exif), (_XMP, metadata.xmp)):
                stream.write(_box(b"uuid", uuid + block) if block else b"")
        stream.write(_box(kind, _header(body, samples, metadata) if kind == b"jp2h" else body))


def encode_codestream(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    stream.write(_encode(samples, "j2k"))


def _encode(samples: np.ndarray, kind: str) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpeg2k_encode(samples, level=0, codecformat=kind, reversible=True, planar=False))


def _header(header: bytes, samples: np.ndarray, metadata: Metadata) -> bytes:
    """A header with the colour profile, and with which band is alpha."""
    parts = dict(_boxes(header))
    if metadata.icc:
        parts[b"colr"] = bytes([_RESTRICTED_ICC, 0, 0]) + metadata.icc
    if samples.ndim == 3 and samples.shape[2] in (2, 4):
        last = samples.shape[2] - 1
        kinds = [struct.pack(">HHH", band, 0, band + 1) for band in range(last)]
        parts[b"cdef"] = struct.pack(">H", last + 1) + b"".join(kinds) + struct.pack(">HHH", last, 1, 0)
    return b"".join(_box(kind, body) for kind, body in parts.items())


def _misfit(count: int, layouts: set[bytes], header: dict[bytes, bytes]) -> str:
    """Return what of a picture cannot be read, as words; empty when all can."""
    if not 1 <= count <= 4:
        return f"{count} bands"
    if len(layouts) > 1 or next(iter(layouts))[1:] != b"\1\1":
        return "bands of different sizes or depths"
    depth = next(iter(layouts))[0]
    if depth > 15:
        return "signed samples" if depth & 0x80 else f"{depth + 1}-bit samples"
    if b"pclr" in header:
        return "a palette"
    colour = header.get(b"colr", b"")
    if colour[:1] == b"\1" and len(colour) >= 7:
        (space,) = struct.unpack_from(">I", colour, 3)
        if space not in (_SRGB, _GRAY):
            return f"colours of the space {space}"
    return ""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and body of each box."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        end = len(data) if length == 0 else at + length
        if end > len(data) or end < at + head:
            raise ValueError(f"its {kind.decode('latin-1')} box is incomplete")
        yield kind, data[at + head : end]
        at = end


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body
