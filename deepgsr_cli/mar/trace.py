"""Metal in an image, its trace in the sinogram, and the trace filled in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.tomography.attenuation import attenuation_to_hu
from deepgsr_cli.tomography.radon import Radon

METAL_HU = 2500.0
# Metal of fewer pixels is noise.
FEWEST_PIXELS = 3


def metal_mask(x: Tensor, threshold_hu: float = METAL_HU) -> Tensor:
    """Where metal is, bool, (B, 1, H, W), in attenuation in 1/mm: above the threshold.

    What is connected, corners included, over fewer than `FEWEST_PIXELS` pixels is left out. Gaps of a pixel
    or two are closed: inside metal, artifacts push pixels below the threshold.
    """
    metal = attenuation_to_hu(x) > threshold_hu
    # A pixel is one of three connected ones if it, or a neighbour in the metal, has two neighbours in it.
    around = F.avg_pool2d(metal.to(x.dtype), 3, 1, 1, divisor_override=1)
    core = metal & (around > FEWEST_PIXELS - 0.5)
    metal &= F.max_pool2d(core.to(x.dtype), 3, 1, 1) > 0
    dilated = F.max_pool2d(metal.to(x.dtype), 3, 1, 1)
    return F.max_pool2d(1 - dilated, 3, 1, 1) == 0


def metal_trace(A: Radon, metal: Tensor) -> Tensor:
    """Rays that meet metal, and the next on either side, bool (B, 1, V, N), of metal, bool (B, 1, H, W).

    Raises:
        ShapeError: As `Radon.__call__`.
    """
    return beside(A(metal.to(A.dtype)) > 0)


def beside(rays: Tensor) -> Tensor:
    """The rays, bool (B, 1, V, N), and the next on either side along the detector."""
    return F.max_pool2d(rays.float(), (1, 3), 1, (0, 1)) > 0


def interpolated(y: Tensor, trace: Tensor) -> Tensor:
    """Sinogram, (B, 1, V, N), with its trace filled in along the detector.

    Linear between the bins on both sides; at an end of the detector the value of the only side. A view wholly
    in the trace becomes zero.

    Args:
        y: Sinogram, (B, 1, V, N).
        trace: Mask of what is filled in, bool, of the same shape.
    """
    num_bins = y.shape[-1]
    index = torch.arange(num_bins, device=y.device).expand_as(y)
    left = torch.where(trace, -1, index).cummax(-1).values
    right = torch.where(trace, num_bins, index).flip(-1).cummin(-1).values.flip(-1)
    has_left, has_right = left >= 0, right < num_bins
    y_left, y_right = y.gather(-1, left.clamp(min=0)), y.gather(-1, right.clamp(max=num_bins - 1))
    y_left = torch.where(has_left, y_left, torch.where(has_right, y_right, 0))
    y_right = torch.where(has_right, y_right, y_left)
    part = (index - left).to(y.dtype) / (right - left).clamp(min=1)
    return torch.where(trace, torch.lerp(y_left, y_right, part), y)


def rebuilt(A: Radon, y: Tensor, trace: Tensor, prior: Tensor) -> Tensor:
    """Sinogram, (B, 1, V, N), with its trace from a prior image, and unchanged outside.

    The prior's projection, and what it lacks at the ends of the trace interpolated between them.

    Args:
        A: The operator of the scan.
        y: Sinogram, (B, 1, V, N).
        trace: Mask of what is replaced, bool, of the same shape.
        prior: Attenuation in 1/mm, (B, 1, H, W).
    """
    projected = A(prior, beside(trace))  # no other rays matter
    return torch.where(trace, projected + interpolated(y - projected, trace), y)
