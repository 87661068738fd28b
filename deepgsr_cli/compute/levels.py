"""Pixels as files hold them, in whole numbers, and as networks take them, from 0 to 1."""

from __future__ import annotations

import numpy as np

# Samples that are converted at once, as floats.
_SAMPLES = 2**20


def to_floats(levels: np.ndarray) -> np.ndarray:
    """Convert uint8 or uint16, whose largest number stands for 1, to float32; pixels in floats stay.

    Args:
        levels: Of any shape; what comes of whole numbers is contiguous.
    """
    if levels.dtype.kind == "f":
        return levels
    pixels = np.empty(levels.shape, np.float32)
    # With out and dtype given, numpy converts in small buffers: no float copy beside `pixels`.
    full = np.float32(np.iinfo(levels.dtype).max)
    np.divide(levels, full, out=pixels, dtype=np.float32, casting="same_kind")
    return pixels


def to_levels(pixels: np.ndarray, levels: np.ndarray) -> None:
    """Fill uint8 or uint16 from pixels in float32, rounded to nearest and clipped.

    Args:
        pixels: (C, H, W), where 1 becomes the largest number.
        levels: (C, H, W), which takes the result.

    Raises:
        ValueError: Pixels are NaN.
    """
    full = np.iinfo(levels.dtype).max
    step = max(1, _SAMPLES // max(1, levels[:, :1].size))
    for top in range(0, levels.shape[1], step):
        band = pixels[:, top : top + step] * np.float32(full)
        if np.isnan(band).any():
            raise ValueError("pixels are NaN")
        levels[:, top : top + step] = np.clip(np.rint(band, out=band), 0, full, out=band)


def average(pixels: np.ndarray, others: np.ndarray) -> None:
    """Take the mean of pixels and others, in place; whole numbers are rounded, halves to even.

    Args:
        pixels: (C, H, W), of any type, which take the result.
        others: (C, H, W), of the same type.
    """
    step = max(1, _SAMPLES // max(1, pixels[:, :1].size))
    for top in range(0, pixels.shape[1], step):
        band = pixels[:, top : top + step].astype(np.float32)
        band += others[:, top : top + step]
        band *= 0.5
        pixels[:, top : top + step] = band if pixels.dtype.kind == "f" else np.rint(band)
