"""BMP, with the profile of its newest header, and with bit fields of any place."""

from __future__ import annotations

import struct
from typing import IO

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import Decoded, Metadata, Resolution, bands, check_size, gray_palette

_HEAD = 14  # bytes of the file's header, before the picture's
_BITFIELDS = 3
_EMBEDDED = b"DEBM"  # a profile in the file, "MBED" read as a number
_METRES_PER_INCH = 0.0254
_MODES = {"1": "L", "P": "RGB"}


def decode_bmp(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    header = stream.read(_HEAD + 124)
    stream.seek(0)
    (size,) = struct.unpack_from("<I", header, _HEAD)
    if size >= 40:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", header, _HEAD + 4)
        check_size(name, width, abs(height), max_pixels)
        if compression == _BITFIELDS and bits in (16, 32):
            samples = _decode_bitfields(name, stream, header)
            return Decoded(samples, 1, Metadata(icc=_profile(stream, header), resolution=_resolution(header)))
    samples = _decode_pillow(name, stream, max_pixels)
    icc = _profile(stream, header)
    return Decoded(samples, 1, Metadata(icc=icc, resolution=_resolution(header) if size >= 40 else None))


def encode_bmp(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    from PIL import Image as Pillow

    resolution = {"dpi": metadata.dpi} if metadata.dpi else {}
    Pillow.fromarray(samples).save(stream, "BMP", **resolution)


def _decode_pillow(name: str, stream: IO[bytes], max_pixels: int) -> np.ndarray:
    """Samples, (H, W, S), of a BMP without bit fields."""
    from PIL.BmpImagePlugin import BmpImageFile

    try:
        # Not PIL.Image.open: its limit on pixels is a global of the process and below max_pixels.
        with BmpImageFile(stream) as picture:
            width, height = picture.size
            check_size(name, width, height, max_pixels)
            mode = _MODES.get(picture.mode, picture.mode)
            samples = np.empty((height, width, len(mode)), np.uint8)
            for top, bottom in bands(height, samples[0].size):
                band = picture.crop((0, top, width, bottom)).convert(mode)
                samples[top:bottom] = np.asarray(band).reshape(-1, width, len(mode))
            return gray_palette(samples, None) if picture.mode == "P" else samples
    except OSError as error:
        if not str(error).startswith("Unsupported BMP"):
            raise
        kind = str(error).removeprefix("Unsupported BMP ")
        raise InputError(f"{name}: is of a kind of BMP that is not read ({kind}); convert it") from error


def _decode_bitfields(name: str, stream: IO[bytes], header: bytes) -> np.ndarray:
    """Samples, (H, W, 3 or 4), whose colours are at the bits that masks name."""
    size, width, height, _, bits = struct.unpack_from("<IiiHH", header, _HEAD)
    (start,) = struct.unpack_from("<I", header, 10)
    count = 4 if size >= 56 else 3
    masks = list(struct.unpack_from(f"<{count}I", header, _HEAD + 40))
    if masks[3:] == [0]:
        del masks[3]
    widths = [f"{mask:b}".rstrip("0") for mask in masks]
    if any("0" in ones or not ones for ones in widths):
        raise ValueError("its masks of colours have gaps or are missing")
    if (most := max(map(len, widths))) > 8:
        raise InputError(f"{name}: has {most}-bit colours, and BMPs of up to 8 are read; convert it")
    row = -(-width * bits // 32) * 4
    stream.seek(start)
    data = stream.read(row * abs(height))
    if len(data) < row * abs(height):
        raise ValueError(f"{len(data):,} of {row * abs(height):,} bytes of its pixels are there")
    rows = np.frombuffer(data, np.uint8).reshape(abs(height), row)[:, : width * bits // 8]
    packed = np.ascontiguousarray(rows).view(f"<u{bits // 8}")
    samples = np.empty((abs(height), width, len(masks)), np.uint8)
    for channel, (mask, ones) in enumerate(zip(masks, widths)):
        shift, top = (mask & -mask).bit_length() - 1, len(ones)
        levels = np.round(np.arange(2**top) * 255 / (2**top - 1)).astype(np.uint8)
        samples[..., channel] = levels[(packed & mask) >> shift]
    return samples[::-1] if height > 0 else samples


def _profile(stream: IO[bytes], header: bytes) -> bytes | None:
    """The colour profile that the fifth version of the header tells the place of."""
    if len(header) < _HEAD + 124 or header[_HEAD : _HEAD + 4] != struct.pack("<I", 124):
        return None
    at, size = struct.unpack_from("<II", header, _HEAD + 112)
    if header[_HEAD + 56 : _HEAD + 60] != _EMBEDDED or not 0 < size < 2**26:
        return None
    stream.seek(_HEAD + at)
    profile = stream.read(size)
    return profile if len(profile) == size else None


def _resolution(header: bytes) -> Resolution | None:
    x, y = struct.unpack_from("<ii", header, _HEAD + 24)
    return Resolution(x * _METRES_PER_INCH, y * _METRES_PER_INCH) if x > 0 and y > 0 else None
