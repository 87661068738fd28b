"""Noise of diffraction patterns: of a level alpha, of photons, or at a signal-to-noise ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgsr_cli.errors import OptionError
from deepgsr_cli.phase.projections import PEAK


def alpha_noise(z: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """Intensities max(0, |z|² + alpha |z| w), w standard normal: prDeep's noise, near to that of photons.

    Args:
        z: Patterns, complex, of a picture in [0, 255].
        alpha: Level; the noise of the magnitude |z| has a standard deviation of about alpha / 2.
        generator: Random generator, on the CPU.

    Source:
        Metzler, Schniter, Veeraraghavan, Baraniuk, prDeep: robust phase retrieval with a flexible deep
        network, ICML 2018, sec. 4.
    """
    magnitude = z.abs()
    w = torch.randn(magnitude.shape, generator=generator, dtype=magnitude.dtype)
    return (magnitude.square() + alpha * magnitude * w.to(magnitude.device)).clamp(min=0)


def photon_noise(z: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """Intensities of Poisson counts of photons of alpha² each: mean |z|², variance alpha² |z|², as
    `alpha_noise` has it, but never negative.

    Args:
        z: Patterns, complex, of a picture in [0, 255].
        alpha: Level, above 0.
        generator: Random generator, on the CPU.
    """
    photons = (z.abs().square() / alpha**2).cpu()
    return (torch.poisson(photons, generator=generator) * alpha**2).to(z.device)


def snr_noise(z: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
    """Intensities max(0, |z|² + n), n white Gaussian, at a signal-to-noise ratio of the intensities in dB.

    Args:
        z: Patterns, complex, (B, J, M, N); the ratio is that of each batch item.
        snr_db: 10 log10(Σ |z|⁴ / Σ n²).
        generator: Random generator, on the CPU.

    Source:
        Shi, Lian, Huang, An, Constrained phase retrieval: when alternating projection meets regularization,
        JOSA B 35(6), 2018.
    """
    intensity = z.abs().square()
    sigma = snr_sigma(intensity, snr_db)
    w = torch.randn(intensity.shape, generator=generator, dtype=intensity.dtype)
    return (intensity + sigma * w.to(intensity.device)).clamp(min=0)


def snr_sigma(intensity: Tensor, snr_db: float) -> Tensor:
    """Standard deviation, (B, 1, 1, 1), of white noise at an SNR in dB to intensities, (B, J, M, N)."""
    power = intensity.square().mean((1, 2, 3), keepdim=True)
    return (power * 10 ** (-snr_db / 10)).sqrt()


@dataclass(frozen=True)
class Noise:
    """Noise of measured intensities |z|², Gaussian; what would be negative was measured as 0.

    Attributes:
        alpha: Deviation in units of the magnitude |z|, as `phase.noise.alpha_noise` has it.
        sigma: Deviation that is the same everywhere, as of `phase.noise.snr_noise`.
    """

    alpha: float = 0.0
    sigma: float = 0.0

    def deviation(self, magnitude: Tensor) -> Tensor:
        """Standard deviation of the intensities for such magnitudes |z|."""
        return (self.alpha**2 * magnitude.square() + self.sigma**2).sqrt()

    def magnitude_deviation(self, y: Tensor) -> Tensor:
        """Standard deviation, to first order, of measured magnitudes y, kept finite near 0."""
        y = y.clamp(min=max(self.sigma**0.5, 1e-6))
        return self.deviation(y) / (2 * y)


@dataclass(frozen=True)
class PhaseNoise:
    """Noise of intensities: `alpha` for pictures in [0, 255], or, where it is None, white at `snr_db`."""

    alpha: float | None = None
    snr_db: float = math.inf


def check_alpha(alpha: float, peak: float = PEAK) -> None:
    """Refuse an alpha that is no noise level of pictures up to a peak."""
    most = 1000 * peak / PEAK
    if not 0 <= alpha <= most:
        raise OptionError("alpha", alpha, f"give 0 to {most:g}, as for pictures in 0-{peak:g}")


def check_snr(snr_db: float) -> None:
    """Refuse an SNR that is none."""
    if not -20 <= snr_db <= 200:
        raise OptionError("snr_db", snr_db, "give -20 to 200 dB", flag="--snr")
