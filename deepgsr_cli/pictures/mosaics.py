"""Mosaics as a sensor records them: made of clean pictures, turned to one pattern, and their colours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.formats.codecs import bands
from deepgsr_cli.formats.exif import upright
from deepgsr_cli.formats.mosaics import Mosaic
from deepgsr_cli.models.mosaics import mosaic_of
from deepgsr_cli.pictures.noise import gaussian_noise

# Share of the mosaics to train on that have no noise, where the lowest level is zero.
NOISE_FREE = 0.5


def noisy_mosaics(
    clean: Tensor, sigma_range: tuple[float, float], generator: torch.Generator, *, clipped: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mosaics of clean pictures, about half of them without noise; returns them, (B, 1, H, W), and the noise
    levels on the [0, 1] scale, (B, 1).

    Args:
        clean: Pictures, (B, 3, H, W).
        sigma_range: As of `gaussian_noise`.
        generator: Random generator, on the pictures' device.
        clipped: As of `gaussian_noise`.
    """
    mosaics = mosaic_of(clean)
    noisy, told = gaussian_noise(mosaics, sigma_range, generator, clipped=clipped)
    level = told[:, :1]
    draws = torch.rand(len(clean), 1, device=clean.device, generator=generator)
    free = (draws < NOISE_FREE) & (sigma_range[0] == 0)
    return torch.where(free[..., None, None], mosaics, noisy), torch.where(free, 0.0, level)


# Axes along which a mosaic of even sides is turned over to begin with R G, G B.
_TURNED: dict[str, tuple[int, ...]] = {"RGGB": (), "GRBG": (-1,), "GBRG": (-2,), "BGGR": (-2, -1)}


def turned(x: np.ndarray, pattern: str) -> np.ndarray:
    """View of a mosaic, (..., H, W) of even sides, turned over to RGGB, or of what is made of such a one
    turned back."""
    return np.flip(x, _TURNED[pattern])


def encoded(linear: np.ndarray) -> np.ndarray:
    """Values proportional to light as sRGB has them (IEC 61966-2-1), continued below 0."""
    linear = np.asarray(linear, np.float32)
    curved = np.float32(1.055) * np.maximum(linear, 0.0031308) ** np.float32(1 / 2.4) - np.float32(0.055)
    return np.where(linear <= 0.0031308, np.float32(12.92) * linear, curved)


def decoded(values: np.ndarray) -> np.ndarray:
    """The inverse of `encoded`."""
    values = np.asarray(values, np.float32)
    curved = ((np.maximum(values, 0.04045) + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
    return np.where(values <= 0.04045, values / np.float32(12.92), curved)


def balance(mosaic: Mosaic, pattern: str) -> None:
    """Make of a raw file's values, in place, what networks have learned on; others stay.

    White is balanced, what is then brighter than the darkest colour's white is cut off, and the values are
    those of sRGB.
    """
    if mosaic.camera is None:
        return
    for place, colour in enumerate(pattern):
        part = mosaic.values[place // 2 :: 2, place % 2 :: 2]
        for top, bottom in bands(*part.shape):
            part[top:bottom] = encoded(
                np.minimum(part[top:bottom] * mosaic.camera.gains["RGB".index(colour)], 1)
            )


def developed(pixels: np.ndarray, mosaic: Mosaic, *, linear: bool = False) -> np.ndarray:
    """The colours, (3, H, W), that were found in a mosaic which `balance` has seen, upright; of a raw file
    they become sRGB, in place.

    Args:
        pixels: (3, H, W), float32.
        mosaic: What they were found in.
        linear: Leave the values of a raw file proportional to light.
    """
    if mosaic.camera is not None:
        for top, bottom in bands(*pixels[0].shape):
            light = np.einsum("dc,chw->dhw", mosaic.camera.to_srgb, decoded(pixels[:, top:bottom]))
            pixels[:, top:bottom] = light if linear else encoded(light)
    return np.ascontiguousarray(upright(pixels.transpose(1, 2, 0), mosaic.orientation).transpose(2, 0, 1))
