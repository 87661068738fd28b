"""Promises of measured sinograms: what the numbers of a file are is known, told, or asked for."""

from __future__ import annotations

import functools
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.errors import InputError, ShapeError
from deepgsr_cli.formats.sinograms import Sinograms
from deepgsr_cli.tomography.geometry import Geometry, even_angles
from deepgsr_cli.tomography.geometry_files import write_geometry
from tests.samples import saved_matlab

VIEWS, BINS, SLICES = 24, 40, 3
LIGHT, DARK = 20000.0, 300.0


def integrals(shift: float = 0.0) -> np.ndarray:
    """Chords of a disk, (V, N), with air around it: up to 2."""
    at = np.linspace(-1.6, 1.6, BINS) + shift * np.sin(np.arange(VIEWS))[:, None] * 0.1
    return 2 * np.sqrt(np.maximum(1 - at**2, 0))


Y = integrals()


def exchange(path: Path, **arrays: np.ndarray | None) -> Path:
    """Counts of three equal slices, with those without the object and without light, in one file."""
    counts = np.rint(DARK + LIGHT * np.exp(-Y)).astype(np.uint16)
    held = {
        "data": np.repeat(counts[:, None], SLICES, 1),
        "data_white": np.full((2, SLICES, BINS), DARK + LIGHT, np.uint16),
        "data_dark": np.full((2, SLICES, BINS), DARK, np.uint16),
        **arrays,
    }
    with h5py.File(path, "w") as file:
        for name, array in held.items():
            if array is not None:
                file[f"exchange/{name}"] = array
    return path


def read(path: Path, values: str | None = None) -> np.ndarray:
    sinograms = Sinograms(path, VIEWS, BINS, values)
    return sinograms.read(sinograms.num_slices - 1)


def saved(path: Path, y: np.ndarray, **arrays: np.ndarray) -> Path:
    if path.suffix == ".tif":
        tifffile.imwrite(path, y)
    elif path.suffix == ".npz":
        np.savez(path, sinogram=y, **arrays)
    else:
        np.save(path, y)
    return path


def test_counts_become_integrals_by_white_and_dark(tmp_path):
    np.testing.assert_allclose(read(exchange(tmp_path / "a.h5")), Y, atol=2e-3)
    one = exchange(tmp_path / "b.h5", data_white=np.full((SLICES, BINS), DARK + LIGHT))
    np.testing.assert_allclose(read(one), Y, atol=2e-3)
    counts = np.rint(DARK + LIGHT * np.exp(-Y)).astype(np.uint16)
    white, dark = np.full(BINS, DARK + LIGHT), np.full((1, BINS), DARK)
    np.testing.assert_allclose(read(saved(tmp_path / "c.npz", counts, white=white, dark=dark)), Y, atol=2e-3)


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_stack_that_lacks_pages_is_refused(tmp_path, bigtiff):
    stack = np.stack([Y] * SLICES).astype(np.float32)
    tifffile.imwrite(tmp_path / "y.tif", stack, photometric="minisblack", metadata=None, bigtiff=bigtiff)
    with tifffile.TiffFile(tmp_path / "y.tif") as tiff:
        last = tiff.pages[-1].offset
    whole = (tmp_path / "y.tif").read_bytes()
    (tmp_path / "y.tif").write_bytes(whole[:last])
    with pytest.raises(InputError, match=r"cannot be read \(it was cut short after 2 pages\)"):
        Sinograms(tmp_path / "y.tif", VIEWS, BINS)


def test_bytes_that_readers_stumble_over_are_one_sentence(tmp_path):
    (tmp_path / "y.tif").write_bytes(b"II")
    with pytest.raises(InputError, match=r"cannot be read .*; export it again"):
        Sinograms(tmp_path / "y.tif", VIEWS, BINS)
    (tmp_path / "y.tif").write_bytes(b"II*\0" + bytes(8))
    with pytest.raises(InputError, match=r"cannot be read \(it has no pages\); export it again"):
        Sinograms(tmp_path / "y.tif", VIEWS, BINS)


@pytest.mark.parametrize("options", [{"imagej": True}, {"photometric": "minisblack"}], ids=str)
def test_a_stack_in_one_page_is_read_whole(tmp_path, options):
    stack = np.stack([integrals(shift) for shift in range(SLICES)]).astype(np.float32)
    tifffile.imwrite(tmp_path / "y.tif", stack, truncate=True, **options)
    sinograms = Sinograms(tmp_path / "y.tif", VIEWS, BINS)
    assert sinograms.num_slices == SLICES
    np.testing.assert_array_equal([sinograms.read(i) for i in range(SLICES)], stack)


def test_one_number_without_the_object_is_that_of_all_bins(tmp_path):
    counts = np.rint(DARK + LIGHT * np.exp(-Y))
    y = read(saved(tmp_path / "a.npz", counts, white=np.array(DARK + LIGHT), dark=np.array(DARK)))
    np.testing.assert_allclose(y, Y, atol=2e-3)


def test_a_ray_that_nothing_comes_through_is_taken_as_the_least_that_can_be_told(tmp_path):
    counts = np.rint(LIGHT * np.exp(-Y))
    counts[3, 5], counts[4, 6], counts[5, 7] = 0, -20, 1
    path = saved(tmp_path / "a.npz", counts, white=np.full(BINS, LIGHT))
    y = read(path)
    np.testing.assert_allclose([y[3, 5], y[4, 6], y[5, 7]], np.log(LIGHT), rtol=1e-6)
    # With fractions of a count in the mean of the dark, too.
    dark = np.full(BINS, 0.999)
    y = read(saved(tmp_path / "b.npz", counts, white=np.full(BINS, LIGHT), dark=dark))
    assert y.max() < np.log(LIGHT) + 0.01
    share = np.exp(-Y)
    share[3, 5] = 0
    y = read(saved(tmp_path / "c.npy", share), "transmission")
    assert y[3, 5] == y.max() == pytest.approx(Y.max())
    assert read(saved(tmp_path / "d.npy", np.zeros_like(Y)), "transmission").min() > 16


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tif"])
def test_shares_of_photons_are_recognised_and_taken_when_told(tmp_path, suffix):
    share = np.exp(-Y).astype(np.float32)
    path = saved(tmp_path / f"share{suffix}", share)
    with pytest.raises(InputError, match=r"is highest, 1, at the ends .* as I / I0 is; give values transm"):
        read(path)
    np.testing.assert_allclose(read(path, "transmission"), Y, atol=1e-5)
    np.testing.assert_allclose(read(path, "integrals"), share)


@pytest.mark.parametrize(
    "y",
    [
        Y,
        Y[:, 10:30].repeat(2, 1),
        0.3 * Y,
        np.full_like(Y, 0.9),
        integrals(1.0) - 0.01,
    ],
    ids=["whole", "no air", "weak", "flat", "below 0"],
)
def test_integrals_are_not_taken_for_something_else(tmp_path, y):
    y = y.astype(np.float32)
    np.testing.assert_array_equal(read(saved(tmp_path / "y.npy", y)), y)


def test_whole_numbers_without_white_are_asked_about(tmp_path):
    for path in (
        exchange(tmp_path / "a.h5", data_white=None),
        saved(tmp_path / "a.tif", np.uint16(9 * Y)),
        saved(tmp_path / "a.npy", np.int32(9 * Y)),
    ):
        with pytest.raises(InputError, match=r"holds whole numbers, .* or values integrals if it is that"):
            read(path)
    np.testing.assert_array_equal(read(tmp_path / "a.npy", "integrals"), np.int32(9 * Y))
    with pytest.raises(InputError, match="is counts, and the file has none without the object"):
        read(tmp_path / "a.npy", "counts")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            {"data_white": np.ones((2, 2, BINS), np.uint16)},
            "data_white is 2 x 2 x 40 of uint16, but /exchang",
        ),
        ({"data_dark": np.ones((2, SLICES, 7))}, "data_dark is 2 x 3 x 7 of float64, .* has 3 rows of 40"),
        ({"data_white": np.ones((2, SLICES, BINS), complex)}, "data_white is .* of complex128"),
        ({"data_white": np.ones((0, SLICES, BINS))}, "data_white is empty"),
        ({"data_white": np.full((1, SLICES, BINS), np.nan)}, "without the object has NaN or infinity in 40"),
        (
            {
                "data_white": np.full((1, SLICES, BINS), DARK),
                "data_dark": np.full((1, SLICES, BINS), DARK + LIGHT),
            },
            "has counts of 300 without the object, and of 20300 without light; are white and dark mistaken",
        ),
        ({"data_dark": np.full((1, SLICES, BINS), 2e4)}, "is darker, in most places, than the 20000 counts"),
        ({"data_white": np.full((1, SLICES, BINS), 9e3)}, "is brighter in .* than without the object"),
    ],
)
def test_white_and_dark_that_do_not_fit_are_one_sentence(tmp_path, arrays, sentence):
    with pytest.raises(InputError, match=sentence):
        Sinograms(exchange(tmp_path / "a.h5", **arrays), VIEWS, BINS)


@pytest.fixture
def parallel(tmp_path) -> Path:
    geometry = Geometry("parallel", (16, 16), (4.0, 4.0), BINS, 2.5, even_angles(0, 180, VIEWS))
    write_geometry(geometry, tmp_path / "scan.json")
    return tmp_path / "scan.json"


def reconstruct(*arguments: object):
    return CliRunner().invoke(app, ["ct-recon", *map(str, arguments), "--method", "fbp", "--format", "npy"])


@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize("unit", [1.0, np.pi / 180])
def test_theta_that_runs_as_the_geometry_does_is_fine(tmp_path, parallel, sense, unit):
    theta = (30 + sense * np.arange(VIEWS) * 180 / VIEWS) * unit
    path = exchange(tmp_path / "a.h5", theta=theta)
    result = reconstruct(path, "--geometry", parallel, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("theta", [np.arange(VIEWS) * 15.0, np.arange(VIEWS + 1) * 7.5])
def test_theta_that_runs_otherwise_is_one_sentence_before_any_work(tmp_path, parallel, theta):
    path = exchange(tmp_path / "a.h5", theta=theta)
    result = reconstruct(path, "--geometry", parallel, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()
    assert f"its theta is of {len(theta)} views over" in result.stderr.replace("\n", " ")


def test_values_are_for_sinograms_and_of_three_kinds(tmp_path, parallel):
    path = saved(tmp_path / "share.npy", np.exp(-Y).astype(np.float32))
    result = reconstruct(path, "--geometry", parallel, "--values", "photons", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "known are integrals, counts, transmission" in result.stderr
    result = reconstruct(tmp_path, "--values", "counts", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "is for measured sinograms" in result.stderr
    result = reconstruct(path, "--geometry", parallel, "--values", "transmission", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output


def test_arrays_of_shares_are_recognised_too():
    from deepgsr_cli import reconstruct_ct

    geometry = Geometry("parallel", (16, 16), (4.0, 4.0), BINS, 2.5, even_angles(0, 180, VIEWS))
    with pytest.raises(ShapeError, match="as I / I0 is; give -ln of it"):
        reconstruct_ct(np.exp(-Y), geometry, method="fbp")


# MATLAB files of a laboratory's scanner, with the parameters of the scan

SOURCE_MM, LENGTH_MM, CELL_MM, CELLS = 400.0, 550.0, 1.5, 80
WATER = 0.0192


@functools.cache
def marched(angles_deg: tuple[float, ...]) -> np.ndarray:
    """Sinogram, (V, N), of a disk of water with a denser one in it, up and to the right, by marching rays.

    Without our geometry or projector: at 0 degrees the source is below, it goes round counter-clockwise, and
    cells count from left to right as it sees them.
    """
    step = np.arange(0, LENGTH_MM, 0.25)
    cells = (np.arange(CELLS) - (CELLS - 1) / 2) * CELL_MM
    views = []
    for angle in np.radians(angles_deg):
        right, ahead = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        source = -SOURCE_MM * ahead
        towards = LENGTH_MM * ahead + cells[:, None] * right
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        x, y = np.moveaxis(source + step[:, None, None] * towards, -1, 0)
        water, dense = np.hypot(x - 2, y + 3) < 35, np.hypot(x - 12, y - 9) < 8
        views.append(WATER * (water + 0.3 * dense).sum(0) * 0.25)
    return np.array(views)


def laboratory(path: Path, version: str, angles_deg: np.ndarray, **changes: object) -> Path:
    parameters = {
        "geometryType": "Cone",
        "distanceSourceOrigin": SOURCE_MM,
        "distanceSourceDetector": LENGTH_MM,
        "distanceUnit": "mm",
        "angles": angles_deg,
        "pixelSizePost": CELL_MM,
        "numDetectorsPost": CELLS,
        **changes,
    }
    parameters = {name: value for name, value in parameters.items() if value is not None}
    scan = {"type": "2d", "sinogram": marched(tuple(angles_deg)), "parameters": parameters}
    return saved_matlab(path, {"CtDataLimited": scan}, version)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_a_laboratory_file_has_right_places_and_values(tmp_path, version):
    path = laboratory(tmp_path / "scan.mat", version, np.arange(180) * 2.0)
    result = reconstruct(path, "-o", tmp_path / "out.npy", "--strict")
    assert result.exit_code == 0, result.output
    assert "the geometry is that of the files' parameters" in result.stderr
    hu = np.load(tmp_path / "out.npy")
    assert hu.shape == (CELLS, CELLS)
    pixel_mm = CELL_MM * SOURCE_MM / LENGTH_MM
    row, column = np.mgrid[:CELLS, :CELLS] - (CELLS - 1) / 2
    x, y = column * pixel_mm, -row * pixel_mm
    dense, water = np.hypot(x - 12, y - 9) < 5, (np.hypot(x - 2, y + 3) < 30) & (np.hypot(x - 12, y - 9) > 12)
    assert abs(hu[dense].mean() - 300) < 10
    assert abs(hu[water].mean()) < 10


def test_arcs_of_a_laboratory_go_to_the_iterative_methods_each_with_its_own_angles(tmp_path):
    for start in (0.0, 100.0):
        laboratory(tmp_path / f"{start:g}.mat", "5", start + np.arange(90) * 1.0)
    arguments = [tmp_path / "0.mat", tmp_path / "100.mat", "-o", tmp_path / "out", "--format", "npy"]
    few = ["--method", "sirt", "--iterations", "50"]
    result = CliRunner().invoke(app, ["ct-recon", *map(str, arguments), *few])
    assert result.exit_code == 0, result.output
    for name in ("0", "100"):
        assert np.load(tmp_path / "out" / f"{name}.npy")[40, 40] > -300
    result = CliRunner().invoke(app, ["ct-recon", *map(str, arguments), "--method", "fbp", "--overwrite"])
    assert result.exit_code == 1
    assert "the views cover 90 degrees" in result.stderr


def test_metal_is_corrected_in_a_laboratory_file(tmp_path):
    path = laboratory(tmp_path / "scan.mat", "5", np.arange(180) * 2.0)
    arguments = ["mar", path, "-o", tmp_path / "out.npy", "--method", "li", "--metal-threshold", "1000"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"distanceSourceOrigin": None}, "distanceSourceOrigin is missing in the file's parameters"),
        ({"angles": None}, "angles are missing"),
        ({"distanceUnit": "inch"}, "distanceUnit is inch; known are mm, cm, m"),
        ({"geometryType": "helix"}, "geometryType is helix"),
        ({"numDetectorsPost": 79}, "a sinogram of 90 x 80, but --geometry has 90 views x 79 bins"),
        ({"distanceSourceDetector": 100.0}, "detector_mm is -300; give the distance"),
    ],
)
def test_parameters_that_do_not_fit_are_one_sentence(tmp_path, changes, sentence):
    path = laboratory(tmp_path / "scan.mat", "5", np.arange(90) * 4.0, **changes)
    result = reconstruct(path, "-o", tmp_path / "out.npy")
    assert result.exit_code == 1
    assert sentence in result.stderr.replace("\n", " ")


def test_a_matlab_file_without_parameters_needs_a_geometry_file(tmp_path, parallel):
    path = saved_matlab(tmp_path / "y.mat", {"sinogram": Y}, "7.3")
    result = reconstruct(path, "-o", tmp_path / "out.npy")
    assert result.exit_code == 1
    assert "says nothing of its geometry; give --geometry FILE" in result.stderr.replace("\n", " ")
    result = reconstruct(path, "-o", tmp_path / "out.npy", "--geometry", parallel)
    assert result.exit_code == 0, result.output
    path = saved_matlab(tmp_path / "z.mat", {"first": Y, "second": Y}, "5")
    with pytest.raises(InputError, match="has first, second; call the array to use sinogram"):
        Sinograms(path, VIEWS, BINS)
