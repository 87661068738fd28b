"""Mosaics as a sensor records them, made of clean pictures for training and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

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
