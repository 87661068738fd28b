"""Whether a reconstruction can be: its misfit against the noise, CT numbers of body, water and air."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from deepgsr_cli.ct.figures import body, residual
from deepgsr_cli.ct.methods import ITERATIONS, Method, Reconstructed, gaussian_blur
from deepgsr_cli.ct.simulation import noise_variance
from deepgsr_cli.tomography.attenuation import to_hu
from deepgsr_cli.tomography.fbp import ramp_spectrum
from deepgsr_cli.tomography.geometry import Geometry

# Set wide of what scans show that were simulated from five slices at 20 to 720 views, 1e4 photons and more.
# The misfit relative to the sinogram: what beam hardening and pixels leave; what few views leave of filtered
# backprojection at 60 views of 512 pixels, and the views at which noise is no larger in the misfit.
_MISFIT, _MISFIT_OF_FBP, _EVEN_VIEWS = 0.03, 0.12, 300
# What the filter's window takes from the sinogram is in the misfit so often, as pixels smooth, too.
_BLUR = 1.5
# Air and the denser quarter of a body, in HU, under a Gaussian of so many pixels of 512.
_AIR_HU, _BODY_HU = (-1250.0, -650.0), (-300.0, 400.0)
_SMOOTHING_PX = 4.0
# Nothing is thinner than air; so much of a body may be, where streaks cross.
_LEAST_HU, _LEAST_SHARE = -1100.0, 0.02
# Views of no scan: as many within as few degrees as a turn has radians.
_SEVERAL_VIEWS = 10
# Values of so much are of no scanner, if so many of a slice have them.
_MOST_HU, _MOST_SHARE = 30000.0, 0.1
# Of attenuation, line integrals and pictures of floats all values are within, and of 8-bit pictures up to.
_UNLIKE_HU, _GRAY = (-10.0, 20.0), 255.0
# Soft tissue whose numbers were made positive, and the share that no slice has of bone so dense.
_SHIFTED_HU, _SHIFTED_SHARE = (800.0, 1300.0), 0.2
# An object that rays are attenuated by so much in is not empty.
_VISIBLE_INTEGRAL = 0.3


def doubt_result(result: Reconstructed, y: Tensor, geometry: Geometry, method: Method) -> list[str]:
    """Say what cannot be right in a reconstruction, a sentence each with the likely cause.

    Args:
        result: Of one sinogram.
        y: The sinogram, (1, 1, V, N).
        geometry: It was measured with.
        method: It was reconstructed by, with the photons that are known or estimated.
    """
    doubts = []
    views = geometry.num_views * 512 / max(geometry.shape)
    misfit = residual(result.misfit(), y)
    noise = 0.0
    if method.photons is not None:
        noise = float(noise_variance(y, method.photons).sum().sqrt() / y.norm().clamp(min=1e-12))
    explained = _MISFIT + 3 * noise * max(1.0, _EVEN_VIEWS / views)
    if method.name == "fbp":
        explained += _MISFIT_OF_FBP * (60 / views) ** 1.4
        explained += _BLUR * residual(y - _windowed(y, geometry, method.filter), y)
    if misfit > explained and y.any():
        more = ", and are the iterations enough" if method.name in ITERATIONS else ""
        doubts.append(
            f"the slice leaves {misfit:.1%} of the data unexplained, and noise and views account for"
            f" {explained:.1%} at most: are the geometry's angles, their sense, offset_bins and distances"
            f" those of the scan, and are the values line integrals{more}?"
        )
    covered_deg = math.degrees(np.ptp(geometry.angles_rad))
    if geometry.num_views >= _SEVERAL_VIEWS and covered_deg <= math.tau:
        doubts.append(
            f"the {geometry.num_views} views cover {covered_deg:.3g} degrees: are the geometry's angles in"
            " radians, where degrees are meant?"
        )
    if geometry.num_views >= 2:
        doubts += doubt_numbers(result.x, y, geometry)
    return doubts


def _windowed(y: Tensor, geometry: Geometry, filter: str) -> Tensor:
    """Sinogram, (1, 1, V, N), under the window of a filter on the ramp, which smooths along the detector."""
    window = ramp_spectrum(geometry, filter) / ramp_spectrum(geometry, "ram-lak")
    spectrum = torch.fft.rfft(y, n=2 * (len(window) - 1)) * torch.from_numpy(window).to(y)
    return torch.fft.irfft(spectrum)[..., : y.shape[-1]]


def doubt_numbers(x: Tensor, y: Tensor, geometry: Geometry) -> list[str]:
    """Say what is implausible in CT numbers, a sentence each with the likely cause.

    Args:
        x: Attenuation in 1/mm, (1, 1, H, W).
        y: The sinogram it was made of, (1, 1, V, N).
        geometry: With that slice.
    """
    smooth = gaussian_blur(x, _SMOOTHING_PX * max(geometry.shape) / 512)
    hu, inside = to_hu(smooth), body(smooth, geometry.pixel_mm)
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in hu.shape)
    within = np.hypot(rows[:, None] / len(rows), columns / len(columns)) < 0.48
    edge = max(2, round(2 * _SMOOTHING_PX * max(hu.shape) / 512))
    core = ndimage.binary_erosion(inside & within, iterations=edge)
    outside = within & ~ndimage.binary_dilation(inside, iterations=edge)
    doubts = []
    if not inside.any() and float(y.max()) > _VISIBLE_INTEGRAL:
        doubts.append(
            f"the slice has nothing denser than -500 HU, but rays are attenuated by up to exp({y.max():.2g}):"
            " are pixel_mm, bin_mm and the distances in mm?"
        )
    if core.any() and float(np.mean(hu[core] < _LEAST_HU)) > _LEAST_SHARE:
        doubts.append(
            f"{np.mean(hu[core] < _LEAST_HU):.1%} of the body are below {_LEAST_HU:g} HU, which is less than"
            " air: are the values line integrals, and is the geometry that of the scan?"
        )
    if inside.any() and not _BODY_HU[0] <= (dense := float(np.percentile(hu[inside], 75))) <= _BODY_HU[1]:
        doubts.append(
            f"the denser parts of the body are at {dense:.0f} HU, and tissue is between {_BODY_HU[0]:g} and"
            f" {_BODY_HU[1]:g}: are pixel_mm, bin_mm and the distances in mm, and does water attenuate by"
            " 0.0192 /mm at this energy? Or the object is no body"
        )
    if outside.mean() > 0.02 and not _AIR_HU[0] <= (air := float(np.median(hu[outside]))) <= _AIR_HU[1]:
        doubts.append(
            f"around the body are {air:.0f} HU, and air is -1000: do the line integrals of air have an"
            " offset, or is the object wider than the detector?"
        )
    return doubts


def doubt_slice(hu: np.ndarray) -> list[str]:
    """Say what cannot be right in the CT numbers of a slice, (H, W), that is given, a sentence at most."""
    share = float(np.mean(hu > _MOST_HU))
    if share > _MOST_SHARE:
        return [
            f"{share:.0%} of the values are above {_MOST_HU:g} HU, which no tissue and no metal is: is"
            " PixelRepresentation right, which says whether they are signed?"
        ]
    lowest, highest = float(hu.min()), float(hu.max())
    unlike = (_UNLIKE_HU[0] < lowest and highest < _UNLIKE_HU[1]) or (lowest == 0 and highest <= _GRAY)
    if lowest < highest and unlike:
        return [
            f"all values are between {lowest:.4g} and {highest:.4g}, but in HU air is -1000 and water 0: are"
            " they attenuation, line integrals or gray values, and no HU?"
        ]
    share = float(np.mean((hu > _SHIFTED_HU[0]) & (hu < _SHIFTED_HU[1])))
    if lowest >= 0 and share > _SHIFTED_SHARE:
        return [
            f"{share:.0%} of the values are about 1000 HU, as hardly any tissue is, and none is below 0: was"
            " 1000 or 1024 added to them, or is RescaleIntercept wrong or missing?"
        ]
    return []
