"""Seeded degradations: the same code makes inputs for training, evaluation and the tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def protocol_noise(shape: tuple[int, ...], sigma: float, seed: int) -> np.ndarray:
    """White Gaussian noise, (C, H, W), float32, on the [0, 1] scale, as the denoising literature adds it.

    The legacy generator, seeded anew for each image and drawing in (H, W, C) order, is what the published
    test scripts use (KAIR, Restormer), so the noisy images are theirs bit for bit.

    Args:
        shape: (C, H, W).
        sigma: Standard deviation on the 0-255 scale.
        seed: Of the generator.
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
        generator: On the images' device.
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
