"""Figures of quality of CT: errors in HU, PSNR and SSIM in the body, and what the data disagree with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from deepgsr_cli.evaluation.metrics import psnr, ssim
from deepgsr_cli.tomography.attenuation import attenuation_to_hu, to_hu

PEAK_ATTENUATION = 0.05  # 1/mm: the range the metal artifact papers compare in, up to about 1600 HU
BODY_HU = -500.0  # halfway from air to water: what is more is body
_TABLE_MM = 5.0  # what is thinner is no body, nor is what is thinner than this share of a small slice
_TABLE_SHARE = 0.05


@dataclass(frozen=True)
class Figures:
    """A reconstruction against its reference.

    Attributes:
        psnr: PSNR in dB, of attenuation clipped to [0, `PEAK_ATTENUATION`], over the whole slice.
        ssim: SSIM of the same attenuation.
        rmse_hu: Root mean square error in the `body`.
        bias_hu: Mean error there.
    """

    psnr: float
    ssim: float
    rmse_hu: float
    bias_hu: float


def compare(
    x: Tensor, reference: Tensor, pixel_mm: tuple[float, float], leave_out: Tensor | None = None
) -> Figures:
    """Figures of attenuation in 1/mm, (1, 1, H, W); NaN for those in the body where there is none.

    Args:
        x: The reconstruction.
        reference: True attenuation, of the same shape.
        pixel_mm: Distance of rows and of columns.
        leave_out: Pixels that do not count, bool, (1, 1, H, W); those in the windows of SSIM count as equal.
    """
    counted = np.full(x.shape[1:], True) if leave_out is None else ~leave_out[0].cpu().numpy()
    if leave_out is not None:
        x = torch.where(leave_out, reference, x)
    clipped, target = (t[0].clamp(0, PEAK_ATTENUATION).cpu().numpy() for t in (x, reference))
    error = (attenuation_to_hu(x) - attenuation_to_hu(reference))[0, 0].double().cpu().numpy()
    in_body = error[counted[0] & body(reference, pixel_mm)]
    known = in_body.size > 0
    return Figures(
        psnr(clipped[counted], target[counted], peak=PEAK_ATTENUATION),
        ssim(clipped, target, peak=PEAK_ATTENUATION),
        float(np.sqrt(np.mean(in_body**2))) if known else math.nan,
        float(np.mean(in_body)) if known else math.nan,
    )


def body(reference: Tensor, pixel_mm: tuple[float, float]) -> np.ndarray:
    """Where the body is, bool, (H, W), in a slice of attenuation in 1/mm, (1, 1, H, W): within the skin.

    That is where the slice is above `BODY_HU`, without what is thin, as a table is, and without pieces of
    less than a tenth of the largest, but with all that they enclose; and within the largest circle. Lungs are
    in the body: a threshold alone would choose, at their edges and in their noise, pixels that are too high.
    """
    hu = to_hu(reference)
    rows, columns = (
        max(1, round(min(_TABLE_MM / d, _TABLE_SHARE * size) / 2)) for size, d in zip(hu.shape, pixel_mm)
    )
    thick = ndimage.binary_opening(hu > BODY_HU, np.ones((2 * rows + 1, 2 * columns + 1)))
    pieces, count = ndimage.label(thick)
    areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    large = np.flatnonzero(areas >= 0.1 * areas.max(initial=0)) + 1
    y, x = (np.arange(n) * d - (n - 1) * d / 2 for n, d in zip(hu.shape, pixel_mm))
    radius_mm = min(n * d for n, d in zip(hu.shape, pixel_mm)) / 2
    inside = ndimage.binary_fill_holes(np.isin(pieces, large))
    return np.asarray(inside & (np.hypot(y[:, None], x) <= radius_mm))


def residual(misfit: Tensor, y: Tensor) -> float:
    """‖A x - y‖ / ‖y‖, of the misfit A x - y: how far a reconstruction is from the data.

    Of a y that is 0 throughout, as air may be, it is 0 or infinite.
    """
    difference, size = float(misfit.norm()), float(y.norm())
    return difference / size if size > 0 else math.inf if difference > 0 else 0.0
