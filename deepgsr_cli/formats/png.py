"""PNG: 1 to 16 bits, with colour and text chunks kept."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import Decoded, Metadata, check_size, gray_palette
from deepgsr_cli.formats.exif import reset_orientation

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# What imagecodecs needs of a PNG. Fed anything else libpng may complain on stderr.
_PNG_CORE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Colour and text, copied as they are. tIME, and sBIT, bKGD and the like, would not be true of the new pixels.
_PNG_KEPT = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt", b"zTXt", b"iTXt")
_PNG_XMP = b"XML:com.adobe.xmp\0"
_METRES_PER_INCH = 0.0254
_PROFILE_BYTES = 2**26


def decode_png(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    import imagecodecs

    core: list[bytes | memoryview] = [PNG_SIGNATURE]
    kept: list[bytes] = []
    icc = exif = xmp = dpi = None
    colour_type = -1
    for kind, chunk in _png_chunks(memoryview(stream.read())):
        body = chunk[8:-4]
        if kind == b"IHDR":
            width, height, _, colour_type = struct.unpack_from(">IIBB", body)
            check_size(name, width, height, max_pixels)
        if kind == b"acTL":
            raise InputError(f"{name}: is an animated PNG; extract its frames first")
        if kind in _PNG_CORE:
            core.append(chunk)
        elif kind == b"iCCP":
            icc = _inflate(body[bytes(body).index(0) + 2 :])
        elif kind == b"eXIf":
            exif = bytes(body)
        elif kind == b"pHYs":
            x, y, unit = struct.unpack(">IIB", body)
            dpi = (x * _METRES_PER_INCH, y * _METRES_PER_INCH) if unit == 1 else None
        elif kind == b"iTXt" and body[: len(_PNG_XMP)] == _PNG_XMP:
            flags_languages_text = bytes(body[len(_PNG_XMP) :])
            text = flags_languages_text[2:].split(b"\0", 2)[2]
            xmp = _inflate(text) if flags_languages_text[0] else text
        elif kind in _PNG_KEPT:
            kept.append(bytes(chunk))
    samples = imagecodecs.png_decode(b"".join(core))
    samples = samples.reshape(*samples.shape[:2], -1)
    if colour_type == 3:
        samples = gray_palette(samples, icc)
    orientation, exif, xmp = reset_orientation(exif, xmp)
    return Decoded(samples, orientation, Metadata(icc, exif, xmp, dpi, png_chunks=tuple(kept)))


def read_values(path: Path) -> np.ndarray:
    """Read the values of a PNG as they are in the file, (H, W) of a gray one, uint8 or uint16.

    For files whose values are measurements: nothing is scaled, turned or looked up in a palette.

    Raises:
        InputError: The file cannot be read.
    """
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            return np.asarray(image, np.uint16) if image.mode.startswith("I") else np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a PNG; export it again or leave it out") from error


def _png_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Each chunk's type and the whole chunk, its checksum verified; nothing is missing once it ends."""
    at = len(PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("its end is missing")
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if len(chunk) < 12 + length:
            raise ValueError(f"its {kind.decode('latin-1')} chunk is incomplete")
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError(f"its {kind.decode('latin-1')} chunk has a wrong checksum")
        yield kind, chunk
        at += len(chunk)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _inflate(data: bytes | memoryview) -> bytes:
    """A compressed profile or text; bounded, as a few kilobytes can claim gigabytes."""
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, _PROFILE_BYTES)
    if not inflater.eof:
        raise ValueError(f"a compressed chunk is incomplete or larger than {_PROFILE_BYTES:,} bytes")
    return text


def encode_png(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    import imagecodecs

    encoded = memoryview(imagecodecs.png_encode(samples))
    header = len(PNG_SIGNATURE) + 12 + 13  # the IHDR chunk; the others may all follow it
    stream.write(encoded[:header])
    if metadata.icc:
        stream.write(_png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi:
        x, y = (round(dots / _METRES_PER_INCH) for dots in metadata.dpi)
        stream.write(_png_chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    if metadata.exif:
        stream.write(_png_chunk(b"eXIf", metadata.exif))
    if metadata.xmp:
        stream.write(_png_chunk(b"iTXt", _PNG_XMP + bytes(4) + metadata.xmp))
    for chunk in metadata.png_chunks:
        stream.write(chunk)
    stream.write(encoded[header:])
