"""Promises of objects wider than the detector: recognised, continued, and said."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from deepgsr_cli import reconstruct_ct
from deepgsr_cli.ct.methods import Method, reconstructed
from deepgsr_cli.ct.truncation import whole_scan
from deepgsr_cli.errors import ShapeError
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, to_hu
from deepgsr_cli.tomography.geometry import KINDS, Geometry
from deepgsr_cli.tomography.radon import Radon

FULL_TURN = tuple(2 * math.pi * i / 90 for i in range(90))
PIXEL_MM = 3.0
# Centre and half axes in mm, and attenuation over that of water: an ellipse of water with two inserts.
ELLIPSES = ((4.0, -3.0, 90.0, 60.0, 1.0), (-23.0, 12.0, 18.0, 18.0, -0.5), (23.0, 8.0, 18.0, 18.0, 0.5))


def scan(kind: str, share: float = 1.3, size: int = 64) -> Geometry:
    """Pixels of 3 mm and a detector that sees a share of the long axis of the ellipse."""
    bins = 2 * math.ceil(share * 90 / 2.4 / 2)
    fan = {} if kind == "parallel" else {"source_mm": 400.0, "detector_mm": 200.0}
    bin_mm = 2.4 if kind == "parallel" else 3.6
    return Geometry(kind, (size, size), (PIXEL_MM, PIXEL_MM), 2 * bins, bin_mm, FULL_TURN, **fan)


def chords(geometry: Geometry) -> torch.Tensor:
    """Sinogram, (1, 1, V, N), of the ellipses by their chord lengths, without our projector."""
    theta = np.array(geometry.angles_rad)[:, None]
    u = (np.arange(geometry.num_bins) - (geometry.num_bins - 1) / 2 + geometry.offset_bins) * geometry.bin_mm
    length = geometry.source_mm + geometry.detector_mm
    fan = {"parallel": 0 * u, "fan-flat": np.arctan2(u, length), "fan-arc": u / (length or 1)}[geometry.kind]
    distance = u if geometry.kind == "parallel" else geometry.source_mm * np.sin(fan)
    angle, total = theta - fan, 0.0
    for x, y, a, b, share in ELLIPSES:
        width = (a * np.cos(angle)) ** 2 + (b * np.sin(angle)) ** 2
        off = distance - x * np.cos(angle) - y * np.sin(angle)
        total = total + share * 2 * a * b * np.sqrt(np.maximum(width - off**2, 0)) / width
    return torch.from_numpy(WATER_ATTENUATION * total).float()[None, None]


def errors_hu(x: torch.Tensor, geometry: Geometry, seen_mm: float) -> list[float]:
    """Mean errors, in HU, of water and of both inserts, as far as all views see them."""
    hu = to_hu(x)
    row, column = np.mgrid[: hu.shape[0], : hu.shape[1]]
    across, up = (column - (hu.shape[1] - 1) / 2) * PIXEL_MM, ((hu.shape[0] - 1) / 2 - row) * PIXEL_MM

    def within(ellipse: tuple[float, ...], edge: float) -> np.ndarray:
        x, y, a, b, _ = ellipse
        return ((across - x) / (a + edge)) ** 2 + ((up - y) / (b + edge)) ** 2 < 1

    body, *inserts = ELLIPSES
    water = within(body, -6) & (np.hypot(across, up) < 0.9 * seen_mm / 2)
    for insert in inserts:
        water &= ~within(insert, 5)
    found = [
        hu[water].mean(),
        hu[within(inserts[0], -4)].mean() + 500,
        hu[within(inserts[1], -4)].mean() - 500,
    ]
    return [float(value) for value in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "iterations", "bound"),
    [("fbp", None, 10), ("cgls", None, 10), ("sirt", 60, 25), ("tv", 100, 10)],
)
def test_what_all_views_see_of_a_wider_object_is_right(kind, name, iterations, bound):
    geometry = scan(kind, 0.72)
    y = chords(geometry)
    # Without a continuation the slice is bright to the edge of what is seen.
    assert max(errors_hu(Radon(geometry).fbp(y, "hann"), geometry, 130)) > 60
    result = reconstructed(Radon(geometry), y, Method(name, 1e6, iterations=iterations))
    assert max(map(abs, errors_hu(result.x, geometry, 130))) < bound
    assert "the object is wider than the detector sees in" in result.note
    assert float(result.misfit().norm() / y.norm()) < 0.03


def test_a_slice_smaller_than_the_object_is_right_too():
    geometry = scan("fan-flat", 0.9, size=32)
    result = reconstructed(Radon(geometry), chords(geometry), Method("sirt", 1e6, iterations=60))
    assert result.x.shape == (1, 1, 32, 32)
    assert max(map(abs, errors_hu(result.x, geometry, 90))) < 25


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_that_is_seen_whole_is_left_as_it_is(kind):
    geometry = scan(kind)
    y = chords(geometry)
    noisy = y + 0.03 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    for sinogram in (y, noisy, y - 0.05):
        whole = whole_scan(sinogram, geometry)
        assert whole.geometry == geometry
        assert whole.y is sinogram
        assert whole.note == ""


def test_the_narrow_side_of_a_shifted_detector_is_no_truncation():
    geometry = scan("fan-flat")
    bins = geometry.num_bins
    for side in (-1, 1):
        shifted = dataclasses.replace(geometry, num_bins=bins - 20, offset_bins=side * 10)
        assert whole_scan(chords(shifted), shifted).note == ""
        result = reconstructed(Radon(shifted), chords(shifted), Method("fbp"))
        assert max(map(abs, errors_hu(result.x, shifted, 180))) < 5


def test_a_short_scan_that_cuts_off_the_object_goes_to_the_iterative_methods():
    angles = tuple(math.radians(i) for i in range(0, 230, 2))
    geometry = dataclasses.replace(scan("fan-flat", 0.72), angles_rad=angles)
    y = chords(geometry)
    with pytest.raises(ShapeError, match=r"a short scan cuts off .* use an iterative method"):
        reconstructed(Radon(geometry), y, Method("fbp"))
    with pytest.raises(ShapeError, match=r"a short scan cuts off"):
        reconstruct_ct(y[0, 0].numpy(), geometry, method="fbp")
    result = reconstructed(Radon(geometry), y, Method("tv", 1e6, iterations=200))
    assert max(map(abs, errors_hu(result.x, geometry, 130))) < 20
