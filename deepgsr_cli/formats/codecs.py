"""What the codecs of pictures share: metadata, samples as stored, and their bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Literal, NamedTuple

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.exif import Tag

MAX_PIXELS = 2**29

DEPTHS = ("uint8", "uint16", "float16", "float32", "float64")

_CM_PER_INCH = 2.54


class Resolution(NamedTuple):
    """Pixels a unit of length, or their ratio where the unit is none: the shape of a pixel.

    Attributes:
        x: Pixels across.
        y: Pixels down.
        unit: What they are counted in.
    """

    x: float
    y: float
    unit: Literal["inch", "cm", "none"] = "inch"

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Pixels per inch, None where no length is known."""
        factor = {"inch": 1.0, "cm": _CM_PER_INCH, "none": 0.0}[self.unit]
        return (self.x * factor, self.y * factor) if factor else None


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
        exif: EXIF as a TIFF block (no `Exif` prefix), orientation 1, without a thumbnail.
        xmp: XMP packet.
        iptc: Photoshop's image resources, which IPTC is in, without a thumbnail.
        comments: Comments of a JPEG, a GIF, a PGM or a PPM.
        resolution: Pixels a length. PNG and BMP store whole pixels per metre: 300 comes back as 299.9994.
        white: Stored value that stands for 1 in a float file.
        min_is_white: Whether 0 stands for white in a float file.
        lossless: Whether a WebP is written without loss.
        tiff_compression: Compression a TIFF is written with.
        tiff_tags: Further tags of a TIFF, in the byte order of `tiff_order`, copied to a TIFF only.
        tiff_order: Byte order of a TIFF, "<" or ">".
        extra_sample: TIFF ExtraSamples code of alpha: 0 unspecified, 1 premultiplied, 2 straight.
        jpeg: Quantisation, where it was a JPEG.
        png_chunks: Colour, text and private chunks of a PNG, whole, copied to a PNG only.
        jpeg_segments: Further application segments of a JPEG, whole, copied to a JPEG only.
        duration_ms: How long a frame of an animation is shown.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comments: tuple[bytes, ...] = ()
    resolution: Resolution | None = None
    white: float = 1.0
    min_is_white: bool = False
    lossless: bool = True
    tiff_compression: str = "adobe_deflate"
    tiff_tags: tuple[Tag, ...] = ()
    tiff_order: str = "<"
    extra_sample: int = 2
    jpeg: JpegCoding | None = None
    png_chunks: tuple[bytes, ...] = ()
    jpeg_segments: tuple[bytes, ...] = ()
    duration_ms: float | None = None

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Pixels per inch, (x, y)."""
        return self.resolution.dpi if self.resolution else None

    def turned(self) -> Metadata:
        """The same of a picture whose width has become its height."""
        if self.resolution is None:
            return self
        return replace(self, resolution=self.resolution._replace(x=self.resolution.y, y=self.resolution.x))


Encoder = Callable[[IO[bytes], np.ndarray, Metadata], None]


class Decoded(NamedTuple):
    """A picture as a decoder hands it on.

    Attributes:
        samples: (H, W, S) as stored, upright or not; with S 2 or 4 the last is alpha.
        orientation: EXIF's, 1 to 8.
        metadata: What the file says beside its pixels.
        nodata: Stored value that stands for no value.
        notes: Sentences without an end on what was wrong in the file.
        left_out: Sentences without an end on what of the file is not read, and is lost unless the file is
            copied.
        mended: Whether a fault of the container is gone once the picture is written.
        top: Largest number that the file can hold, where `samples` are spread from 0 to it over the range of
            their dtype, rounded.
    """

    samples: np.ndarray
    orientation: int
    metadata: Metadata
    nodata: float | None = None
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    mended: bool = False
    top: int | None = None


def as_16_bits(samples: np.ndarray, bits: int) -> np.ndarray:
    """Samples of so many bits, 9 to 16, as uint16 whose largest number stands for the same white; rounded."""
    top = 2**bits - 1
    return ((samples.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)


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
