import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from deepgsr_cli.compute.kernels import compiled
from deepgsr_cli.errors import DeviceError, InputError, OptionError, ShapeError
from deepgsr_cli.tomography import projectors
from deepgsr_cli.tomography.attenuation import attenuation_to_hu, hu_to_attenuation
from deepgsr_cli.tomography.fbp import FILTERS, fbp_weights
from deepgsr_cli.tomography.geometry import KINDS, Geometry, mar_640, sparse_view
from deepgsr_cli.tomography.geometry_files import read_geometry, write_geometry
from deepgsr_cli.tomography.radon import Radon
from tests.waiting import META, NoWaiting

ENGINES = ("numba", "csr", "torch")
FULL_TURN = tuple(2 * math.pi * i / 360 for i in range(360))


def small(kind: str, **changes: object) -> Geometry:
    """Odd, not square, with oblong pixels, a shifted detector and angles in no order."""
    fan = {} if kind == "parallel" else {"source_mm": 60.0, "detector_mm": 25.0}
    values = {
        "kind": kind,
        "shape": (37, 53),
        "pixel_mm": (0.9, 0.7),
        "num_bins": 61,
        "bin_mm": 0.8 if kind == "parallel" else 1.2,
        "angles_rad": (0.0, math.pi / 2, 0.3, 5.1, -2.2, math.pi / 4, 3.0),
        "offset_bins": 0.25,
        **fan,
    }
    return Geometry(**(values | changes))


def covering(
    kind: str, size: int = 128, *, angles: tuple[float, ...] = FULL_TURN, finer: float = 1
) -> Geometry:
    """Square pixels of 1.5 mm and a detector that covers them, with bins of about a pixel over `finer`."""
    num_bins = math.ceil(1.5 * size * finer)
    if kind == "parallel":
        return Geometry(kind, (size, size), (1.5, 1.5), num_bins, 1.5 / finer, angles)
    source, detector = 3.2 * size, 1.6 * size
    return Geometry(kind, (size, size), (1.5, 1.5), num_bins, 2.25 / finer, angles, source, detector)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)) - 0.3


def ray_lines(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Normal angle and signed distance from the isocentre, (V, N), of each ray: cos x + sin y = distance."""
    theta = np.array(geometry.angles_rad)[:, None]
    t = (np.arange(geometry.num_bins) - (geometry.num_bins - 1) / 2 + geometry.offset_bins) * geometry.bin_mm
    if geometry.kind == "parallel":
        return np.broadcast_to(theta, (len(theta), len(t))), np.broadcast_to(t, (len(theta), len(t)))
    length = geometry.source_mm + geometry.detector_mm
    fan = np.arctan2(t, length) if geometry.kind == "fan-flat" else t / length
    return theta - fan, np.broadcast_to(geometry.source_mm * np.sin(fan), (len(theta), len(t)))


def pixel_centres(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """x to the right and y up, in mm from the isocentre, (H, W)."""
    (height, width), (dy, dx) = geometry.shape, geometry.pixel_mm
    row, column = np.mgrid[:height, :width]
    return (column - (width - 1) / 2) * dx, ((height - 1) / 2 - row) * dy


def gaussian(
    geometry: Geometry, x0: float, y0: float, widths: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """An oblong Gaussian at (x0, y0) with its axes along x and y, and its exact sinogram, (V, N)."""
    (a, b), (x, y), (angle, distance) = widths, pixel_centres(geometry), ray_lines(geometry)
    image = np.exp(-((x - x0) ** 2) / (2 * a**2) - (y - y0) ** 2 / (2 * b**2))
    variance = (a * np.cos(angle)) ** 2 + (b * np.sin(angle)) ** 2
    offset = distance - x0 * np.cos(angle) - y0 * np.sin(angle)
    return image, a * b * np.sqrt(2 * np.pi / variance) * np.exp(-(offset**2) / (2 * variance))


def disk(geometry: Geometry, x0: float, y0: float, radius: float, fine: int = 8) -> np.ndarray:
    """Share of each pixel, (H, W), within a disk, from `fine` x `fine` points a pixel."""
    x, y = pixel_centres(geometry)
    (dy, dx), points = geometry.pixel_mm, (np.arange(fine) + 0.5) / fine - 0.5
    return np.mean(
        [(x + i * dx - x0) ** 2 + (y + j * dy - y0) ** 2 <= radius**2 for i in points for j in points], axis=0
    )


def disk_sinogram(geometry: Geometry, x0: float, y0: float, radius: float) -> np.ndarray:
    angle, distance = ray_lines(geometry)
    offset = distance - x0 * np.cos(angle) - y0 * np.sin(angle)
    return 2 * np.sqrt(np.maximum(radius**2 - offset**2, 0))


def tensor(array: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(array).to(dtype)[None, None]


def relative_error(estimate: torch.Tensor | np.ndarray, reference: torch.Tensor | np.ndarray) -> float:
    estimate, reference = np.asarray(estimate), np.asarray(reference)
    return float(np.linalg.norm(estimate - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_adjoint_is_the_adjoint(kind, engine, dtype, bound):
    A = Radon(small(kind), engine=engine, dtype=dtype)
    x, y = random(2, 1, *A.domain_shape, dtype=dtype), random(2, 1, *A.range_shape, dtype=dtype, seed=1)
    Ax, Aty = A(x), A.adjoint(y)
    assert abs((Ax * y).sum() - (x * Aty).sum()) <= bound * Ax.norm() * y.norm()
    y.requires_grad_()
    image = A.fbp(y)
    (gradient,) = torch.autograd.grad(image, y, x)
    assert abs((image * x).sum() - (y * gradient).sum()) <= bound * image.norm() * x.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_derivatives_are_right(engine):
    tiny = {
        "shape": (4, 3),
        "pixel_mm": (4.0, 6.0),
        "num_bins": 5,
        "bin_mm": 6.0,
        "angles_rad": (0.3, 2.0, 5.0),
    }
    A = Radon(small("fan-arc", **tiny), engine=engine, dtype=torch.float64)
    x, y = random(1, 1, *A.domain_shape).requires_grad_(), random(1, 1, *A.range_shape).requires_grad_()
    assert torch.autograd.gradcheck(A, x)
    assert torch.autograd.gradcheck(A.adjoint, y)
    assert torch.autograd.gradcheck(A.fbp, y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["csr", "torch"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_engines_agree(kind, engine, dtype, bound):
    geometry = small(kind)
    A, B = Radon(geometry, engine="numba", dtype=dtype), Radon(geometry, engine=engine, dtype=dtype)
    x, y = random(2, 1, *A.domain_shape, dtype=dtype), random(2, 1, *A.range_shape, dtype=dtype)
    assert relative_error(B(x), A(x)) <= bound
    assert relative_error(B.adjoint(y), A.adjoint(y)) <= bound
    assert relative_error(B.fbp(y), A.fbp(y)) <= bound


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_equals_its_images_and_every_operation_is_linear(engine):
    A = Radon(small("fan-arc"), engine=engine, dtype=torch.float64)
    x, y = random(3, 1, *A.domain_shape), random(3, 1, *A.range_shape)
    for operation, values in ((A, x), (A.adjoint, y), (A.fbp, y)):
        batch = operation(values)
        torch.testing.assert_close(batch, torch.cat([operation(v[None]) for v in values]))
        combined = operation(2 * values[:1] - 3 * values[1:2])
        torch.testing.assert_close(combined, 2 * batch[:1] - 3 * batch[1:2])


@pytest.mark.parametrize("engine", ENGINES)
def test_rays_that_are_wanted_are_those_of_all_and_the_others_are_zero(engine):
    A = Radon(small("fan-flat"), engine=engine, dtype=torch.float64)
    x = random(2, 1, *A.domain_shape)
    where = random(2, 1, *A.range_shape, seed=1) > 0.4
    torch.testing.assert_close(A(x, where), A(x) * where)
    assert not A(x, where & False).any()
    y = random(2, 1, *A.range_shape, seed=2)
    x.requires_grad_()
    (A(x, where) * y).sum().backward()
    torch.testing.assert_close(x.grad, A.adjoint(y * where))


def test_lines_of_zeros_change_nothing():
    A = Radon(small("fan-arc"), engine="numba")
    x = torch.zeros(1, 1, *A.domain_shape)
    assert not A(x).any()
    x[..., 20:24, 30:33] = 0.02
    dot = torch.zeros_like(x)
    dot[..., 0, 0], dot[..., -1, -1] = 0.5, 0.5  # with it no line is left out
    torch.testing.assert_close(A(x + dot) - A(dot), A(x), atol=1e-6, rtol=0)


def test_results_do_not_depend_on_the_number_of_threads():
    A = Radon(small("fan-flat"), engine="numba")
    x, y = (
        random(2, 1, *A.domain_shape, dtype=torch.float32),
        random(2, 1, *A.range_shape, dtype=torch.float32),
    )
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append((A(x), A.adjoint(y), A._smear(y), A._smear_adjoint(x)))
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*results):
        assert torch.equal(one, three)


@pytest.mark.parametrize("kind", KINDS)
def test_a_smooth_image_has_its_analytic_sinogram(kind):
    geometry = dataclasses.replace(covering(kind, 256, angles=FULL_TURN[::23]), offset_bins=0.25)
    for pixel_mm, x0, y0 in (((1.5, 1.5), 21.3, -33.8), ((1.2, 1.5), -18.2, 40.1)):
        oblong = dataclasses.replace(geometry, pixel_mm=pixel_mm)
        image, sinogram = gaussian(oblong, x0, y0, (22.0, 30.0))
        assert relative_error(Radon(oblong)(tensor(image))[0, 0], sinogram) < 3e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_has_its_chord_lengths(kind):
    geometry = covering(kind, 256, angles=FULL_TURN[::23])
    image = disk(geometry, 30.2, -47.1, 90.3)
    assert (
        relative_error(Radon(geometry)(tensor(image))[0, 0], disk_sinogram(geometry, 30.2, -47.1, 90.3))
        < 1e-2
    )


def test_every_parallel_view_sums_to_the_mass_of_the_image():
    geometry = small("parallel", num_bins=160, bin_mm=0.4, offset_bins=0.0)
    x = tensor(gaussian(geometry, 2.0, -3.0, (3.0, 4.0))[0], torch.float64)
    mass = x.sum() * 0.9 * 0.7
    views = Radon(geometry, dtype=torch.float64)(x).sum(-1) * 0.4
    torch.testing.assert_close(views, mass.expand_as(views), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset_bins", [0.0, 0.25])
def test_a_reconstruction_is_where_the_object_is(kind, offset_bins):
    geometry = dataclasses.replace(covering(kind, 96), offset_bins=offset_bins)
    _, sinogram = gaussian(geometry, 18.7, 31.9, (4.0, 4.0))  # to the right of the centre, and above it
    image = Radon(geometry).fbp(tensor(sinogram))[0, 0].double().numpy()
    weight = np.where(image > 0.1 * image.max(), image, 0)
    row, column = np.mgrid[:96, :96]
    assert abs((weight * column).sum() / weight.sum() - (47.5 + 18.7 / 1.5)) < 0.05
    assert abs((weight * row).sum() / weight.sum() - (47.5 - 31.9 / 1.5)) < 0.05


def water_error_hu(geometry: Geometry, radius: float = 60.0, filter: str = "ram-lak") -> float:
    """Root mean square error within a water disk reconstructed from its exact sinogram, in HU."""
    sinogram = hu_to_attenuation(np.zeros(())) * disk_sinogram(geometry, 12.0, -9.0, radius)
    image = attenuation_to_hu(Radon(geometry).fbp(tensor(sinogram), filter)[0, 0].double().numpy())
    return float(np.sqrt(np.mean(image[disk(geometry, 12.0, -9.0, 0.9 * radius) == 1] ** 2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filter", FILTERS)
def test_water_is_0_hu(kind, filter):
    assert water_error_hu(covering(kind, finer=1.3), filter=filter) < 2


def test_water_is_0_hu_where_it_fills_the_detector():
    assert water_error_hu(covering("parallel", finer=1.3), radius=125.0) < 2


def test_water_is_0_hu_whichever_way_the_views_are_spread():
    crowded = np.array(FULL_TURN) + 0.6 * np.sin(FULL_TURN)
    shuffled = tuple(np.random.default_rng(0).permutation(crowded))
    clockwise = tuple(-a for a in FULL_TURN)
    for kind in KINDS:
        assert water_error_hu(covering(kind, angles=shuffled)) < 0.4
        assert water_error_hu(covering(kind, angles=clockwise)) < 0.4
    half_turn = tuple(math.pi * i / 360 for i in range(360))
    assert water_error_hu(covering("parallel", angles=half_turn)) < 0.4


@pytest.mark.parametrize("kind", ["fan-flat", "fan-arc"])
@pytest.mark.parametrize("extra_deg", [0, 30, 100])
def test_a_short_scan_of_a_fan_is_as_good_as_a_full_turn(kind, extra_deg):
    geometry = covering(kind)
    range_rad = math.pi + 2 * np.abs(geometry.fan_angles_rad()).max() + math.radians(extra_deg)
    angles = tuple(1.0 + range_rad * i / 360 for i in range(360))
    assert water_error_hu(dataclasses.replace(geometry, angles_rad=angles)) < 2


def test_a_fan_over_too_short_a_range_is_refused():
    geometry = covering("fan-flat", angles=tuple(math.radians(i) for i in range(120)))
    with pytest.raises(
        ShapeError, match=r"cover 120 degrees, but .* needs 2\d\d\.\d or more; use an iterative"
    ):
        Radon(geometry).fbp(torch.zeros(1, 1, *Radon(geometry).range_shape))


def phantom_errors_hu(geometry: Geometry) -> list[float]:
    """Mean errors in HU, of FBP of exact chord lengths, in water and in inserts of -500 and +500 HU."""
    water = hu_to_attenuation(np.zeros(()))
    disks = ((12.0, -9.0, 75.0, 1.0), (-20.0, 15.0, 12.0, -0.5), (30.0, 10.0, 9.0, 0.5))
    sinogram = sum(share * disk_sinogram(geometry, x, y, r) for x, y, r, share in disks)
    hu = attenuation_to_hu(Radon(geometry).fbp(tensor(water * sinogram), "hann")[0, 0].double().numpy())
    (x, y, r, _), *inserts = disks
    regions = [disk(geometry, x, y, r - 6) == 1]
    regions += [disk(geometry, x, y, r - 4) == 1 for x, y, r, _ in inserts]
    for x, y, r, _ in inserts:
        regions[0] &= disk(geometry, x, y, r + 6) == 0
    return [float(hu[region].mean() - wanted) for region, wanted in zip(regions, (0, -500, 500))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("missing", [12, 60, 110])
def test_a_shifted_detector_over_a_full_turn_is_as_good_as_an_even_one(kind, side, missing):
    even = covering(kind, finer=1.3)
    geometry = dataclasses.replace(
        even, num_bins=even.num_bins - missing, offset_bins=side * (missing / 2 + 0.25)
    )
    assert max(map(abs, phantom_errors_hu(geometry))) < 5


def test_what_opposite_rays_of_a_shifted_detector_count_is_one_together():
    geometry = dataclasses.replace(covering("parallel"), offset_bins=12.25)
    share, t = fbp_weights(geometry)[0] * 360 / (2 * math.pi), geometry.bin_positions_mm()
    both = t < -t[0]
    np.testing.assert_allclose(share[both] + np.interp(-t[both], t, share), 1, atol=1e-3)
    np.testing.assert_allclose(share[~both], 1)


@pytest.mark.parametrize(
    ("kind", "range_deg", "offset_bins", "message"),
    [
        ("parallel", 120, 0, r"cover 120 degrees, but .* parallel rays needs 180; use an iterative method"),
        ("parallel", 170, 0, "cover 170 degrees"),
        ("parallel", 180, 40, "one side of the detector sees .* over a full turn only; use an iterative"),
        ("fan-flat", 250, 40, "one side of the detector sees .* over a full turn only"),
        ("fan-arc", 360, 150, "does not reach to the central ray"),
    ],
)
def test_what_views_and_detector_do_not_see_is_refused(kind, range_deg, offset_bins, message):
    angles = tuple(math.radians(range_deg * i / 360) for i in range(360))
    A = Radon(dataclasses.replace(covering(kind, angles=angles), offset_bins=offset_bins))
    with pytest.raises(ShapeError, match=message):
        A.fbp(torch.zeros(1, 1, *A.range_shape))


def test_views_that_leave_out_two_ranges_are_refused():
    angles = tuple(math.radians(i + 40 * (i // 50)) for i in range(100))
    A = Radon(covering("parallel", angles=angles))
    with pytest.raises(ShapeError, match="leave out 2 ranges of the turn"):
        A.fbp(torch.zeros(1, 1, *A.range_shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_one_view_one_bin_and_one_pixel_are_enough(kind, engine):
    for changes in ({"angles_rad": (0.4,)}, {"num_bins": 1}, {"shape": (1, 1)}, {"angles_rad": (0.0,)}):
        A = Radon(small(kind, **changes), engine=engine)
        assert torch.isfinite(A.fbp(A(torch.ones(1, 1, *A.domain_shape)))).all()


def test_the_norm_is_the_largest_singular_value():
    A = Radon(small("fan-flat", shape=(9, 7), pixel_mm=(3.0, 4.0)), dtype=torch.float64)
    columns = A(torch.eye(63, dtype=torch.float64).view(63, 1, 9, 7)).flatten(1)
    assert A.norm() == pytest.approx(float(torch.linalg.svdvals(columns)[0]), rel=1e-3)


def test_hu_and_attenuation_are_inverse():
    hu = np.array([-1000.0, 0.0, 1000.0])
    np.testing.assert_allclose(hu_to_attenuation(hu), [0, 0.0192, 0.0384], atol=1e-15)
    np.testing.assert_allclose(attenuation_to_hu(hu_to_attenuation(hu)), hu, atol=1e-9)


@pytest.mark.parametrize("shape", [(512, 512), (128, 128), (300, 200)])
def test_the_sparse_views_cover_the_corners(shape):
    geometry = sparse_view(shape, (0.8, 0.8), 60)
    reach = geometry.source_mm * np.sin(-geometry.fan_angles_rad()[0])
    assert reach > geometry.radius_mm
    assert geometry.source_mm / geometry.radius_mm == pytest.approx(600 / math.hypot(200, 200))
    assert geometry.bin_mm / geometry.magnification / 0.8 == pytest.approx(1.0355, rel=2e-3)


def test_the_published_geometries_have_their_published_lengths():
    geometry = sparse_view((512, 512), (400 / 512, 400 / 512), 60)
    assert (geometry.num_bins, geometry.num_views) == (800, 60)
    assert (geometry.source_mm, geometry.detector_mm, geometry.bin_mm) == pytest.approx((600, 290, 1.2))
    geometry = mar_640()
    assert (geometry.shape, geometry.num_bins, geometry.num_views) == ((416, 416), 641, 640)
    assert geometry.source_mm == pytest.approx(396.923, abs=1e-3)
    assert geometry.bin_mm / geometry.pixel_mm[0] == pytest.approx(1.8356, abs=1e-4)


@pytest.mark.parametrize("suffix", [".toml", ".json"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_geometry_file_comes_back(tmp_path, suffix, kind):
    path, geometry = tmp_path / f"scan{suffix}", small(kind)
    write_geometry(geometry, path)
    back = read_geometry(path)
    np.testing.assert_allclose(back.angles_rad, geometry.angles_rad, atol=1e-14)
    assert dataclasses.replace(back, angles_rad=geometry.angles_rad) == geometry


FILE = 'kind = "parallel"\nshape = [8, 8]\npixel_mm = [1, 1]\nnum_bins = 12\nbin_mm = 1\n'


@pytest.mark.parametrize(("bins", "pixels"), [(1, 1), (4, 1), (2, 3)])
def test_a_refined_geometry_has_the_same_edges(bins, pixels):
    coarse = dataclasses.replace(small("fan-flat"), offset_bins=0.25)
    fine = coarse.refined(bins=bins, pixels=pixels)
    parts = fine.bin_positions_mm().reshape(-1, bins)
    np.testing.assert_allclose(parts.mean(1), coarse.bin_positions_mm(), atol=1e-9)
    assert fine.shape == tuple(pixels * n for n in coarse.shape)
    assert math.isclose(fine.radius_mm, coarse.radius_mm)


def test_angles_can_be_given_as_a_range(tmp_path):
    path = tmp_path / "scan.toml"
    path.write_text(FILE + "num_views = 4\nstart_deg = 10\nrange_deg = -180\n")
    np.testing.assert_allclose(np.degrees(read_geometry(path).angles_rad), [10, -35, -80, -125])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE, "there are no angles; give angles_deg, or num_views"),
        (FILE + "angles_deg = [0]\nnum_views = 3", "angles_deg and num_views exclude each other"),
        (FILE + "angles_deg = [0, nan]", "angles_deg is nan; give a finite number"),
        (FILE + "angles_deg = 4", "angles_deg is 4; give a list"),
        (FILE + "num_views = 0", "num_views is 0; give a whole number, 1 or more"),
        (FILE + "num_views = 3\nbins = 3", "bins is not known; give kind, shape"),
        (FILE.replace("bin_mm = 1\n", "num_views = 3\n"), "bin_mm is missing"),
        (FILE + "num_views =", "is not valid TOML"),
        (FILE + "num_views = 10000000", r"num_views is 1e\+07; give 65536 or less"),
        (FILE + "num_views = 3\nrange_deg = 0", "range_deg is 0, so all views are one; give the angle"),
        (FILE + "num_views = 3\nstart_deg = 1e9", r"start_deg is 1e\+09; give -36000 to 36000"),
    ],
)
def test_a_wrong_geometry_file_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "scan.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        read_geometry(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_geometry_file_may_begin_with_a_byte_order_mark(tmp_path, suffix):
    write_geometry(small("fan-flat"), tmp_path / f"scan{suffix}")
    text = (tmp_path / f"scan{suffix}").read_text()
    (tmp_path / f"marked{suffix}").write_text(text, encoding="utf-8-sig")
    assert read_geometry(tmp_path / f"marked{suffix}") == read_geometry(tmp_path / f"scan{suffix}")


def test_a_geometry_file_must_be_there_and_be_a_table(tmp_path):
    with pytest.raises(InputError, match=r"scan.toml: there is no such file; check the path"):
        read_geometry(tmp_path / "scan.toml")
    with pytest.raises(InputError, match=r"scan.yaml: .* ends in .toml or .json"):
        read_geometry(tmp_path / "scan.yaml")
    (tmp_path / "scan.json").write_text(json.dumps([1, 2]))
    with pytest.raises(InputError, match=r"scan.json: is not a table"):
        read_geometry(tmp_path / "scan.json")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("cone", {}, "kind is 'cone'; give one of parallel"),
        ("parallel", {"shape": (37,)}, "shape has 1 entries; give 2"),
        ("parallel", {"shape": (37, 5.5)}, "shape is 5.5; give a whole number"),
        ("parallel", {"pixel_mm": (1.0, 0.0)}, "pixel_mm is 0; give a number above 0"),
        ("parallel", {"num_bins": 0}, "num_bins is 0; give a whole number, 1 or more"),
        ("parallel", {"num_bins": "800"}, "num_bins is '800'; give a finite number"),
        ("parallel", {"bin_mm": -1.0}, "bin_mm is -1; give a number above 0"),
        ("parallel", {"angles_rad": ()}, "the list of angles is empty"),
        ("parallel", {"angles_rad": (0.0, math.inf)}, "angles_rad is inf; give a finite number"),
        ("parallel", {"source_mm": 60.0}, "but parallel rays have neither"),
        ("fan-flat", {"source_mm": 20.0}, "source_mm is 20, inside the slice, whose corners are 24.9"),
        ("fan-flat", {"detector_mm": -1.0}, "detector_mm is -1; give the distance"),
        ("fan-arc", {"bin_mm": 5.0}, "off the central ray, which must be below 90"),
        ("parallel", {"num_bins": 1e7}, r"num_bins is 1e\+07; give 65536 or less"),
        ("parallel", {"shape": (1e6, 5)}, r"shape is 1e\+06; give 32768 or less"),
        ("parallel", {"pixel_mm": (1e-8, 1.0)}, "pixel_mm is 1e-08; give 1e-06 to 100000"),
        ("parallel", {"bin_mm": 1e8}, r"bin_mm is 1e\+08; give 1e-06 to 100000"),
        ("fan-flat", {"source_mm": 1e12}, r"source_mm is 1e\+12; give 1e\+09 or less"),
        ("parallel", {"offset_bins": 80.0}, "offset_bins is 80, but the detector has 61 bins; give it in bi"),
    ],
)
def test_an_impossible_geometry_is_one_sentence(kind, changes, message):
    with pytest.raises(ShapeError, match=message):
        small(kind, **changes)


def test_wrong_input_is_refused(monkeypatch):
    geometry = small("parallel")
    A = Radon(geometry)
    with pytest.raises(
        ShapeError, match=r"image has shape \(37, 53\), but this geometry takes \(B, 1, 37, 53\)"
    ):
        A(torch.zeros(37, 53))
    with pytest.raises(ShapeError, match=r"sinogram has shape .* takes \(B, 1, 7, 61\)"):
        A.fbp(torch.zeros(1, 1, 8, 61))
    with pytest.raises(ShapeError, match=r"image is torch.float64, but the operator torch.float32"):
        A(torch.zeros(1, 1, 37, 53, dtype=torch.float64))
    with pytest.raises(OptionError, match="filter is ramp: give one of ram-lak"):
        A.fbp(torch.zeros(1, 1, 7, 61), filter="ramp")
    with pytest.raises(OptionError, match="engine is astra: give one of auto"):
        Radon(geometry, engine="astra")
    with pytest.raises(OptionError, match=r"dtype is torch.float16"):
        Radon(geometry, dtype=torch.float16)
    with pytest.raises(DeviceError, match="on meta, where engine numba does not run"):
        Radon(geometry, engine="numba")(torch.zeros(1, 1, 37, 53, device="meta"))
    monkeypatch.setattr(projectors, "MAX_MATRIX_BYTES", 1000)
    with pytest.raises(OptionError, match=r"engine is csr: its matrices would need .* GiB"):
        Radon(geometry, engine="csr")


def test_the_kernels_compile_where_no_folder_can_be_written(monkeypatch):
    caching = pytest.importorskip("numba.core.caching")

    def refuse(self):
        raise OSError

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    compiled.cache_clear()
    A = Radon(small("parallel"), engine="numba")
    try:
        assert A(torch.ones(1, 1, 37, 53)).sum() > 0
    finally:
        compiled.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_waits_for_no_device_once_it_was_used_there(kind):
    A = Radon(small(kind), engine="torch")

    def used():
        y = A(torch.empty(2, 1, *A.domain_shape, device=META))
        assert A.adjoint(y).device == A.fbp(y).device == META

    used()
    with NoWaiting():
        used()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["auto", "csr"])
def test_a_gpu_computes_the_same(kind, engine):
    A, B = Radon(small(kind), engine="numba"), Radon(small(kind), engine=engine)
    x, y = (
        random(2, 1, *A.domain_shape, dtype=torch.float32),
        random(2, 1, *A.range_shape, dtype=torch.float32),
    )
    assert relative_error(B(x.cuda()).cpu(), A(x)) <= 1e-5
    assert relative_error(B.adjoint(y.cuda()).cpu(), A.adjoint(y)) <= 1e-5
    assert relative_error(B.fbp(y.cuda()).cpu(), A.fbp(y)) <= 1e-5
