"""Weights of filtered backprojection: ramp filters, and the rays that are measured twice."""

from __future__ import annotations

import math

import numpy as np

from deepgsr_cli.errors import ShapeError
from deepgsr_cli.tomography.geometry import Geometry
from deepgsr_cli.tomography.projectors import Array

FILTERS = ("ram-lak", "shepp-logan", "cosine", "hann")


def ramp_spectrum(geometry: Geometry, filter: str) -> Array:
    """Real spectrum, (M / 2 + 1), of the band-limited ramp times the bin width, under the filter's window.

    Source:
        Kak and Slaney, ch. 3, eq. 61 (the ramp in space), 103 (on an arc).
    """
    n = geometry.num_bins
    padded = 2 ** math.ceil(math.log2(2 * n))
    lag = np.minimum(np.arange(padded), padded - np.arange(padded))
    lag[n : padded - n + 1] = 0  # beyond the detector nothing is needed
    if geometry.kind == "fan-arc":
        width = geometry.bin_mm / (geometry.source_mm + geometry.detector_mm)
        distance = np.sin(lag * width)
    else:
        width = geometry.bin_mm / geometry.magnification
        distance = lag * width
    odd = lag % 2 == 1
    ramp = np.zeros(padded)
    ramp[0] = 1 / (4 * width**2)
    ramp[odd] = -1 / (np.pi * distance[odd]) ** 2
    frequency = np.fft.rfftfreq(padded)
    window = {
        "ram-lak": np.ones_like(frequency),
        "shepp-logan": np.sinc(frequency),
        "cosine": np.cos(np.pi * frequency),
        "hann": np.cos(np.pi * frequency) ** 2,
    }[filter]
    return np.fft.rfft(ramp).real * width * window


def fbp_weights(geometry: Geometry) -> Array:
    """Weights, (V, N), of the sinogram before the ramp: cosine, angle of the view, and share of the ray."""
    if geometry.kind == "parallel":
        angle, _ = _view_angles(geometry.angles_rad, math.pi)
        return np.repeat(angle[:, None], geometry.num_bins, axis=1)
    angle, since_first = _view_angles(geometry.angles_rad, 2 * math.pi)
    fan = geometry.fan_angles_rad()
    # Over a full turn every ray is measured twice.
    share = np.array(0.5) if since_first is None else _parker(since_first, float(angle.sum()), fan)
    arc = geometry.source_mm if geometry.kind == "fan-arc" else 1.0
    return angle[:, None] * share * np.cos(fan) / arc


def _view_angles(angles_rad: tuple[float, ...], period: float) -> tuple[Array, Array | None]:
    """Half the angle, (V,), from each view to both its neighbours, and the angles since the first view, (V,).

    The latter only if the views leave out a range of the period: a gap more than four times as wide as every
    other. The views beside it count as if their missing neighbours were an average gap away.
    """
    angles = np.array(angles_rad) % period
    order = np.argsort(angles)
    gaps = np.diff(angles[order], append=angles[order[0]] + period)
    widest = int(gaps.argmax())
    others = np.delete(gaps, widest)
    since_first = None
    if len(others) and 0 < 4 * others.max() < gaps[widest]:
        gaps[widest] = others.mean()
        since_first = (angles - angles[order[(widest + 1) % len(order)]]) % period
    weights = np.empty_like(gaps)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights, since_first


def _parker(since_first: Array, range_rad: float, fan: Array) -> Array:
    """Weights, (V, N), that share out each ray among the views of a short scan that measure it.

    Args:
        since_first: Angle of each view from the first, (V,).
        range_rad: Angle all views stand for.
        fan: Angle of each bin's ray to the central one, (N,).

    Raises:
        ShapeError: The range is less than half a turn and the fan.

    Source:
        Parker, Optimal short scan convolution reconstruction for fan beam CT, Medical Physics 9(2), 1982; for
        longer ranges Silver, A method for including redundant data in computed tomography, 27(4), 2000.
    """
    half = (range_rad - math.pi) / 2
    needed = 2 * np.abs(fan).max()
    if 2 * half < needed - 1e-9:
        raise ShapeError(
            f"the views cover {math.degrees(range_rad):.0f} degrees, but filtered backprojection of this fan"
            f" needs {math.degrees(math.pi + needed):.1f} or more; use an iterative method"
        )
    # A view stands for the angles around it, half of them before the first.
    beta = since_first[:, None] + range_rad / len(since_first) / 2
    rise = beta / np.maximum(half + fan, 1e-9)
    fall = (range_rad - beta) / np.maximum(half - fan, 1e-9)
    return np.sin(np.pi / 4 * np.minimum(np.minimum(rise, fall), 2)) ** 2
