"""Promises of deepgsr ct-recon and deepgsr eval ct-recon: arrays, files and the command line."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import PIL.Image
import pydicom
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.ct.figures import body, compare, residual
from deepgsr_cli.ct.methods import Method, gaussian_blur, load_network, reconstruct, total_variation
from deepgsr_cli.ct.simulation import SimulatedScan, estimated_photons, noise_variance
from deepgsr_cli.errors import OptionError, WeightsError
from deepgsr_cli.formats.sinograms import Sinograms
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION, to_attenuation, to_hu
from deepgsr_cli.tomography.geometry import Geometry, sparse_view
from deepgsr_cli.tomography.geometry_files import read_geometry, write_geometry
from deepgsr_cli.tomography.radon import Radon
from tests.samples import PIXEL_MM, SIZE, body_hu, saved_slice

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kept_series(tmp_path_factory) -> Path:
    """A folder with a series of three slices, to copy."""
    folder = tmp_path_factory.mktemp("series")
    for k in range(3):
        saved_slice(
            folder / f"{k}.dcm",
            body_hu(k),
            ImagePositionPatient=["0", "0", str(2 * k)],
            InstanceNumber=k + 1,
        )
    return folder


@pytest.fixture
def series(tmp_path: Path, kept_series: Path) -> Path:
    """A folder with a series of three slices."""
    return shutil.copytree(kept_series, tmp_path / "scan")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command line in this process, in an empty folder, on the CPU."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object):
        return CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])

    return invoke


@pytest.fixture(scope="module")
def kept_scan(tmp_path_factory) -> Path:
    """A folder with a sinogram of a parallel scan and its geometry file, to copy."""
    folder = tmp_path_factory.mktemp("measured")
    angles = tuple(np.pi * i / 90 for i in range(90))
    geometry = Geometry("parallel", (SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 100, PIXEL_MM, angles)
    write_geometry(geometry, folder / "scan.toml")
    np.save(folder / "sinogram.npy", Radon(geometry)(to_attenuation(body_hu(), CPU))[0, 0].numpy())
    return folder


@pytest.fixture
def measured(tmp_path: Path, kept_scan: Path) -> tuple[Path, Path, np.ndarray]:
    """A sinogram of a parallel scan, its geometry file, and the HU that were scanned."""
    shutil.copytree(kept_scan, tmp_path, dirs_exist_ok=True)
    return tmp_path / "sinogram.npy", tmp_path / "scan.toml", body_hu()


# Arrays


def test_a_simulated_scan_measures_the_rays_lengths_through_water():
    hu = np.full((SIZE, SIZE), -1000, np.float32)
    hu[16:48, 8:56] = 0
    # Views 0 and 90 degrees of parallel rays run along columns and rows.
    angles = (0.0, np.pi / 2)
    geometry = Geometry("parallel", (SIZE, SIZE), (2.0, 2.0), SIZE, 2.0, angles)
    y = SimulatedScan(geometry)(to_attenuation(hu, CPU))
    expected = WATER_ATTENUATION * 2.0 * np.array([32.0, 48.0])
    np.testing.assert_allclose(y[0, 0, :, SIZE // 2], expected, rtol=1e-5)


def test_photon_noise_has_poissons_variance_and_depends_on_the_seed_alone():
    geometry = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 40)
    x = to_attenuation(body_hu(), CPU)
    clean, scan = SimulatedScan(geometry)(x), SimulatedScan(geometry, 1e4)
    y = scan(x, 3)
    torch.testing.assert_close(scan(x, 3), y, rtol=0, atol=0)
    assert not torch.equal(scan(x, 4), y)
    share = float((y - clean).square().sum() / noise_variance(clean, 1e4).sum())
    assert share == pytest.approx(1, abs=0.15)


def test_a_scan_that_nothing_comes_through_stays_finite():
    geometry = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 8)
    metal = torch.full((1, 1, SIZE, SIZE), 1.0)
    for photons in (None, 1e4):
        assert torch.isfinite(SimulatedScan(geometry, photons)(metal)).all()


@pytest.mark.parametrize("name", ["fbp", "sirt", "cgls", "tv"])
def test_each_method_reconstructs_and_the_iterative_ones_beat_fbp(name):
    geometry = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 12)
    x = to_attenuation(body_hu(), CPU)
    A, pixel_mm = Radon(geometry), (PIXEL_MM, PIXEL_MM)
    y = SimulatedScan(geometry, 1e5)(x)
    found = reconstruct(A, y, Method(name, 1e5))
    fbp = compare(A.fbp(y, "hann"), x, pixel_mm)
    figures = compare(found, x, pixel_mm)
    assert figures.psnr > (26 if name == "fbp" else fbp.psnr + 1)
    assert abs(figures.bias_hu) < 30


def test_total_variation_works_where_filtered_backprojection_does_not():
    # A quarter turn of a fan.
    full = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 40)
    limited = Geometry(**{**vars(full), "angles_rad": full.angles_rad[:10]})
    x = to_attenuation(body_hu(), CPU)
    found = reconstruct(Radon(limited), SimulatedScan(limited)(x), Method("tv", iterations=30))
    assert compare(found, x, (PIXEL_MM, PIXEL_MM)).psnr > 15


def test_figures_are_of_attenuation_in_range_and_of_the_body_alone():
    hu = body_hu()
    reference = to_attenuation(hu, CPU)
    off = reference + 0.0192 / 1000 * torch.where(torch.from_numpy(hu > -500), 7.0, -300.0)
    figures = compare(off, reference, (PIXEL_MM, PIXEL_MM))
    assert figures.bias_hu == pytest.approx(7, abs=1e-3)
    assert figures.rmse_hu == pytest.approx(7, abs=1e-3)
    clipped = (off.clamp(0, 0.05) - reference.clamp(0, 0.05)).double()
    assert figures.psnr == pytest.approx(-10 * math.log10(float(clipped.square().mean()) / 0.05**2), abs=1e-4)
    same = compare(reference, reference, (PIXEL_MM, PIXEL_MM))
    assert (same.psnr, same.ssim, same.rmse_hu, same.bias_hu) == (math.inf, 1, 0, 0)
    air = torch.zeros_like(reference)
    assert math.isnan(compare(air, air, (PIXEL_MM, PIXEL_MM)).rmse_hu)


def test_the_body_has_its_lungs_but_neither_table_nor_small_pieces():
    rows, columns = np.mgrid[:100, :100] - 49.5
    trunk = np.hypot(rows / 20, columns / 30) < 1
    lung = np.hypot(rows, columns - 12) < 8
    arm = np.hypot(rows, columns - 40.5) < 9
    hand, table = np.hypot(rows + 30, columns) < 4, (abs(rows - 30) < 1) & (abs(columns) < 35)
    noise = np.random.default_rng(0).normal(0, 200, lung.shape)
    hu = np.where(trunk | arm | hand | table, 0.0, -1000.0)
    hu = np.where(lung, -800 + noise, hu)
    found = body(to_attenuation(hu, CPU), (1.0, 1.0))
    expected = trunk | arm
    assert np.count_nonzero(found != expected) < 0.02 * expected.sum()
    assert found[lung].all()
    assert not found[hand | table].any()
    assert not body(to_attenuation(np.full((9, 9), -1000.0), CPU), (1.0, 1.0)).any()


def test_the_body_of_a_slice_of_less_than_a_millimetre_is_found():
    found = body(to_attenuation(body_hu(), CPU), (0.01, 0.01))
    assert np.count_nonzero(found != (body_hu() > -500)) < 0.02 * found.sum()


@pytest.mark.parametrize("photons", [None, 1e5])
def test_a_bias_of_the_network_does_not_reach_the_result(photons):
    geometry = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 60)
    A, x = Radon(geometry), to_attenuation(body_hu(), CPU)
    y = SimulatedScan(geometry, photons)(x)

    class Low(torch.nn.Module):
        def forward(self, A, y, condition):
            return 0.98 * x

    found = reconstruct(A, y, Method("deepgsr", photons), model=Low())
    figures = compare(found, x, (PIXEL_MM, PIXEL_MM))
    assert abs(figures.bias_hu) < 2  # of 20
    assert figures.rmse_hu < compare(0.98 * x, x, (PIXEL_MM, PIXEL_MM)).rmse_hu


@pytest.mark.parametrize("photons", [1e3, 1e4, 1e5])
def test_photons_are_estimated_from_the_noise(photons):
    geometry = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 60)
    x = to_attenuation(body_hu(), CPU)
    assert estimated_photons(SimulatedScan(geometry, photons)(x, 1)) == pytest.approx(photons, rel=0.15)
    y = SimulatedScan(geometry)(x)
    assert estimated_photons(y) > 1e6
    assert estimated_photons(torch.zeros_like(y)) is None
    assert estimated_photons(y[..., :6]) is None


def test_a_blur_keeps_the_sum_and_has_the_width():
    x = torch.zeros(1, 1, 61, 61, dtype=torch.float64)
    x[0, 0, 30, 30] = 1
    blurred = gaussian_blur(x, 3.0)
    assert float(blurred.sum()) == pytest.approx(1)
    squares = (torch.arange(61.0) - 30) ** 2
    for axis in (2, 3):
        along = blurred.sum(5 - axis).flatten()
        assert float((along * squares).sum()) == pytest.approx(9, rel=1e-2)


def test_total_variation_trusts_noisy_rays_less():
    geometry = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 24)
    A, x = Radon(geometry), to_attenuation(np.where(body_hu() > -500, body_hu() + 1500, body_hu()), CPU)
    y = SimulatedScan(geometry, 3e3)(x)
    weighted, plain = (total_variation(A, y, 0.05, photons, iterations=100) for photons in (3e3, None))
    thick = A(x) > 6
    assert 0.02 < float(thick.float().mean()) < 0.5
    errors = [(A(z) - y)[thick].norm() for z in (weighted, plain)]
    assert float(errors[0]) > 1.2 * float(errors[1])
    figures = [compare(z, x, (PIXEL_MM, PIXEL_MM)) for z in (weighted, plain)]
    assert figures[0].rmse_hu < figures[1].rmse_hu


def test_the_residual_is_relative_to_the_data():
    geometry = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 8)
    A, x = Radon(geometry), to_attenuation(body_hu(), CPU)
    assert residual(A(x) - A(x), A(x)) == 0
    assert residual(A(1.5 * x) - A(x), A(x)) == pytest.approx(0.5, rel=1e-5)


def test_hu_survive_the_way_to_attenuation_and_back():
    hu = body_hu()
    np.testing.assert_allclose(to_hu(to_attenuation(hu, CPU)), hu, atol=1e-3)
    assert float(to_attenuation(hu - 100, CPU).min()) == 0


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"name": "art"}, "method"),
        ({"filter": "box"}, "filter"),
        ({"photons": 0.0}, "photons"),
        ({"photons": math.nan}, "photons"),
        ({"iterations": 0}, "iterations"),
        ({"strength": 0.0}, "strength"),
    ],
)
def test_settings_out_of_range_are_refused(settings, option):
    with pytest.raises(OptionError) as caught:
        Method(**settings)
    assert (caught.value.option, [caught.value.value]) == (option, list(settings.values()))


def test_without_weights_the_error_names_the_methods_that_need_none(monkeypatch):
    def none(*_: object):
        raise WeightsError("none")

    monkeypatch.setattr("deepgsr_cli.weights.load.default_name", none)
    with pytest.raises(WeightsError, match="fbp, sirt, cgls or tv, which need none"):
        load_network(None, "cpu", offline=True)


# DICOM


def test_many_views_without_noise_give_the_slice_back(run, series):
    result = run(
        "ct-recon",
        series / "1.dcm",
        "-o",
        "out.dcm",
        "--views",
        360,
        "--method",
        "fbp",
        "--filter",
        "ram-lak",
    )
    assert result.exit_code == 0, result.output
    assert "simulated 360-view" in result.stderr
    assert "not for diagnosis" in result.stderr
    written = pydicom.dcmread("out.dcm")
    hu = written.pixel_array * float(written.RescaleSlope) + float(written.RescaleIntercept)
    error = (hu - body_hu(1))[body_hu(1) > -500]
    assert abs(error.mean()) < 4
    assert np.sqrt((error**2).mean()) < 10
    assert "PSNR" in result.stdout


def test_a_series_becomes_one_derived_series_in_hu(run, series):
    result = run("ct-recon", series, "-o", "out", "--method", "fbp", "--json", "--photons", "1e5")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(line["output"]).name for line in lines] == ["0.dcm", "1.dcm", "2.dcm"]
    assert all(line["scan"] == "simulated" and line["views"] == 60 and line["psnr"] > 25 for line in lines)
    sources = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    written = [pydicom.dcmread(line["output"]) for line in lines]
    assert len({slice.SeriesInstanceUID for slice in written}) == 1
    assert written[0].SeriesInstanceUID != sources[0].SeriesInstanceUID
    for source, slice in zip(sources, written):
        assert slice.StudyInstanceUID == source.StudyInstanceUID
        assert slice.ImagePositionPatient == source.ImagePositionPatient
        assert slice.ImageType[0] == "DERIVED"
        assert "simulated 60" in slice.SeriesDescription
        assert "100000 photons" in slice.DerivationDescription
        assert "not for diagnosis" in slice.DerivationDescription


def test_two_series_in_a_folder_become_two(run, series):
    for k in range(2):
        position = ["0", "0", str(3 * k)]
        saved_slice(
            series / f"other-{k}.dcm", body_hu(k), SeriesInstanceUID="1.2.3.9", ImagePositionPatient=position
        )
    assert run("ct-recon", series, "-o", "out", "--method", "fbp", "--views", 8).exit_code == 0
    uids = {path.name: pydicom.dcmread(path).SeriesInstanceUID for path in Path("out").iterdir()}
    assert len(uids) == 5
    assert len({uids[f"{k}.dcm"] for k in range(3)}) == 1
    assert len(set(uids.values())) == 2


def test_an_interrupted_series_is_completed_as_if_it_had_not_been(run, series):
    options = ("ct-recon", series, "-o", "out", "--method", "fbp", "--photons", "1e5", "--views", 20)
    assert run(*options).exit_code == 0
    whole = pydicom.dcmread("out/1.dcm")
    kept = Path("out/0.dcm").read_bytes()
    Path("out/1.dcm").unlink()
    refused = run(*options)
    assert refused.exit_code == 1
    assert "--skip-existing" in refused.stderr
    Path("out/1.dcm").unlink()
    result = run(*options, "--skip-existing", "--json")
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == [
        "skipped",
        "done",
        "skipped",
    ]
    again = pydicom.dcmread("out/1.dcm")
    assert again.PixelData == whole.PixelData
    assert (again.SOPInstanceUID, again.SeriesInstanceUID) == (whole.SOPInstanceUID, whole.SeriesInstanceUID)
    assert Path("out/0.dcm").read_bytes() == kept


def test_a_slices_noise_is_the_same_whichever_slices_are_done_with_it(run, series):
    options = ("--method", "fbp", "--photons", "1e5", "--views", 20)
    assert run("ct-recon", series, "-o", "all", *options).exit_code == 0
    assert run("ct-recon", series / "2.dcm", "-o", "one", *options).exit_code == 0
    assert pydicom.dcmread("all/2.dcm").PixelData == pydicom.dcmread("one/2.dcm").PixelData
    assert run("ct-recon", series / "2.dcm", "-o", "other", *options, "--seed", 1).exit_code == 0
    assert pydicom.dcmread("other/2.dcm").PixelData != pydicom.dcmread("one/2.dcm").PixelData


def test_results_in_the_folder_of_the_input_are_no_input(run, series):
    options = (
        "ct-recon",
        series,
        "-o",
        series / "out",
        "--method",
        "fbp",
        "--views",
        8,
        "--overwrite",
        "--json",
    )
    for _ in range(2):
        result = run(*options)
        assert result.exit_code == 0, result.output
        assert len(result.stdout.splitlines()) == 3


def test_results_of_earlier_runs_in_a_folder_of_sources_are_no_input(run, series):
    saved_slice(series / "3.dcm", body_hu(3), ImagePositionPatient=["0", "0", "6"], InstanceNumber=4)
    options = ("--method", "fbp", "--views", 8, "--json")
    for name in ("one", "two", "three"):
        result = run("ct-recon", series, "-o", series / name, *options)
        assert result.exit_code == 0, result.output
        assert len(result.stdout.splitlines()) == 4
        if name == "two":
            (series / "one/1.dcm").unlink()  # as if it had failed: its series then lacks a slice
    assert run("ct-recon", series / "two", "-o", "again", *options).stdout.count('"done"') == 4


def test_a_series_below_the_output_folder_is_input(run, series):
    assert run("ct-recon", "scan", "-o", ".", "--method", "fbp", "--views", 8).exit_code == 0
    assert Path("0.dcm").is_file()


def test_names_with_dots_are_kept_and_folders_too(run, tmp_path):
    (tmp_path / "in/a").mkdir(parents=True)
    saved_slice(tmp_path / "in/a/1.2.840.17", body_hu())
    assert run("ct-recon", "in", "-o", "out", "--method", "fbp", "--views", 8).exit_code == 0
    assert Path("out/a/1.2.840.17.dcm").is_file()


def test_pixels_that_are_not_square_are_handled(run, tmp_path):
    saved_slice(tmp_path / "in.dcm", body_hu()[:, ::2], PixelSpacing=["4", "8"])
    result = run("ct-recon", "in.dcm", "-o", "out.npy", "--method", "fbp", "--views", 360, "--json")
    assert result.exit_code == 0, result.output
    assert abs(json.loads(result.stdout)["bias_hu"]) < 10
    assert np.load("out.npy").shape == (SIZE, SIZE // 2)


def test_a_missing_pixel_size_is_asked_for_and_taken(run, tmp_path):
    saved_slice(tmp_path / "in.dcm", body_hu(), PixelSpacing=None)
    options = ("ct-recon", "in.dcm", "-o", "out.tif", "--method", "fbp", "--views", 8)
    assert "--pixel-mm" in run(*options).stderr
    assert run(*options, "--pixel-mm", PIXEL_MM).exit_code == 0
    with tifffile.TiffFile("out.tif") as tiff:
        assert json.loads(tiff.pages[0].description) == {"unit": "HU", "pixel_mm": [PIXEL_MM, PIXEL_MM]}
        assert tiff.pages[0].asarray().dtype == np.float32


def test_a_bad_slice_does_not_stop_the_others(run, series):
    damaged = series / "1.dcm"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    result = run("ct-recon", series, "-o", "out", "--method", "fbp", "--views", 8)
    assert result.exit_code == 1
    assert "cut short" in result.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == ["0.dcm", "2.dcm"]


def test_several_slices_do_not_fit_one_file(run, series):
    result = run("ct-recon", series, "-o", "out.dcm", "--method", "fbp")
    assert result.exit_code == 2
    assert "3 slices do not fit one file" in result.stderr


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(run, series):
    result = run("ct-recon", series, "-o", "out", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"write: {series / '0.dcm'} -> out/0.dcm"
    assert not Path("out").exists()


def test_the_window_shows_and_does_not_change_the_result(run, series):
    for name, window in (("a", "40,400"), ("b", "300,1500")):
        options = ("--method", "fbp", "--views", 20, "--window", window, "--report", f"{name}.html")
        assert run("ct-recon", series / "0.dcm", "-o", f"{name}.dcm", *options).exit_code == 0
    assert pydicom.dcmread("a.dcm").PixelData == pydicom.dcmread("b.dcm").PixelData
    pages = [Path(f"{name}.html").read_text() for name in "ab"]
    assert all("simulated" in page for page in pages)
    assert pages[0] != pages[1]


def labels(path: str) -> list[list[str]]:
    """Labels of the pictures of each slice in a report."""
    return [re.findall(r'alt="([^"]+)"', part) for part in Path(path).read_text().split("<template")[1:]]


def test_a_report_shows_the_reference_fbp_tv_and_the_errors_in_hu(run, series):
    options = ("--method", "sirt", "--iterations", 5, "--views", 20, "--report", "page.html")
    assert run("ct-recon", series, "-o", "out", *options).exit_code == 0
    methods = ["FBP", "SIRT", "TV"]
    errors = [f"Error of {name}, ±200 HU" for name in methods]
    assert labels("page.html") == [[*methods, "Reference", *errors]] * 3
    page = Path("page.html").read_text()
    assert all(words in page for words in ("PSNR FBP (dB)", "PSNR TV (dB)", "not for diagnosis"))


def test_a_report_of_a_measured_sinogram_has_no_reference(run, measured):
    path, geometry, _ = measured
    options = ("--geometry", geometry, "-o", "out.npy", "--method", "fbp", "--report", "page.html")
    assert run("ct-recon", path, *options).exit_code == 0
    assert labels("page.html") == [["FBP", "TV"]]


# Sinograms


def test_photons_of_a_measured_scan_are_estimated_unless_they_are_given(run, measured, tmp_path):
    _, geometry, hu = measured
    y = SimulatedScan(read_geometry(geometry), 1e4)(to_attenuation(hu, CPU), 1)
    np.save(tmp_path / "noisy.npy", y[0, 0].numpy())
    options = ("ct-recon", tmp_path / "noisy.npy", "--geometry", geometry, "--method", "fbp", "--json")
    result = run(*options, "-o", "a.npy")
    assert json.loads(result.stdout)["photons"] == pytest.approx(1e4, rel=0.15)
    assert "estimated from the noise of each slice" in result.stderr
    for given, photons in (("inf", None), ("2e4", 2e4)):
        result = run(*options, "-o", f"{given}.npy", "--photons", given)
        assert json.loads(result.stdout)["photons"] == photons
        assert "estimated" not in result.stderr


def test_a_measured_sinogram_becomes_hu(run, measured):
    path, geometry, hu = measured
    result = run(
        "ct-recon", path, "--geometry", geometry, "-o", "out.npy", "--method", "fbp", "--filter", "ram-lak"
    )
    assert result.exit_code == 0, result.output
    assert "measured sinogram" in result.stderr
    assert "residual" in result.stdout
    error = (np.load("out.npy") - hu)[hu > -500]
    assert abs(error.mean()) < 4
    assert run("ct-recon", path, "--geometry", geometry, "-o", "out.dcm", "--method", "fbp").exit_code == 0
    written = pydicom.dcmread("out.dcm")
    assert written.PixelSpacing == [PIXEL_MM, PIXEL_MM]
    assert written.PatientName == "ANONYMOUS"


def test_every_container_of_a_stack_gives_the_same_slices(run, measured):
    path, geometry, _ = measured
    y = np.load(path)
    stack = np.stack([y, 0.5 * y, y])
    np.save("stack.npy", stack)
    np.savez("stack.npz", sinogram=stack, other=np.zeros(3))
    tifffile.imwrite("stack.tif", stack, photometric="minisblack")
    with h5py.File("stack.h5", "w") as file:
        dark, white = 100.0, 60100.0
        file["exchange/data"] = (np.exp(-stack) * (white - dark) + dark).transpose(1, 0, 2)
        file["exchange/data_white"] = np.full((2, *stack.shape[::2]), white)
        file["exchange/data_dark"] = np.full((3, *stack.shape[::2]), dark)
    with h5py.File("integrals.h5", "w") as file:
        file["exchange/data"] = stack.transpose(1, 0, 2)
    results = []
    for i, name in enumerate(("stack.npy", "stack.npz", "stack.tif", "stack.h5", "integrals.h5")):
        result = run(
            "ct-recon",
            name,
            "--geometry",
            geometry,
            "-o",
            f"out-{i}",
            "--method",
            "fbp",
            "--format",
            "npy",
        )
        assert result.exit_code == 0, result.output
        stem = Path(name).stem
        results.append(np.stack([np.load(f"out-{i}/{stem}_{j:04}.npy") for j in (1, 2, 3)]))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=0.5)
    assert not np.allclose(results[0][0], results[0][1])
    assert run("ct-recon", "stack.npy", "--geometry", geometry, "-o", "d", "--method", "fbp").exit_code == 0
    slices = [pydicom.dcmread(f"d/stack_{i:04}.dcm") for i in (1, 2, 3)]
    assert len({slice.SeriesInstanceUID for slice in slices}) == 1
    assert [float(slice.ImagePositionPatient[2]) for slice in slices] == [0, PIXEL_MM, 2 * PIXEL_MM]


def test_a_stack_is_read_slice_by_slice(measured):
    path, geometry, _ = measured

    stack = np.stack([np.load(path)] * 2)
    stack[1, 3, 4] = np.nan
    np.save(path, stack)
    scan = read_geometry(geometry)
    sinograms = Sinograms(path, scan.num_views, scan.num_bins)
    assert sinograms.num_slices == 2
    assert sinograms.read(0).shape == (90, 100)
    with pytest.raises(Exception, match="slice 2 has NaN or infinity in 1 of its 9000 values"):
        sinograms.read(1)


def bad_sinograms(y: np.ndarray) -> dict[str, tuple[np.ndarray | bytes, str]]:
    wrong = y.copy()
    wrong[5, 6:9] = np.nan
    return {
        "nan.npy": (wrong, "NaN or infinity in 3 of its 9000 values"),
        "turned.npy": (np.ascontiguousarray(y.T), "transpose it"),
        "views.npy": (y[:80], "80 x 100, but --geometry has 90 views x 100 bins"),
        "complex.npy": (y.astype(complex), "holds complex128"),
        "counts.npy": (1e5 * np.exp(-y), "values up to 100000, but a line integral"),
        "flat.npy": (y.ravel(), "an array of 1 axes"),
        "broken.npy": (b"no array", "cannot be read"),
        "broken.tif": (b"no picture", "cannot be read"),
        "broken.npz": (b"no archive", "cannot be read"),
        "empty.npy": (b"", "cannot be read"),
        "cut.npz": (b"PK\x03\x04", "cannot be read"),
    }


@pytest.mark.parametrize("name", list(bad_sinograms(np.zeros((90, 100)))))
def test_a_bad_sinogram_is_one_sentence(run, measured, name):
    path, geometry, _ = measured
    content, words = bad_sinograms(np.load(path))[name]
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    else:
        np.save(name, content)
    result = run("ct-recon", name, "--geometry", geometry, "-o", "out.npy", "--method", "fbp")
    assert result.exit_code == 1
    assert words in result.stderr
    assert name in result.stderr
    assert not Path("out.npy").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--views", 0), "--views 0: give 4 to 3600"),
        (("--views", 10000), "--views 10000"),
        (("--photons", "-1"), "--photons -1"),
        (("--seed", "-1"), "--seed -1: give 0 to 4294967295"),
        (("--window", "40"), "--window 40: give centre,width"),
        (("--format", "png"), "--format png"),
        (("--format", "npy"), "name two formats"),
        (("-o", "out.jpg"), "-o out.jpg: give a slice a name in .dcm, .tif or .npy; for a folder, out.jpg/"),
        (("--pixel-mm", 0), "--pixel-mm 0"),
        (("--skip-existing", "--overwrite"), "exclude each other"),
        (("--geometry", "scan.toml", "--views", 60), "--views 60: "),
        (("sinogram.npy",), "DICOM and sinograms do not go together"),
        (("--report", "page.pdf"), "--report page.pdf"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(run, series, measured, options, words):
    result = run("ct-recon", series / "0.dcm", "-o", "out.dcm", "--method", "fbp", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not Path("out.dcm").exists()


def test_a_sinogram_needs_its_geometry(run, measured):
    result = run("ct-recon", measured[0], "-o", "out.npy", "--method", "fbp")
    assert result.exit_code == 2
    assert "needs --geometry" in result.stderr


def test_no_input_is_written_over(run, series):
    before = (series / "0.dcm").read_bytes()
    result = run("ct-recon", series, "-o", series, "--method", "fbp", "--overwrite", "--views", 8)
    assert result.exit_code != 0
    assert (series / "0.dcm").read_bytes() == before


# Evaluation


def test_an_evaluation_tells_its_protocol_and_means(run, series):
    (series / "notes.txt").write_text("no slice")
    options = ("--photons", "inf", "--photons", "1e4", "--views", 20, "--views", 40, "--seed", 5)
    result = run(
        "eval", "ct-recon", "--data", series, *options, "--method", "fbp", "--method", "cgls", "--limit", 2,
        "--json", "--csv", "figures.csv", "--report", "page.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    *scores, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(scores) == 2 * 2 * 2 * 2
    facts = last["protocol"]
    assert facts["data"].startswith("scan: 2 slices, fingerprint ")
    for words in ("no inverse crime", "default_rng((5,", "lungs included", "[0, 0.05] per mm", "600", "hann"):
        assert any(words in text for text in facts.values()), words
    means = {(m["views"], m["photons"], m["method"]): m for m in last["means"]}
    assert len(means) == 8
    assert means[40, 1e4, "fbp"]["psnr"] > means[20, 1e4, "fbp"]["psnr"]
    assert means[20, None, "fbp"]["psnr"] > means[20, 1e4, "fbp"]["psnr"]
    chosen = [s for s in scores if (s["views"], s["photons"], s["method"]) == (40, 1e4, "cgls")]
    assert means[40, 1e4, "cgls"]["psnr"] == pytest.approx(np.mean([s["psnr"] for s in chosen]))
    assert means[40, 1e4, "cgls"]["lowest_psnr"] == min(s["psnr"] for s in chosen)
    with Path("figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {row["slice"] for row in rows} == {"0.dcm", "1.dcm"}
    assert "Error of cgls" in Path("page.html").read_text()


def test_an_evaluation_scores_what_the_command_reconstructs(run, series):
    options = ("--method", "fbp", "--views", 20)
    single = json.loads(run("ct-recon", series / "1.dcm", "-o", "out.dcm", *options, "--json").stdout)
    *scores, _ = run("eval", "ct-recon", "--data", series, *options, "--json").stdout.splitlines()
    score = json.loads(scores[1])
    for name in ("psnr", "ssim", "rmse_hu", "bias_hu"):
        assert score[name] == pytest.approx(single[name], rel=1e-6)


def test_png_of_hu_are_slices_too_and_the_table_is_printed(run, tmp_path):
    (tmp_path / "png").mkdir()
    pixels = (body_hu() + 1024).astype(np.uint16)
    PIL.Image.fromarray(pixels).save(tmp_path / "png/a.png")
    result = run("eval", "ct-recon", "--data", "png", "--method", "fbp", "--views", 360)
    assert result.exit_code == 0, result.output
    assert "400 mm across" in result.stdout
    row = result.stdout.splitlines()[-1].split()
    assert row[:3] == ["360", "inf", "fbp"]
    assert float(row[3]) > 30


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--views", 0), 2, "--views 0"),
        (("--method", "art"), 2, "method"),
        (("--photons", 0), 2, "photons"),
        (("--limit", 0), 2, "--limit 0"),
        (("--seed", "-1"), 2, "--seed -1"),
        (("--data", "empty"), 1, "empty: no CT slices"),
        (("--data", "nowhere"), 1, "nowhere: no such folder"),
    ],
)
def test_a_wrong_evaluation_is_one_sentence(run, series, options, code, words):
    Path("empty").mkdir()
    result = run("eval", "ct-recon", "--data", series, "--method", "fbp", *options)
    assert result.exit_code == code
    assert words in result.stderr


def test_an_evaluation_goes_on_after_a_broken_slice(run, series):
    whole = (series / "1.dcm").read_bytes()
    (series / "1.dcm").write_bytes(whole[: len(whole) - 3000])
    options = ("--data", series, "--method", "fbp", "--views", "20", "--json")
    result = run("eval", "ct-recon", *options)
    assert result.exit_code == 1
    assert "1.dcm: the pixel data are missing, damaged or cut short" in result.stderr.replace("\n", " ")
    *scores, _ = map(json.loads, result.stdout.splitlines())
    assert [score["slice"] for score in scores] == ["0.dcm", "2.dcm"]
    for k in (0, 2):
        (series / f"{k}.dcm").write_bytes(whole[: len(whole) - 3000])
    result = run("eval", "ct-recon", *options)
    assert result.exit_code == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": ["tv"]}, r"method is \['tv'\]: known are deepgsr, fbp, sirt, cgls, tv"),
        ({"filter": 3}, "filter is 3: known are ram-lak"),
        ({"photons": "1e5"}, "photons is 1e5: its type is str; give a number"),
        ({"iterations": "50"}, "iterations is 50: its type is str; give a number"),
        ({"iterations": 2.5}, "iterations is 2.5: give a whole number"),
        ({"iterations": 0}, "iterations is 0: give 1 or more"),
        ({"strength": None}, "strength is None: its type is NoneType; give a number"),
        ({"precision": "bf8"}, "precision is bf8: known are auto, fp32, bf16, fp16"),
    ],
)
def test_a_setting_of_a_wrong_type_is_refused_in_a_sentence(settings, sentence):
    with pytest.raises(OptionError, match=f"^{sentence}"):
        Method(**settings)


def test_settings_may_be_numbers_of_numpy_and_torch():
    method = Method("tv", iterations=np.int64(5), strength=torch.tensor(2.0), photons=np.float32(1e5))
    assert method == Method("tv", iterations=5, strength=2.0, photons=1e5)
    assert type(method.iterations) is int
    assert type(method.strength) is float
