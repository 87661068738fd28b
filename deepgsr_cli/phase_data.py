"""Coded diffraction patterns of pictures as training data: random masks, and noise of either kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgsr_cli.diffraction import MASK_KINDS, Diffraction, alpha_noise, coded_masks, snr_noise, snr_sigma
from deepgsr_cli.models.phase import phase_condition

MOST_MASKS = 4
# Noise levels to train on: alpha for pictures in [0, 255], and SNR in dB.
LOWEST_ALPHA, HIGHEST_ALPHA = 3.0, 120.0
LOWEST_SNR_DB, HIGHEST_SNR_DB = 5.0, 35.0


@dataclass(frozen=True)
class PhaseNoise:
    """Noise of intensities: `alpha` for pictures in [0, 255], or, where it is None, white at `snr_db`."""

    alpha: float | None = None
    snr_db: float = math.inf


def random_operator(size: int, generator: torch.Generator) -> Diffraction:
    """Operator of 1 to 4 random masks of one kind, for pictures of `size` x `size` pixels.

    One binary mask is left out: half of its pattern is the other half again.
    """
    kind = MASK_KINDS[int(torch.randint(len(MASK_KINDS), (), generator=generator))]
    fewest = 2 if kind == "binary" else 1
    count = int(torch.randint(fewest, MOST_MASKS + 1, (), generator=generator))
    return Diffraction(coded_masks(kind, count, (size, size), generator))


def random_noise(generator: torch.Generator) -> PhaseNoise:
    """Noise of either kind, its level even in the logarithm."""
    kind, level = torch.rand(2, generator=generator).tolist()
    if kind < 0.5:
        return PhaseNoise(alpha=LOWEST_ALPHA * (HIGHEST_ALPHA / LOWEST_ALPHA) ** level)
    return PhaseNoise(snr_db=LOWEST_SNR_DB + level * (HIGHEST_SNR_DB - LOWEST_SNR_DB))


def measure(
    A: Diffraction, x: Tensor, noises: list[PhaseNoise], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Magnitudes, (B, J, M, N), and conditions of the network, (B, 3), of pictures in [0, 1], (B, 1, H, W).

    Args:
        A: The operator.
        x: Pictures.
        noises: Of each picture.
        generator: On the CPU.
    """
    z, magnitudes, conditions = A(x), [], []
    for i, noise in enumerate(noises):
        if noise.alpha is not None:
            alpha, sigma = noise.alpha / 255, 0.0
            intensity = alpha_noise(z[i : i + 1], alpha, generator)
        else:
            alpha, sigma = 0.0, float(snr_sigma(z[i : i + 1].abs().square(), noise.snr_db))
            intensity = snr_noise(z[i : i + 1], noise.snr_db, generator)
        magnitudes.append(intensity.sqrt())
        conditions.append(phase_condition(alpha, sigma, len(A.masks)))
    return torch.cat(magnitudes), torch.cat(conditions).to(x.device)
