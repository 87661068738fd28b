"""What the codecs of pictures share: metadata, samples as stored, and their bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np

from deepgsr_cli.errors import InputError

MAX_PIXELS = 2**29

DEPTHS = ("uint8", "uint16", "float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class JpegCoding:
    """How a JPEG file was quantised.

    Attributes:
        luma: Steps of the first component, 64, 1 or more; the horizontal frequency changes first.
        chroma: Those of the second, or of the first where there is only one.
        subsampled: Share of the two axes along which chroma has half the resolution or less: 1 for 4:2:0.
        corner: Row and column, 0 to 7, of the first whole block in the upright picture.
    """

    luma: tuple[int, ...]
    chroma: tuple[int, ...]
    subsampled: float
    corner: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says beside its pixels, and how its pixels were stored.

    Attributes:
        icc: ICC profile.
        exif: EXIF as a TIFF block (no `Exif` prefix), orientation 1. From a TIFF: its text tags only.
        xmp: XMP packet.
        dpi: Pixels per inch, (x, y). PNG and BMP store whole pixels per metre: 300 comes back as 299.9994.
        white: Stored value that stands for 1 in a float file.
        lossless: Whether a WebP is written without loss.
        tiff_compression: Compression a TIFF is written with.
        extra_sample: TIFF ExtraSamples code of alpha: 0 unspecified, 1 premultiplied, 2 straight.
        jpeg: Quantisation, where it was a JPEG.
        png_chunks: Colour and text chunks of a PNG, whole, copied to a PNG only.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    white: float = 1.0
    lossless: bool = True
    tiff_compression: str = "adobe_deflate"
    extra_sample: int = 2
    jpeg: JpegCoding | None = None
    png_chunks: tuple[bytes, ...] = ()


Encoder = Callable[[IO[bytes], np.ndarray, Metadata], None]


class Decoded(NamedTuple):
    samples: np.ndarray  # (H, W, S) as stored, upright or not; with S 2 or 4 the last is alpha
    orientation: int  # EXIF's 1 to 8
    metadata: Metadata


def check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if not width * height:
        raise ValueError(f"{width} x {height} pixels")
    if width * height > max_pixels:
        size = f"{width} x {height} pixels are more than the {max_pixels:,} allowed"
        raise InputError(f"{name}: {size}; if the file is sound, raise --max-pixels")


def gray_palette(samples: np.ndarray, icc: bytes | None) -> np.ndarray:
    """`samples` (H, W, 3 or 4) of a palette picture, gray where its colours are; a profile may be RGB's."""
    red = samples[..., 0]
    if icc is None and np.array_equal(red, samples[..., 1]) and np.array_equal(red, samples[..., 2]):
        return np.delete(samples, (1, 2), axis=2)
    return samples


def bands(height: int, row: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 row of each band of about a million samples, `row` samples a row."""
    step = max(1, 2**20 // max(1, row))
    for top in range(0, height, step):
        yield top, min(top + step, height)


def gray(pixels: np.ndarray) -> np.ndarray:
    """Luma, (1, H, W), of RGB, (3, H, W), by the weights of MATLAB's rgb2gray (ITU-R BT.601); gray stays."""
    if len(pixels) == 1:
        return pixels
    weights = np.array([0.2989360212937753, 0.5870430744511212, 0.1140209042551034], pixels.dtype)
    return np.tensordot(weights, pixels, 1)[None]
