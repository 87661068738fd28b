import math

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.mar.nmar import (
    ImageOnly,
    linear_interpolation,
    nmar,
    normalised,
    tissue_prior,
    virtual_scan,
    within_tissue,
)
from deepgsr_cli.mar.simulation import MetalScan
from deepgsr_cli.mar.trace import interpolated, metal_mask, metal_trace, rebuilt
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, hu_to_attenuation
from deepgsr_cli.tomography.geometry import KINDS, Geometry
from deepgsr_cli.tomography.radon import Radon

SIZE, PIXEL_MM = 96, 3.0


def fan() -> Geometry:
    return Geometry(
        kind="fan-flat",
        shape=(SIZE, SIZE),
        pixel_mm=(PIXEL_MM, PIXEL_MM),
        num_bins=161,
        bin_mm=2 * PIXEL_MM,
        angles_rad=tuple(2 * math.pi * (i + 0.5) / 180 for i in range(180)),
        source_mm=600.0,
        detector_mm=600.0,
    )


def small(kind: str) -> Geometry:
    source = {} if kind == "parallel" else {"source_mm": 90.0, "detector_mm": 40.0}
    return Geometry(
        kind, (37, 53), (0.9, 0.7), 81, 0.8 if not source else 1.3, (0.0, 0.4, 1.57, 2.8, 4.1), **source
    )


def disc(row: float, column: float, radius: float, size: int = SIZE) -> Tensor:
    axis = torch.arange(size) - (size - 1) / 2
    return torch.hypot(axis[:, None] - row, axis - column) < radius


def body() -> Tensor:
    """Water with fat, a lung and two bones, (1, 1, SIZE, SIZE)."""
    x = WATER_ATTENUATION * disc(0, 0, 40).float()
    x[disc(15, -10, 8)] = 0.95 * WATER_ATTENUATION
    x[disc(-15, 12, 10)] = 0.2 * WATER_ATTENUATION
    x[disc(-2, -25, 5) | disc(20, 18, 4)] = 1.8 * WATER_ATTENUATION
    return x[None, None]


def inserts() -> Tensor:
    return (disc(2, -12, 2.5) | disc(4, 14, 2.5))[None, None]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def error(x: Tensor, reference: Tensor, metal: Tensor) -> float:
    return float((x - reference)[~metal].square().mean().sqrt()) / WATER_ATTENUATION


def test_metal_mask_drops_components_below_three_pixels_and_closes_gaps() -> None:
    square, found, closed = [[1] * 3] * 3, 0, 0
    for seed in range(20):
        bright = random(1, 1, 37, 53, seed=seed) > 0.85
        bright &= F.pad(torch.ones(1, 1, 33, 49), (2,) * 4) > 0
        x = hu_to_attenuation(torch.where(bright, 2600.0, 2400.0))
        labels, count = scipy.ndimage.label(bright[0, 0].numpy(), structure=square)
        sizes = scipy.ndimage.sum_labels(bright[0, 0].numpy(), labels, range(count + 1))
        found += int((sizes[1:] < 3).sum())
        large = (sizes >= 3)[labels] & bright[0, 0].numpy()
        expected = scipy.ndimage.binary_closing(large, structure=square)
        closed += int((expected & ~large).sum())
        assert metal_mask(x)[0, 0].tolist() == expected.tolist()
        assert not metal_mask(x, 2700).any()
        assert metal_mask(x, 2300).all()
    assert min(found, closed) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_trace_has_every_ray_that_meets_metal_and_the_next(kind: str) -> None:
    A, metal = Radon(small(kind)), torch.zeros(2, 1, 37, 53, dtype=torch.bool)
    metal[0, 0, 10:13, 20:24] = metal[1, 0, 30, 5] = True
    trace = metal_trace(A, metal)
    met = A(metal.float()) > 0
    assert trace.dtype == torch.bool
    assert met.any()
    expected = met.clone()
    expected[..., 1:] |= met[..., :-1]
    expected[..., :-1] |= met[..., 1:]
    assert torch.equal(trace, expected)
    assert not metal_trace(A, metal & False).any()


def test_interpolation_is_exact_where_the_sinogram_is_linear() -> None:
    trace = random(2, 1, 37, 53) < 0.4
    trace[..., [0, -1]] = False
    slope, level = random(2, 1, 37, 1, seed=1), random(2, 1, 37, 1, seed=2)
    y = level + slope * torch.arange(53)
    torch.testing.assert_close(interpolated(y.masked_fill(trace, 99), trace), y, rtol=1e-5, atol=1e-5)


def test_interpolation_ends_with_the_last_known_bin() -> None:
    y = torch.tensor([[9.0, 9, 1, 2, 3, 9], [9, 9, 9, 9, 9, 9], [1, 2, 3, 4, 5, 6], [9, 9, 9, 4, 9, 9]])
    trace = y == 9
    expected = torch.tensor([[1.0, 1, 1, 2, 3, 3], [0] * 6, [1, 2, 3, 4, 5, 6], [4] * 6])
    assert torch.equal(interpolated(y[None, None], trace[None, None])[0, 0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_rebuilt_keeps_what_was_measured(kind: str) -> None:
    A, x = Radon(small(kind)), random(2, 1, 37, 53)
    y, trace = random(2, 1, *A.range_shape, seed=1), random(2, 1, *A.range_shape, seed=2) < 0.3
    for sinogram in (interpolated(y, trace), rebuilt(A, y, trace, x), normalised(y, trace, A(x))):
        assert torch.equal(sinogram[~trace], y[~trace])
        assert (sinogram[trace] != y[trace]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_prior_gives_the_true_sinogram(kind: str) -> None:
    A, x = Radon(small(kind)), random(2, 1, 37, 53)
    truth, trace = A(x), random(2, 1, 5, 81, seed=1) < 0.3
    y = truth.masked_fill(trace, 7.0)
    torch.testing.assert_close(rebuilt(A, y, trace, x), truth)
    torch.testing.assert_close(normalised(y, trace, truth), truth)


def test_normalised_interpolation_is_that_of_the_quotient() -> None:
    projected = 1 + random(1, 1, 20, 53)
    trace = random(1, 1, 20, 53, seed=1) < 0.3
    y = random(1, 1, 20, 53, seed=2)
    expected = projected * interpolated(y / projected, trace)
    covered = trace.all(-1, keepdim=True)
    torch.testing.assert_close(normalised(y, trace, projected)[trace & ~covered], expected[trace & ~covered])


def test_prior_flattens_soft_tissue_and_keeps_the_rest() -> None:
    x, metal = body(), inserts()
    prior = tissue_prior(x.masked_fill(metal, 1.0), metal)
    soft = disc(0, 0, 35) & ~disc(-15, 12, 14) & ~disc(-2, -25, 9) & ~disc(20, 18, 8)
    torch.testing.assert_close(prior[0, 0, soft], torch.full((int(soft.sum()),), WATER_ATTENUATION))
    for inner in (disc(-15, 12, 5), disc(-2, -25, 1.5), ~disc(0, 0, 46)):
        torch.testing.assert_close(prior[0, 0, inner], x[0, 0, inner], rtol=0.01, atol=1e-7)


@pytest.mark.parametrize("name", ["titanium", "iron"])
def test_nmar_is_no_worse_than_linear_interpolation_and_that_better_than_nothing(name: str) -> None:
    x, metal, scan = body(), inserts(), MetalScan(fan(), name)
    A, y = scan.operator, scan.scan(x, metal, torch.Generator().manual_seed(0))
    li, once, twice = linear_interpolation(A, y, metal), nmar(A, y, metal, 1), nmar(A, y, metal)
    errors = [error(image, x, metal) for image in (twice, once, li, A.fbp(y))]
    assert errors[0] <= errors[1] <= errors[2] < 0.6 * errors[3]


def test_without_metal_the_methods_are_filtered_backprojection() -> None:
    A, none = Radon(fan()), inserts() & False
    y = A(body())
    for method in (linear_interpolation, nmar):
        assert torch.equal(method(A, y, none), A.fbp(y))


def test_batch_of_two_equals_two_runs() -> None:
    x = torch.cat((body(), body().flip(-1)))
    metal = torch.cat((inserts(), inserts().flip(-2)))
    A = Radon(fan())
    y = A(x + metal.float())
    both = nmar(A, y, metal)
    for i in range(2):
        one = nmar(A, y[i : i + 1], metal[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], one, rtol=1e-5, atol=1e-7)


def test_virtual_scan_sees_the_whole_slice_in_every_view() -> None:
    geometry = virtual_scan((37, 53), (0.9, 0.7))
    x = random(1, 1, 37, 53)
    mass = float(x.sum()) * 0.9 * 0.7
    in_view = Radon(geometry)(x).sum(-1) * geometry.bin_mm
    assert geometry.bin_mm == pytest.approx(0.35)
    torch.testing.assert_close(in_view, torch.full_like(in_view, mass), rtol=0.02, atol=0)


@pytest.fixture(scope="module")
def image_only() -> ImageOnly:
    return ImageOnly((SIZE, SIZE), (PIXEL_MM, PIXEL_MM))


def test_image_without_metal_comes_back(image_only: ImageOnly) -> None:
    x = body() + 1e-3 * random(1, 1, SIZE, SIZE)
    assert torch.equal(image_only(x, inserts() & False), x)


def test_image_is_unchanged_far_from_metal_that_left_no_artifacts(image_only: ImageOnly) -> None:
    metal = disc(0, 0, 2)[None, None]
    axis = (torch.arange(SIZE) - (SIZE - 1) / 2) / 25
    bump = WATER_ATTENUATION * torch.exp(-(axis[:, None] ** 2 + axis**2) / 2)
    x = bump[None, None].masked_fill(metal, 0.06)
    corrected = image_only(x, metal)
    far = ~disc(0, 0, 12)
    assert torch.equal(corrected[0, 0, far], x[0, 0, far])
    assert torch.equal(corrected[metal], x[metal])
    assert (corrected != x).any()


def test_artifacts_in_the_image_get_less(image_only: ImageOnly) -> None:
    x, metal, scan = body(), inserts(), MetalScan(fan())
    A = scan.operator
    corrupted = A.fbp(scan.scan(x, metal, torch.Generator().manual_seed(0)))
    before = error(corrupted, x, metal)
    for method in (linear_interpolation, nmar):
        corrected = image_only(corrupted, metal, method)
        assert torch.equal(corrected[metal], corrupted[metal])
        assert error(corrected, x, metal) < 0.8 * before
    filled = image_only(corrupted, metal, keep_metal=False)
    assert torch.equal(filled[~metal], corrected[~metal])
    assert (filled[metal] < 2 * WATER_ATTENUATION).all()


def test_what_changed_is_within_what_tissue_can_be_and_the_rest_keeps_its_value() -> None:
    original = np.array([[-3024.0, -2000.0, 20000.0, 5000.0, 40.0]], np.float32)
    corrected = np.array([[-3024.0, -2500.0, 20000.0, 4000.0, 41.0]], np.float32)
    expected = np.array([[-3024.0, -1024.0, 20000.0, 3071.0, 41.0]], np.float32)
    found = within_tissue(corrected, original)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
