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


def fbp_geometry(geometry: Geometry) -> Geometry:
    """The scan with the detector that filtered backprojection fills: of a shifted one, as wide on both sides.

    The bins that are missing hold zeros, as their rays are weighted, but what the ramp spreads into them
    counts.
    """
    missing = _missing_bins(geometry)
    if abs(missing) <= _EVEN_BINS:
        return geometry
    return geometry.padded(*((0, missing) if missing > 0 else (-missing, 0)))


def fbp_weights(geometry: Geometry) -> Array:
    """Weights, (V, N), of the sinogram before the ramp: cosine, angle of the view, and share of the ray.

    Raises:
        ShapeError: The views, with the bins there are, do not see all of what is reconstructed.
    """
    shifted = abs(_missing_bins(geometry)) > _EVEN_BINS
    angle, hole = _view_angles(geometry.angles_rad, 2 * math.pi)
    if geometry.kind == "parallel":
        if shifted and hole is None:
            return angle[:, None] * _shares(geometry)
        _check_shift(geometry)
        angle, hole = _view_angles(geometry.angles_rad, math.pi)
        if hole is not None:
            raise ShapeError(
                f"the views cover {math.degrees(angle.sum()):.0f} degrees, but filtered backprojection of"
                f" parallel rays needs 180; {_WAY_OUT}"
            )
        return np.repeat(angle[:, None], geometry.num_bins, axis=1)
    fan = geometry.fan_angles_rad()
    if hole is None:  # over a full turn every ray is measured twice, or by one side of the detector alone
        share = _shares(geometry) if shifted else np.array(0.5)
    else:
        _check_shift(geometry)
        share = _parker(hole, float(angle.sum()), fan)
    arc = geometry.source_mm if geometry.kind == "fan-arc" else 1.0
    return angle[:, None] * share * np.cos(fan) / arc


# A detector may lack so many bins on one side, as one shifted by a quarter bin does, and count as even.
_EVEN_BINS = 4
# Bins that the change from a half to a whole takes for each bin that one side lacks.
_TAPER = 4
_WAY_OUT = "use an iterative method, as tv, sirt or cgls"


def _missing_bins(geometry: Geometry) -> int:
    """Bins, in whole ones, that the detector lacks at its end to be even; negative at its beginning."""
    return round(-2 * geometry.offset_bins)


def _check_shift(geometry: Geometry) -> None:
    """Refuse a shifted detector, whose one side sees less than the slice, where the other does not make up.

    Raises:
        ShapeError: It is shifted so.
    """
    ends = geometry.bin_positions_mm()[[0, -1]]
    narrow = float(min(-ends[0], ends[1]))
    if geometry.kind == "fan-flat":
        narrow = math.atan(narrow / (geometry.source_mm + geometry.detector_mm))
    elif geometry.kind == "fan-arc":
        narrow /= geometry.source_mm + geometry.detector_mm
    seen_mm = narrow if geometry.kind == "parallel" else geometry.source_mm * math.sin(narrow)
    within_mm = min(n * d for n, d in zip(geometry.shape, geometry.pixel_mm)) / 2
    if abs(_missing_bins(geometry)) > _EVEN_BINS and seen_mm < within_mm:
        raise ShapeError(
            f"offset_bins is {geometry.offset_bins:g}, so one side of the detector sees {seen_mm:.0f} of the"
            f" slice's {within_mm:.0f} mm about the isocentre, which filtered backprojection makes up for"
            f" over a full turn only; {_WAY_OUT}"
        )


def _shares(geometry: Geometry) -> Array:
    """Weights, (N,), of rays over a full turn whose opposite rays a shifted detector may not have.

    The two weights of a ray and its opposite sum to one. They are one half in the middle, and fall to zero at
    the end of the narrow side, within bins in proportion to those it lacks.

    Raises:
        ShapeError: The detector does not reach to the central ray.

    Source:
        Wang, X-ray micro-CT with a displaced detector array, Medical Physics 29(7), 2002, eq. 7; where the
        change takes all of the narrow side the weights are its.
    """
    t = geometry.bin_positions_mm() if geometry.kind == "parallel" else geometry.fan_angles_rad()
    narrow, wide = sorted((float(-t[0]), float(t[-1])))
    if narrow <= 0:
        raise ShapeError(
            f"offset_bins is {geometry.offset_bins:g}, so the detector of {geometry.num_bins} bins does not"
            f" reach to the central ray; {_WAY_OUT}"
        )
    taper = min(narrow, _TAPER * (wide - narrow))
    rise = np.sin(np.pi / 2 * ((np.abs(t) - narrow + taper) / taper).clip(0, 1))
    return (1 + np.sign(t) * math.copysign(1, geometry.offset_bins) * rise) / 2


def _view_angles(angles_rad: tuple[float, ...], period: float) -> tuple[Array, Array | None]:
    """Half the angle, (V,), from each view to both its neighbours, and the angles since the first view, (V,).

    The latter only if the views leave out a range of the period. The views beside it count as if their
    missing neighbours were an average gap away.

    Raises:
        ShapeError: The views leave out several ranges.
    """
    angles = np.array(angles_rad) % period
    order = np.argsort(angles)
    gaps = np.diff(angles[order], append=angles[order[0]] + period)
    holes = _holes(gaps)
    if len(holes) > 1:
        raise ShapeError(
            f"the views leave out {len(holes)} ranges of the turn, of"
            f" {', '.join(f'{math.degrees(gaps[i]):.0f}' for i in holes)} degrees, and filtered"
            f" backprojection may leave out one; {_WAY_OUT}"
        )
    since_first = None
    if len(holes):
        since_first = (angles - angles[order[(holes[0] + 1) % len(order)]]) % period
        gaps[holes] = np.delete(gaps, holes).mean()
    weights = np.empty_like(gaps)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights, since_first


def _holes(gaps: Array) -> Array:
    """Indices of the gaps, an eighth of them at most, that are more than four times as wide as all others."""
    order = np.argsort(-gaps)
    widths = gaps[order]
    for count in range(min(max(1, len(gaps) // 8), len(gaps) - 1), 0, -1):
        if 0 < 4 * widths[count] < widths[count - 1]:
            return order[:count]
    return order[:0]


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
            f" needs {math.degrees(math.pi + needed):.1f} or more; {_WAY_OUT}"
        )
    # A view stands for the angles around it, half of them before the first.
    beta = since_first[:, None] + range_rad / len(since_first) / 2
    rise = beta / np.maximum(half + fan, 1e-9)
    fall = (range_rad - beta) / np.maximum(half - fan, 1e-9)
    return np.sin(np.pi / 4 * np.minimum(np.minimum(rise, fall), 2)) ** 2
