"""Noise of low-dose CT: counted in the sinogram of a full turn, and reconstructed as a scanner would."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.tomography.geometry import Geometry, diagonal_mm, even_angles
from deepgsr_cli.tomography.radon import Radon

# A usual scanner: its distances, views of a turn, and bins at the isocentre.
_SOURCE_MM, _SOURCE_TO_DETECTOR_MM = 595.0, 1085.6
SCANNER_VIEWS, SCANNER_BIN_MM = 984, 0.6
# Variance of a reading by electronics, in squared photons: of the size that the literature takes.
ELECTRONIC_VARIANCE = 10.0
# More is no ray that is read: 500 mm of water.
_MOST_INTEGRAL = 10.0


def scanner_turn(
    shape: tuple[int, int],
    pixel_mm: tuple[float, float],
    num_views: int = SCANNER_VIEWS,
    bin_mm: float = SCANNER_BIN_MM,
) -> Geometry:
    """Full turn of a usual scanner: a fan on a detector about the source, that covers the slice's corners.

    Args:
        shape: Rows and columns of the slice.
        pixel_mm: Spacing of the rows and of the columns.
        num_views: Views of the turn.
        bin_mm: Distance of two bins at the isocentre.
    """
    # A source within the slice is none: slices wider than the opening of a gantry are seen from farther off.
    radius_mm = diagonal_mm(shape, pixel_mm) / 2
    source_mm = max(_SOURCE_MM, 1.5 * radius_mm)
    far_mm = source_mm * _SOURCE_TO_DETECTOR_MM / _SOURCE_MM
    step = bin_mm / source_mm
    return Geometry(
        kind="fan-arc",
        shape=shape,
        pixel_mm=pixel_mm,
        num_bins=2 * math.ceil(math.asin(radius_mm / source_mm) / step) + 1,
        bin_mm=step * far_mm,
        angles_rad=even_angles(0.0, 360.0, num_views),
        source_mm=source_mm,
        detector_mm=far_mm - source_mm,
    )


def added_variance(y: Tensor, photons: float, dose: float) -> Tensor:
    """Variance that a scan of less dose adds to the line integrals of one of full dose, of the shape of y.

    Args:
        y: Line integrals.
        photons: Photons a ray of full dose, without attenuation.
        dose: Share of the full dose, in (0, 1].

    Source:
        Zeng et al., A simple low-dose x-ray CT simulation from high-dose scan, IEEE Transactions on Nuclear
        Science 62(5), 2015.
    """
    inverse = y.clamp(max=_MOST_INTEGRAL).exp() / photons
    return (1 - dose) / dose * inverse * (1 + (1 + dose) / dose * ELECTRONIC_VARIANCE * inverse)


def gaussian_noise(variance: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of a variance, of its shape; the generator is on its device."""
    noise = torch.randn(variance.shape, generator=generator, device=variance.device, dtype=variance.dtype)
    return variance.sqrt() * noise


# Of a crop of 128 pixels, more views give no other noise.
_VIEWS_FOR_CROPS = 240
# Rows, columns and views whose line integrals are computed, to those that noise is drawn for: the integrals
# are smooth, and only the variance is taken from them.
_COARSENESS = 4


def noise_for_crops(
    x: Tensor, pixel_mm: float, bins_a_pixel: float, photons: float, generator: torch.Generator
) -> Tensor:
    """Noise of a scan of the slice, reconstructed without a window on the ramp, in 1/mm, (H, W).

    Its strength is that of a scan of `photons` photons a ray; crops are meant to scale it. It has fewer views
    than a scanner takes, which crops of it do not show.

    Args:
        x: Attenuation in 1/mm, (H, W).
        pixel_mm: Spacing of rows and of columns.
        bins_a_pixel: Bins at the isocentre a pixel: 1 or more for noise up to the finest that pixels hold.
        photons: Photons a ray without attenuation.
        generator: On the CPU.
    """
    height, width = x.shape
    turn = scanner_turn((height, width), (pixel_mm, pixel_mm), _VIEWS_FOR_CROPS, pixel_mm / bins_a_pixel)
    coarse = F.avg_pool2d(x[None, None], _COARSENESS, ceil_mode=True, count_include_pad=False)
    rows, columns = coarse.shape[-2:]
    spacing_mm = pixel_mm * _COARSENESS
    few = scanner_turn((rows, columns), (spacing_mm, spacing_mm), _VIEWS_FOR_CROPS // _COARSENESS, spacing_mm)
    y = F.interpolate(Radon(few)(coarse), (turn.num_views, turn.num_bins), mode="bilinear")
    variance = added_variance(y, photons, 0.5)
    return Radon(turn).fbp(gaussian_noise(variance, generator))[0, 0]


@dataclass(frozen=True)
class Kernels:
    """Reconstruction kernels as they pass frequencies of the image: from smooth to sharp.

    A frequency f passes by exp(-(f / cutoff)^order) (1 + boost g), where g is 1 at a quarter of a cycle a
    pixel and falls to 0 on both sides: kernels for lung and bone amplify it.

    Attributes:
        cutoff: Cycles a pixel, (B,).
        order: Steepness, (B,).
        boost: Amplification, (B,), 0 for none.
    """

    cutoff: Tensor
    order: Tensor
    boost: Tensor

    def __call__(self, frequency: Tensor) -> Tensor:
        """What passes of frequencies in cycles a pixel, of any shape: (B, ...)."""
        cutoff, order, boost = (
            x.view(-1, *(1,) * frequency.ndim) for x in (self.cutoff, self.order, self.boost)
        )
        squares = (4 * frequency).square()
        return torch.exp(-((frequency / cutoff) ** order)) * (1 + boost * squares * torch.exp(1 - squares))


def random_kernels(batch: int, generator: torch.Generator) -> Kernels:
    """Kernels of scanners: most of them smooth the ramp, a few pass all, and some amplify edges."""
    u = torch.rand(4, batch, generator=generator)
    smoothest, sharpest = math.log(0.12), math.log(0.8)
    cutoff = torch.where(u[0] < 0.15, 10.0, torch.exp(smoothest + (sharpest - smoothest) * u[1]))
    boost = torch.where(u[3] < 0.25, 4 * u[3], 0.0)
    return Kernels(cutoff, 1.5 + 2.5 * u[2], boost)


def frequencies(height: int, width: int) -> Tensor:
    """Cycles a pixel, (H, W / 2 + 1), of the bins of `torch.fft.rfft2` of H rows and W columns."""
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))


# Bins of a radial spectrum, from 0 to the corner's frequency.
_RADII = 256


def radial_spectrum(noise: Tensor) -> Tensor:
    """Mean square, (`_RADII`,), of an image, (H, W), by frequency: their sum is that of the image."""
    height, width = noise.shape
    power = torch.fft.fft2(noise).abs().square() / noise.numel() ** 2
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width))
    index = (frequency / math.sqrt(0.5) * (_RADII - 1)).round().long()
    return torch.zeros(_RADII).index_add_(0, index.flatten(), power.flatten())


def spectrum_frequencies() -> Tensor:
    """Cycles a pixel, (`_RADII`,), of `radial_spectrum`."""
    return torch.linspace(0, math.sqrt(0.5), _RADII)
