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
    clean: Tensor, sigma_range: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noisy images, (B, C, H, W), not clipped, and their noise levels, (B, 1), on the [0, 1] scale.

    Args:
        clean: Images, (B, C, H, W).
        sigma_range: Bounds of the uniform distribution of standard deviations, on the 0-255 scale.
        generator: On the images' device.
    """
    low, high = sigma_range
    level = torch.rand(len(clean), 1, device=clean.device, generator=generator)
    level = (low + (high - low) * level) / 255
    noise = torch.randn(clean.shape, device=clean.device, generator=generator)
    return clean + level[..., None, None] * noise, level
