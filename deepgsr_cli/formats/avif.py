"""AVIF, still and moving: read where Pillow is built with it, and not written."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import Decoded, Metadata, as_16_bits, check_size
from deepgsr_cli.formats.exif import made_true
from deepgsr_cli.formats.png import png_chunk

if TYPE_CHECKING:
    from PIL.AvifImagePlugin import AvifImageFile

AVIF_BRANDS = (b"avif", b"avis")

# Boxes that are filled with others, and the bytes before those (ISO/IEC 14496-12).
_NESTED = {b"meta": 4, b"iprp": 0, b"ipco": 0}
# Primaries and transfer, as H.273 numbers them, of sRGB and of what is not said.
_USUAL_PRIMARIES, _USUAL_TRANSFERS = (1, 2), (13, 2)


def can_read_avif() -> bool:
    """Whether Pillow reads AVIF, as its own packages do from 11.3 on."""
    return importlib.util.find_spec("PIL._avif") is not None


def decode_avif(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    check_can_read(name)
    import imagecodecs
    from PIL.AvifImagePlugin import AvifImageFile

    data = stream.read()
    bits = avif_bits(data)
    stream.seek(0)
    # Not PIL.Image.open: its limit on pixels is a global of the process and below max_pixels.
    with AvifImageFile(stream) as picture:
        width, height = picture.size
        check_size(name, width, height, max_pixels)
        if picture.n_frames > 1:
            raise InputError(
                f"{name}: is an animated AVIF, and one picture is read; extract its frames first"
            )
        orientation, metadata, left_out = describe_avif(picture, data)
        # Pillow rounds to 8 bits.
        samples = np.asarray(picture) if bits == 8 else imagecodecs.avif_decode(data)
    samples = samples.reshape(*samples.shape[:2], -1)
    if bits > 8:
        samples = as_16_bits(samples, bits)
    return Decoded(samples, orientation, metadata, left_out=left_out, top=2**bits - 1)


def describe_avif(picture: AvifImageFile, data: bytes) -> tuple[int, Metadata, tuple[str, ...]]:
    """Return the orientation of a picture, what its file says beside pixels, and what of it is not read.

    Args:
        picture: As Pillow has opened it.
        data: The file.
    """
    info = picture.info
    icc, exif = info.get("icc_profile"), info.get("exif", b"").removeprefix(b"Exif\0\0") or None
    orientation, exif, xmp = made_true(exif, info.get("xmp"), picture.size)
    metadata = Metadata(icc=icc, exif=exif, xmp=xmp, png_chunks=() if icc else _colour_chunks(data))
    gain_map = b"tmap" in avif_brands(data)
    return (
        orientation,
        metadata,
        ("1 of 2 pictures in the file is read, a gain map is left out",) if gain_map else (),
    )


def check_can_read(name: str) -> None:
    """Refuse an AVIF that cannot be read.

    Raises:
        InputError: Pillow is not built with AVIF.
    """
    if not can_read_avif():
        raise InputError(
            f"{name}: is an AVIF, which Pillow reads from 11.3 on: pip install -U pillow; or convert it"
        )


def avif_brands(head: bytes) -> tuple[bytes, ...]:
    """Brands that the first bytes of a file state, the main one first; none of another container."""
    if head[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return (head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4)))


def avif_bits(data: bytes) -> int:
    """Bits a sample, 8, 10 or 12, by the configuration of the decoder (AV1 ISOBMFF binding, av1C)."""
    flags = max(
        (box[2] for kind, box in _boxes(memoryview(data)) if kind == b"av1C" and len(box) > 2), default=0
    )
    return 12 if flags & 0x20 else 10 if flags & 0x40 else 8


def _colour_chunks(data: bytes) -> tuple[bytes, ...]:
    """What the file says of its colours, as a chunk of a PNG; none for those of sRGB.

    Source:
        PNG Specification, Third Edition, W3C 2025, 11.3.2.6, cICP: the numbers of H.273, as in the box.
    """
    for kind, box in _boxes(memoryview(data)):
        if kind == b"colr" and bytes(box[:4]) == b"nclx" and len(box) >= 8:
            primaries, transfer = struct.unpack_from(">HH", box, 4)
            usual = primaries in _USUAL_PRIMARIES and transfer in _USUAL_TRANSFERS
            if not usual and max(primaries, transfer) < 256:
                return (png_chunk(b"cICP", bytes([primaries, transfer, 0, 1])),)
    return ()


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Boxes of properties of pictures: type and body; a damaged file has as many as can be read."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= len(data):
            (length,), head = struct.unpack_from(">Q", data, at + 8), 16
        end = len(data) if length == 0 else at + length
        if end < at + head:
            return
        body = data[at + head : end]
        if kind in _NESTED:
            yield from _boxes(body[_NESTED[kind] :])
        else:
            yield kind, body
        at = end
