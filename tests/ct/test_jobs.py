"""Promises of simulated scans with a geometry of their own: the scanner's, or that of a file."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.ct import reconstruction
from deepgsr_cli.ct.jobs import plan_scans
from deepgsr_cli.errors import UserError
from deepgsr_cli.formats.dicom.slices import read_slice
from deepgsr_cli.tomography.geometry import Geometry, scanner_view
from deepgsr_cli.tomography.geometry_files import write_geometry
from deepgsr_cli.tomography.radon import Radon
from tests.samples import PIXEL_MM, SIZE, body_hu, saved_slice


@pytest.fixture
def run(tmp_path, monkeypatch):
    """ct-recon by FBP in this process, in an empty folder, and the geometries of its operators."""
    monkeypatch.chdir(tmp_path)
    used: list[Geometry] = []

    def operator(geometry: Geometry) -> Radon:
        used.append(geometry)
        return Radon(geometry)

    monkeypatch.setattr(reconstruction, "Radon", operator)

    def invoke(*arguments: object):
        options = ["--device", "cpu", "--method", "fbp"]
        return CliRunner().invoke(app, ["ct-recon", *map(str, arguments), *options]), used

    return invoke


@pytest.mark.parametrize("pixel_mm", [(0.7, 0.7), (0.9, 0.6)])
def test_a_scanners_bins_cover_the_corners_and_are_one_a_pixel_at_the_isocentre(pixel_mm):
    geometry = scanner_view((512, 400), pixel_mm, 90, 541.0, 949.0)
    assert geometry.kind == "fan-arc"
    assert geometry.source_mm + geometry.detector_mm == pytest.approx(949)
    assert geometry.bin_mm / geometry.magnification <= min(pixel_mm) * (1 + 1e-12)
    fan = geometry.fan_angles_rad()
    assert fan[0] == pytest.approx(-fan[-1])
    assert 541 * math.sin(fan[-1]) >= geometry.radius_mm
    assert 541 * math.sin(fan[-2]) < geometry.radius_mm


@pytest.mark.parametrize(("source_mm", "reach_mm"), [(0.0, 949.0), (100.0, 949.0), (541.0, 500.0)])
def test_distances_that_no_scanner_has_are_refused(source_mm, reach_mm):
    with pytest.raises(UserError, match=r"source_mm is|detector_mm is"):
        scanner_view((512, 512), (0.7, 0.7), 90, source_mm, reach_mm)


def test_each_slice_is_scanned_at_the_distances_it_states(run, tmp_path):
    (tmp_path / "scan").mkdir()
    for k, (source_mm, reach_mm) in enumerate(((541, 949), (570, 1040))):
        saved_slice(
            tmp_path / f"scan/{k}.dcm",
            body_hu(k),
            ImagePositionPatient=["0", "0", str(2 * k)],
            DistanceSourceToPatient=str(source_mm),
            DistanceSourceToDetector=str(reach_mm),
        )
    result, used = run("scan", "-o", "out", "--geometry", "scanner", "--views", 90, "--filter", "ram-lak")
    assert result.exit_code == 0, result.output
    assert "simulated 90-view fan-beam scan at the scanner's distances" in result.stderr
    assert used == [
        scanner_view((SIZE, SIZE), (PIXEL_MM,) * 2, 90, source_mm, reach_mm)
        for source_mm, reach_mm in ((541, 949), (570, 1040))
    ]
    written = pydicom.dcmread("out/1.dcm")
    assert "at the scanner's distances" in written.DerivationDescription
    error = (written.pixel_array + float(written.RescaleIntercept) - body_hu(1))[body_hu(1) > -500]
    assert abs(error.mean()) < 5


def test_a_slice_without_distances_is_named(run, tmp_path):
    saved_slice(tmp_path / "0.dcm", body_hu())
    result, _ = run("0.dcm", "-o", "out.dcm", "--geometry", "scanner")
    assert result.exit_code == 1
    assert "0.dcm: does not state DistanceSourceToPatient and DistanceSourceToDetector" in result.stderr


@pytest.mark.parametrize("kind", ["fan-flat", "parallel"])
def test_a_slice_is_scanned_as_a_geometry_file_says(run, tmp_path, kind):
    saved_slice(tmp_path / "0.dcm", body_hu())
    distances = {} if kind == "parallel" else {"source_mm": 500.0, "detector_mm": 400.0}
    angles = tuple(np.radians(np.linspace(3, 363, 40, endpoint=False)))
    geometry = Geometry(kind, (9, 9), (1.0, 1.0), 200, 3.0, angles, **distances)
    write_geometry(geometry, Path("scan.toml"))
    result, used = run("0.dcm", "-o", "out.dcm", "--geometry", "scan.toml")
    assert result.exit_code == 0, result.output
    assert "simulated 40-view" in result.stderr
    assert "of the geometry file" in result.stderr
    (found,) = used
    np.testing.assert_allclose(found.angles_rad, angles)
    assert replace(found, angles_rad=angles) == replace(
        geometry, shape=(SIZE, SIZE), pixel_mm=(PIXEL_MM, PIXEL_MM)
    )


def test_a_geometry_file_that_does_not_fit_the_slice_is_one_sentence(run, tmp_path):
    saved_slice(tmp_path / "0.dcm", body_hu())
    write_geometry(
        Geometry("fan-flat", (9, 9), (1.0, 1.0), 50, 1.0, (0.0, 2.0), 100.0, 100.0), Path("scan.toml")
    )
    result, _ = run("0.dcm", "-o", "out.dcm", "--geometry", "scan.toml")
    assert result.exit_code == 1
    assert "0.dcm: source_mm is 100, inside the slice" in result.stderr
    result, _ = run("0.dcm", "-o", "out.dcm", "--geometry", "scan.toml", "--views", 9)
    assert result.exit_code == 2
    assert "--views 9: scan.toml has the views" in result.stderr


def test_more_views_than_the_network_was_trained_on_are_told(tmp_path):
    source = saved_slice(tmp_path / "0.dcm", body_hu(size=32))
    arguments = [
        "ct-recon",
        str(source),
        "-o",
        str(tmp_path / "out.dcm"),
        "--device",
        "cpu",
        "--views",
        "361",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "361 views are more than the 360 the network was trained on" in result.stderr


def test_jobs_go_to_another_process_without_what_was_read(tmp_path):
    (tmp_path / "slices").mkdir()
    for i in range(3):
        position = ["0", "0", str(i)]
        saved_slice(tmp_path / f"slices/{i}.dcm", body_hu(), ImagePositionPatient=position)
    jobs = plan_scans([str(tmp_path / "slices")], "out").jobs
    first = read_slice(jobs[0].series, 0)
    jobs[0].series._header[Path("many frames")] = first.header
    sent = pickle.loads(pickle.dumps(jobs))
    assert sent == jobs
    assert sent[0].series is sent[2].series
    assert not sent[0].series._header
    np.testing.assert_array_equal(read_slice(sent[0].series, 0).hu, first.hu)


def test_sinograms_go_to_another_process_as_their_file(tmp_path):
    scan = Geometry("parallel", (8, 8), (1.0, 1.0), 9, 1.0, (0.0, 0.5))
    stack = np.arange(1, 37, dtype=np.float32).reshape(2, 2, 9) / 36
    for name, save in (("y.npy", np.save), ("y.npz", np.savez)):
        save(tmp_path / name, stack)
        jobs = plan_scans([str(tmp_path / name)], "out", geometry=scan, values="transmission").jobs
        sent = pickle.loads(pickle.dumps(jobs))
        assert sent[0].sinograms is sent[1].sinograms
        np.testing.assert_array_equal(sent[1].sinograms.read(1), jobs[1].sinograms.read(1))
        assert len(pickle.dumps(jobs)) < 1500


def test_sinograms_that_differ_in_their_suffix_alone_are_all_done(tmp_path):
    geometry = Geometry("parallel", (8, 8), (1.0, 1.0), 8, 1.0, (0.0, 0.7, 1.4, 2.1))
    sinogram = np.ones((2, 4, 8), np.float32)
    np.save(tmp_path / "a.npy", sinogram)
    tifffile.imwrite(tmp_path / "a.tif", sinogram, photometric="minisblack")
    inputs = [str(tmp_path / name) for name in ("a.npy", "a.tif")]
    plan = plan_scans(inputs, str(tmp_path / "out"), geometry=geometry, values="integrals")
    names = {job.target.name for job in plan.jobs}
    assert names == {"a.npy_0001.dcm", "a.npy_0002.dcm", "a.tif_0001.dcm", "a.tif_0002.dcm"}
    plan = plan_scans(inputs, str(tmp_path / "out"), format="npy", geometry=geometry, values="integrals")
    assert {job.target.name for job in plan.jobs} == {
        "a_0001.npy", "a_0002.npy", "a.tif_0001.npy", "a.tif_0002.npy"
    }  # fmt: skip


def test_slices_of_one_name_in_two_folders_keep_the_folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        saved_slice(tmp_path / name / "0.dcm", body_hu(), SeriesInstanceUID=f"1.2.{int(name == 'two')}")
    plan = plan_scans([str(tmp_path / name) for name in ("one", "two")], str(tmp_path / "out"))
    targets = [str(job.target.relative_to(tmp_path / "out")) for job in plan.jobs]
    assert targets == ["one/0.dcm", "two/0.dcm"]


def test_a_slice_that_is_named_several_times_is_done_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("slices").mkdir()
    for i in range(3):
        saved_slice(Path(f"slices/{i}.dcm"), body_hu(), ImagePositionPatient=["0", "0", str(i)])
    for inputs in (["slices", "./slices"], ["slices", "slices/1.dcm"], ["slices/*.dcm", "slices/0.dcm"]):
        jobs = plan_scans(inputs, "out").jobs
        assert [str(job.target) for job in jobs] == ["out/0.dcm", "out/1.dcm", "out/2.dcm"]
    scan = Geometry("parallel", (8, 8), (1.0, 1.0), 9, 1.0, (0.0, 0.5))
    np.save("y.npy", np.zeros((2, 2, 9), np.float32))
    jobs = plan_scans(["y.npy", str(tmp_path / "y.npy"), "*.npy"], "out", geometry=scan).jobs
    assert [str(job.target) for job in jobs] == ["out/y_0001.dcm", "out/y_0002.dcm"]


@pytest.mark.parametrize("in_radians", [False, True])
@pytest.mark.parametrize("sense", [1, -1])
def test_angles_of_a_file_may_begin_again_at_0_after_a_turn(tmp_path, sense, in_radians):
    angles_rad = tuple(sense * math.tau * k / 12 for k in range(12))
    turn = Geometry("parallel", (8, 8), (1.0, 1.0), 13, 1.0, angles_rad)
    degrees = np.round(np.degrees(turn.angles_rad) + 300) % 360
    theta = np.radians(degrees) if in_radians else degrees.astype(np.uint16)
    np.savez(tmp_path / "y.npz", sinogram=np.ones((12, 13), np.float32), theta=theta)
    assert len(plan_scans([str(tmp_path / "y.npz")], str(tmp_path / "out"), geometry=turn).jobs) == 1


def test_angles_of_a_file_that_turn_back_are_refused(tmp_path):
    turn = Geometry("parallel", (8, 8), (1.0, 1.0), 13, 1.0, tuple(math.tau * k / 12 for k in range(12)))
    theta = np.degrees(turn.angles_rad) * np.where(np.arange(12) < 6, 1, -1)
    np.savez(tmp_path / "y.npz", sinogram=np.ones((12, 13), np.float32), theta=theta)
    with pytest.raises(UserError, match="its theta is of 12 views"):
        plan_scans([str(tmp_path / "y.npz")], str(tmp_path / "out"), geometry=turn)
