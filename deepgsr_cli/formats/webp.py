"""WebP, lossless and lossy."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import Decoded, Metadata, check_size
from deepgsr_cli.formats.exif import made_true


def decode_webp(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    import imagecodecs

    data = stream.read()
    chunks = dict(webp_chunks(memoryview(data)))
    if b"ANIM" in chunks or b"ANMF" in chunks:
        raise InputError(f"{name}: is an animated WebP, and one picture is read; extract its frames first")
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
    orientation, exif, xmp = made_true(exif and exif.removeprefix(b"Exif\0\0"), xmp, samples.shape[1::-1])
    return Decoded(samples, orientation, Metadata(icc=icc, exif=exif, xmp=xmp, lossless=b"VP8L" in chunks))


def webp_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """RIFF chunks of a WebP: type and body."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise ValueError(f"{len(data):,} of {end:,} bytes are there")
    at = 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def profile_in_webp(icc: bytes | None) -> bytes | None:
    """Colour profile as a WebP can have it: none of gray, as its pixels are RGB.

    Source:
        ICC.1:2022, 7.2.1: the colour space is at byte 16.
    """
    return None if icc is None or icc[16:20] == b"GRAY" else icc


def encode_webp(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    from PIL import Image as Pillow

    Pillow.fromarray(samples).save(
        stream,
        "WEBP",
        quality=95,
        lossless=metadata.lossless,
        exact=True,  # keeps colour where alpha is 0
        icc_profile=profile_in_webp(metadata.icc),
        exif=metadata.exif or b"",
        xmp=metadata.xmp or b"",
    )
