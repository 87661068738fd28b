"""Noise of pictures: seeded, the same for training, evaluation and tests, and its level estimated."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.compute.levels import to_floats

# Wavelet whose finest diagonal detail levels are estimated from.
_WAVELET = "db2"
# Median of the magnitude of a standard normal variable.
_MEDIAN = 0.6744897501960817
# Share of the pixels of a block that may be clipped. Of 57 pictures to train on, with noise of 50, the
# logarithm of the level errs by 0.02; with less than a third some pictures have no block left.
_MOST_CLIPPED = 0.3
# Rows of a picture whose noise is estimated at once; a multiple of the sides of its blocks, 16.
_STRIP = 512


def protocol_noise(shape: tuple[int, ...], sigma: float, seed: int) -> np.ndarray:
    """White Gaussian noise, (C, H, W), float32, on the [0, 1] scale, as the denoising literature adds it.

    The legacy generator, seeded anew for each image and drawing in (H, W, C) order, is what the published
    test scripts use (KAIR, Restormer), so the noisy images are theirs bit for bit.

    Args:
        shape: (C, H, W).
        sigma: Standard deviation on the 0-255 scale.
        seed: Seed of the noise.
    """
    channels, height, width = shape
    generator = np.random.RandomState(seed)
    noise = generator.normal(0, sigma / 255, (height, width, channels))
    return np.ascontiguousarray(noise.transpose(2, 0, 1), dtype=np.float32)


def gaussian_noise(
    clean: Tensor, sigma_range: tuple[float, float], generator: torch.Generator, *, clipped: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Add noise of random levels; returns noisy images, (B, C, H, W), and what a network is told, (B, 2).

    Args:
        clean: Images, (B, C, H, W).
        sigma_range: Bounds of the uniform distribution of standard deviations, on the 0-255 scale.
        generator: Random generator, on the images' device.
        clipped: Share of the images that are clipped to [0, 1] and rounded to 8 bits, as files hold them.

    Returns:
        The images, and for each its noise level on the [0, 1] scale and 1 where it is clipped, else 0.
    """
    low, high = sigma_range
    draws = torch.rand(len(clean), 2, device=clean.device, generator=generator)
    level = (low + (high - low) * draws[:, :1]) / 255
    cut = draws[:, 1:] < clipped
    noise = torch.randn(clean.shape, device=clean.device, generator=generator)
    noisy = clean + level[..., None, None] * noise
    noisy = torch.where(cut[..., None, None], as_8_bits(noisy), noisy)
    return noisy, torch.cat((level, cut.to(level.dtype)), dim=1)


def as_8_bits(images: Tensor) -> Tensor:
    """What an 8-bit file keeps of images on the [0, 1] scale."""
    return (images * 255).round().clamp(0, 255) / 255


# Below this level, on the 0-255 scale, there is nothing to remove: rounding to 8 bits alone leaves 0.29.
CLEAN_SIGMA = 0.5


def estimate_sigma(pixels: np.ndarray) -> list[float]:
    """Estimate the standard deviation of white noise in each channel, on the 0-255 scale.

    The median absolute deviation of the finest diagonal wavelet coefficients, taken where the coarse
    structure is weakest: from the quarter of blocks whose approximation varies least, as texture has
    diagonal detail of its own. Clipping removes noise: by the pixels that stand at the channel's lowest and
    highest values, a block's noise is taken for that of a Gaussian cut there, and blocks with many of them
    are left out. Noise that is not white (JPEG, demosaicking) is underestimated.

    Args:
        pixels: (C, H, W) on the [0, 1] scale, or uint8 or uint16. Channels of fewer than 16 pixels
            on a side give 0.

    Source:
        Donoho and Johnstone, Biometrika 81(3), 1994, for the estimator; Liu, Tanaka, Okutomi, IEEE
        Transactions on Image Processing 22(12), 2013, for weakly textured patches.
    """
    sigmas = []
    for channel in pixels:
        if min(channel.shape) < 16:
            sigmas.append(0.0)
            continue
        extent = 4096  # what a larger picture adds no longer matters
        top, left = (max(0, (size - extent) // 2) for size in channel.shape)
        channel = channel[top : top + extent, left : left + extent]
        ends = channel.min(), channel.max()
        strips = [_coefficients(channel, top, ends) for top in range(0, len(channel), _STRIP)]
        coefficients, variation = (np.concatenate(parts) for parts in zip(*strips))
        if not len(coefficients):
            sigmas.append(0.0)
            continue
        weakest = variation <= np.quantile(variation, max(0.25, min(1.0, 16 / len(variation))))
        sigmas.append(float(np.median(np.abs(coefficients[weakest])) / _MEDIAN * 255))
    return sigmas


def _coefficients(channel: np.ndarray, top: int, ends: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Finest diagonal coefficients of the usable blocks of a strip of a channel, (N, 64), and how much the
    approximation varies in each, (N,), as without clipping; the strip starts at row `top`, and the
    channel's lowest and highest values are its ends."""
    import pywt

    side, margin = 8, 8
    height = len(channel)
    even = height + height % 2  # the transform repeats the last of an odd number of rows, and is periodic
    bottom = min(top + _STRIP, even)
    rows = np.minimum(np.arange(top - margin, bottom + margin) % even, height - 1)
    low, (_, _, diagonal) = pywt.dwt2(to_floats(channel[rows][None])[0], _WAVELET, mode="periodization")
    inner = slice(margin // 2, -margin // 2)
    part = np.pad(channel[rows[margin:-margin]], ((0, 0), (0, channel.shape[1] % 2)), "edge")
    dark, bright = (_blocks(part == end, 2 * side).mean(1) for end in ends)
    usable = dark + bright < _MOST_CLIPPED
    left = _left_by_clipping(dark[usable], bright[usable])
    coefficients = _blocks(diagonal[inner], side)[usable] / left[:, None]
    return coefficients, _blocks(low[inner], side)[usable].var(1) / left**2


def _left_by_clipping(dark: np.ndarray, bright: np.ndarray) -> np.ndarray:
    """What clipping leaves of a Gaussian's standard deviation, by the shares cut off below and above, whose
    sum is less than 1."""
    from scipy.special import ndtr, ndtri

    # Without a pixel there the ends are so far off that cutting changes nothing.
    low, high = ndtri(dark.clip(1e-9)), -ndtri(bright.clip(1e-9))
    below, above = ndtr(low), ndtr(-high)
    at_low, at_high = (np.exp(-(end**2) / 2) / math.sqrt(2 * math.pi) for end in (low, high))
    mean = low * below + at_low - at_high + high * above
    square = low**2 * below + (1 - above - below) + low * at_low - high * at_high + high**2 * above
    return np.sqrt(square - mean**2).astype(np.float32)


def _blocks(x: np.ndarray, side: int) -> np.ndarray:
    """Square blocks as rows, (blocks, side**2), of x, (H, W), cut to whole blocks."""
    rows, columns = x.shape[0] // side, x.shape[1] // side
    x = x[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return x.transpose(0, 2, 1, 3).reshape(rows * columns, side * side)


def white_part(noise: Tensor) -> Tensor:
    """Level, (B,), of the white noise that the finest diagonal detail of noise, (B, C, H, W), would be of."""
    import pywt

    high = torch.tensor(pywt.Wavelet(_WAVELET).dec_hi, dtype=noise.dtype, device=noise.device)
    kernel = torch.outer(high, high)[None, None]
    diagonal = F.conv2d(noise.flatten(0, 1)[:, None], kernel, stride=2).flatten(1)
    medians = diagonal.abs().median(1).values.unflatten(0, noise.shape[:2])
    return (medians / _MEDIAN).square().mean(1).sqrt()


def picture_sigma(channel_sigmas: list[float]) -> float:
    """One level for a picture with such levels in its channels: their root mean square, 0 if it is clean."""
    sigma = float(np.sqrt(np.mean(np.square(channel_sigmas))))
    return sigma if sigma >= CLEAN_SIGMA else 0.0
