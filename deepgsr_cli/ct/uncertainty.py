"""What the error of the network's reconstruction is expected to be, pixel by pixel."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from deepgsr_cli.ct.figures import body
from deepgsr_cli.ct.methods import Method, gaussian_blur
from deepgsr_cli.ct.network import Unrolled, ct_condition
from deepgsr_cli.ct.truncation import whole_scan
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION
from deepgsr_cli.tomography.radon import Radon

# What reports say of it.
UNCERTAINTY = "standard deviation in HU, calibrated for deepgsr-ct on simulated scans of training patients"
# Widths of the Gaussians that maps are averaged by, in pixels of 512, but never less than a pixel: narrower
# ones average nothing.
_WIDTHS = (1.0, 3.0)
_LEAST_HU, _MOST_HU = 1.0, 2000.0
# Added to magnitudes under a logarithm, in HU.
_FLOOR_HU = 1.0
# Of the entries of `features`, in their order: a constant; for each width the last and the last but one step
# of the network, the distance from filtered backprojection, the backprojected misfit and the deviation
# around; the gradient; means over the body of the five at the larger width; sparsity and noise of the scan.
# By benchmarks/calibrate_uncertainty.py, from 40 slices of training patients that the weights before had not
# seen, in 54 scans of 20 to 360 views; the constant and the noise's weight by --doses, from the 9 slices of
# other patients that `deepgsr-ct` was validated on.
WEIGHTS = (
    -0.520,
    *(-0.101, -0.053, 0.010, 0.070, 0.354),
    *(0.804, 0.250, -0.076, -0.433, 0.015),
    -0.079,
    *(-0.123, -0.283, 0.150, 0.490, 0.312),
    *(0.667, 0.103),
)


def uncertainty_of(job: Job) -> Path:
    """Where the uncertainty of the result of a job is written: beside it."""
    assert job.target is not None
    return job.target.with_name(f"{job.target.stem}_uncertainty{job.target.suffix}")


@torch.no_grad()
def expected_error(A: Radon, y: Tensor, x: Tensor, method: Method, model: Unrolled) -> Tensor:
    """Standard deviation of the error in HU, (1, 1, H, W), that is expected of a reconstruction.

    A function of what the reconstruction shows by itself, fitted to its errors on training patients: how much
    the last steps of the network have changed, how far it is from filtered backprojection, what it leaves of
    the data, and how much it varies around. 68 % of the errors are to be smaller. It is no bound: what
    neither the data nor the network show is not in it.

    Args:
        A: The operator y was measured with.
        y: Sinogram, (1, 1, V, N).
        x: What the network made of it, in 1/mm, (1, 1, H, W).
        method: Method of "deepgsr" with the photons of the scan.
        model: The network.
    """
    scan = whole_scan(y, A.geometry)
    if scan.share:
        A, y, x = A.of(scan.geometry), scan.y, scan.padded(x)
    weights = torch.tensor(WEIGHTS, dtype=x.dtype, device=x.device)
    logarithm = torch.einsum("f,fhw->hw", weights, features(A, y, x, method.photons, model))
    sd = logarithm.clamp(math.log(_LEAST_HU), math.log(_MOST_HU)).exp()[None, None]
    return scan.cropped(sd)


@torch.no_grad()
def features(A: Radon, y: Tensor, x: Tensor, photons: float | None, model: Unrolled) -> Tensor:
    """Maps, (F, H, W), whose weighted sum is the logarithm of the error; those of `WEIGHTS`.

    Args:
        A: The operator y was measured with.
        y: Sinogram, (1, 1, V, N), of all of the object.
        x: What the network made of it, in 1/mm, (1, 1, H, W).
        photons: Photons a ray that leave the source, None for no noise.
        model: The network.
    """
    scale = max(A.domain_shape) / 512
    condition = ct_condition(A.geometry.num_views, photons, max(A.domain_shape)).to(y)
    images = [A.fbp(y), *(image.float() for image in model.iterates(A, y, condition))]
    last = images[-1]
    maps = (
        last - images[-2],
        images[-2] - images[-3],
        A.fbp(y, "hann") - x,
        A.fbp(y - A(last)),
    )
    inside = torch.from_numpy(body(x, A.geometry.pixel_mm)).to(x.device)[None, None]
    inside = inside if inside.any() else torch.ones_like(inside)
    entries, means = [torch.ones_like(x)], []
    for width in _WIDTHS:
        width_px = max(1.0, scale * width)
        found = [_magnitude(gaussian_blur(values.square(), width_px)) for values in maps]
        spread = gaussian_blur(x.square(), width_px) - gaussian_blur(x, width_px).square()
        found.append(_magnitude(spread))
        means = [torch.full_like(x, float(values[inside].mean())) for values in found]
        entries += found
    rows, columns = torch.gradient(gaussian_blur(x, max(1.0, scale)), dim=(2, 3))
    entries.append(_magnitude(rows.square() + columns.square()))
    entries += [*means, *(torch.full_like(x, float(value)) for value in condition[0])]
    return torch.cat(entries)[:, 0]


def _magnitude(squares: Tensor) -> Tensor:
    """Logarithm of a magnitude in HU, from its squares in 1/mm²."""
    return (squares.clamp(min=0).sqrt() * (1000 / WATER_ATTENUATION) + _FLOOR_HU).log()
