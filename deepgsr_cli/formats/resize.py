"""Pictures at another size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import PIL.Image


def resized(
    levels: np.ndarray, shape: tuple[int, int], filter: Literal["bicubic", "lanczos"] = "bicubic"
) -> np.ndarray:
    """Picture at another size, (C, H', W'), uint8; where it shrinks, the filter antialiases.

    Args:
        levels: Picture, (C, H, W), uint8.
        shape: Height and width of the result.
        filter: Kernel of the interpolation.
    """
    height, width = shape
    resampling = PIL.Image.Resampling[filter.upper()]
    planes = [PIL.Image.fromarray(plane).resize((width, height), resampling) for plane in levels]
    return np.stack([np.asarray(plane) for plane in planes])


def resized_in_8_bits(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Picture at another size, (C, H', W'), float32 in [0, 1], bicubic, in steps of 1/255.

    Args:
        pixels: Picture, (C, H, W), in [0, 1]; rounded to 8 bits first.
        shape: Height and width of the result.
    """
    levels = np.rint(pixels * 255).clip(0, 255).astype(np.uint8)
    return resized(levels, shape).astype(np.float32) / np.float32(255)
