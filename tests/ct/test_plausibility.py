"""Promises of the check of every reconstruction: quiet on good scans, and a likely cause for the others."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.ct.api import denoise_ct, reconstruct_ct
from deepgsr_cli.ct.figures import residual
from deepgsr_cli.ct.methods import Method, reconstructed
from deepgsr_cli.ct.plausibility import doubt_numbers, doubt_result, doubt_slice
from deepgsr_cli.ct.simulation import SimulatedScan
from deepgsr_cli.errors import ResultWarning
from deepgsr_cli.mar.api import reduce_metal
from deepgsr_cli.tomography.attenuation import to_attenuation
from deepgsr_cli.tomography.geometry import Geometry, sparse_view
from deepgsr_cli.tomography.geometry_files import write_geometry
from deepgsr_cli.tomography.radon import Radon
from tests.samples import PIXEL_MM, SIZE, body_hu, saved_slice

GEOMETRY = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 60)
WATER_AND_BONE = to_attenuation(body_hu(), torch.device("cpu"))


def doubts(name: str, photons: float | None = None, y: torch.Tensor | None = None, **wrong: object) -> str:
    """What is doubted of a scan of the body, reconstructed with a geometry that may be wrong."""
    if y is None:
        y = SimulatedScan(GEOMETRY, photons)(WATER_AND_BONE, 0)
    geometry = dataclasses.replace(GEOMETRY, **wrong)
    method = Method(name, photons, iterations=100 if name == "tv" else None)
    return "\n".join(doubt_result(reconstructed(Radon(geometry), y, method), y, geometry, method))


@pytest.mark.parametrize("name", ["fbp", "sirt", "cgls", "tv"])
@pytest.mark.parametrize("photons", [None, 1e5, 1e4])
def test_a_good_scan_is_not_doubted(name, photons):
    assert doubts(name, photons) == ""


@pytest.mark.parametrize("name", ["fbp", "cgls"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"offset_bins": 6.0},
        {"angles_rad": tuple(-a for a in GEOMETRY.angles_rad)},
        {"angles_rad": tuple(0.9 * a for a in GEOMETRY.angles_rad)},
    ],
    ids=["offset", "sense", "range"],
)
def test_a_wrong_geometry_leaves_data_unexplained(name, wrong):
    y = SimulatedScan(dataclasses.replace(GEOMETRY, offset_bins=0.0), None)(
        to_attenuation(np.roll(body_hu(), (5, -7), (0, 1)), torch.device("cpu")), 0
    )
    text = doubts(name, y=y, **wrong)
    assert "of the data unexplained" in text
    assert "are the geometry's angles, their sense, offset_bins and distances those of the scan" in text


@pytest.mark.parametrize("name", ["sirt", "cgls", "tv"])
def test_angles_in_radians_for_degrees_are_doubted(name):
    y = SimulatedScan(GEOMETRY, None)(WATER_AND_BONE, 0)
    text = doubts(name, y=y, angles_rad=tuple(math.radians(a) for a in GEOMETRY.angles_rad))
    assert "the 60 views cover 6.18 degrees: are the geometry's angles in radians" in text
    few = dataclasses.replace(GEOMETRY, angles_rad=(0.0, 0.01))
    two = SimulatedScan(few, None)(WATER_AND_BONE, 0)
    assert "radians" not in doubts(name, y=two, angles_rad=few.angles_rad)


def test_numbers_that_no_body_has_are_doubted():
    y = SimulatedScan(GEOMETRY, None)(WATER_AND_BONE, 0)
    assert "denser parts of the body are at 1039" in doubts("fbp", y=2 * y)
    warm_air = to_attenuation(np.where(body_hu() < -500, -600, body_hu()), torch.device("cpu"))
    assert "around the body are -600 HU, and air is -1000" in "\n".join(doubt_numbers(warm_air, y, GEOMETRY))
    lengths = {"pixel_mm": (400.0, 400.0), "bin_mm": 100 * GEOMETRY.bin_mm}
    lengths |= {"source_mm": 100 * GEOMETRY.source_mm, "detector_mm": 100 * GEOMETRY.detector_mm}
    assert "nothing denser than -500 HU" in doubts("fbp", y=y, **lengths)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (lambda hu: (1 + hu / 1000) * 0.0192, "all values are between 0 and 0.02853, but in HU air is -1000"),
        (lambda hu: hu / 1000, "are they attenuation, line integrals or gray values"),
        (lambda hu: ((hu + 160) / 400).clip(0, 1) * 255, "all values are between 0 and 255"),
        (lambda hu: hu + 1024, "% of the values are about 1000 HU, .* was 1000 or 1024 added"),
    ],
    ids=["attenuation", "thousandths", "gray", "shifted"],
)
def test_numbers_that_are_no_hu_are_doubted(values, words):
    (doubt,) = doubt_slice(values(body_hu()))
    assert re.search(words, doubt)
    with pytest.warns(ResultWarning, match=words):
        reconstruct_ct(values(body_hu()), num_views=20, pixel_mm=PIXEL_MM, method="fbp", device="cpu")
    with pytest.warns(ResultWarning, match=words):
        denoise_ct(np.stack([values(body_hu())] * 2), sigma=0)
    with pytest.warns(ResultWarning, match=words):
        reduce_metal(values(body_hu()), pixel_mm=PIXEL_MM, method="li", device="cpu")


@pytest.mark.parametrize("hu", [np.zeros((9, 9)), np.full((9, 9), -1000.0), body_hu()[24:40, 24:40]])
def test_a_part_of_a_slice_and_air_are_not_doubted(hu):
    assert doubt_slice(hu) == []


def test_signed_pixels_under_an_unsigned_header_are_doubted():
    hu = body_hu()
    assert doubt_slice(hu) == []
    assert "is PixelRepresentation right" in doubt_slice(np.where(hu < 0, hu + 65536, hu))[0]


@pytest.fixture
def swapped(tmp_path: Path) -> tuple[Path, Path]:
    """A sinogram, and a geometry file that turns the other way."""
    hu = np.roll(body_hu(), (5, -7), (0, 1))
    y = SimulatedScan(GEOMETRY, None)(to_attenuation(hu, torch.device("cpu")), 0)
    np.save(tmp_path / "y.npy", y[0, 0].numpy())
    wrong = dataclasses.replace(GEOMETRY, angles_rad=tuple(-a for a in GEOMETRY.angles_rad))
    write_geometry(wrong, tmp_path / "scan.toml")
    return tmp_path / "y.npy", tmp_path / "scan.toml"


def test_a_warning_is_told_everywhere_and_strict_makes_it_an_error(swapped, tmp_path):
    path, geometry = swapped

    def run(*options: object):
        arguments = ["ct-recon", path, "--geometry", geometry, "--method", "fbp", "--overwrite", *options]
        return CliRunner().invoke(app, list(map(str, arguments)))

    out, page = tmp_path / "out.dcm", tmp_path / "page.html"
    result = run("-o", out, "--report", page)
    assert result.exit_code == 0, result.output
    sentence = "of the data unexplained"
    assert sentence in result.stderr.replace("\n", " ")
    assert sentence in page.read_text()
    header = pydicom.dcmread(out)
    assert sentence in header.DerivationDescription
    assert header.DerivationDescription.endswith("not for diagnosis")
    assert len(header.DerivationDescription) <= 1024
    result = run("-o", out, "--json", "--strict")
    assert result.exit_code == 1
    assert sentence in json.loads(result.stdout)["warnings"][0]
    assert out.exists()
    # A slice that is warned of is of the same series as the others.
    assert pydicom.dcmread(out).SeriesInstanceUID == header.SeriesInstanceUID


def test_a_warning_of_a_slice_is_told_with_metal_too(tmp_path):
    # Stored as signed values, of a header that says unsigned.
    saved_slice(tmp_path / "a.dcm", body_hu() - 1024, PixelRepresentation=0, RescaleIntercept="0")
    for command in ("ct-recon", "mar"):
        options = ["--method", "fbp", "--views", "30"]
        if command == "mar":
            options = ["--method", "li", "--mask", tmp_path / "mask.npy"]
            mask = np.zeros((SIZE, SIZE), bool)
            mask[20:23, 20:23] = True
            np.save(tmp_path / "mask.npy", mask)
        arguments = [command, tmp_path / "a.dcm", "-o", tmp_path / f"{command}.dcm", "--strict", *options]
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 1
        assert "is PixelRepresentation right" in result.stderr.replace("\n", " ")


def test_half_a_turn_short_of_views_is_no_matter_of_doubt():
    angles = tuple(math.radians(1.5 * i) for i in range(160))
    geometry = Geometry(
        "fan-flat", GEOMETRY.shape, GEOMETRY.pixel_mm, GEOMETRY.num_bins, GEOMETRY.bin_mm, angles,
        GEOMETRY.source_mm, GEOMETRY.detector_mm,
    )  # fmt: skip
    y = SimulatedScan(geometry, None)(WATER_AND_BONE, 0)
    method = Method("fbp")
    assert doubt_result(reconstructed(Radon(geometry), y, method), y, geometry, method) == []


def test_a_scan_of_air_is_explained_whatever_the_network_makes_of_it():
    """Nothing is left unexplained where nothing was measured: a share of it was a number of 40 digits."""
    y = torch.zeros(1, 1, GEOMETRY.num_views, GEOMETRY.num_bins)
    method = Method("fbp")
    result = reconstructed(Radon(GEOMETRY), y, method)
    assert residual(result.misfit(), y) == 0
    off = dataclasses.replace(result, misfit=lambda: y + 1e-3)
    assert residual(off.misfit(), y) == math.inf
    assert doubt_result(off, y, GEOMETRY, method) == []


def test_figures_of_a_body_are_left_out_where_there_is_none(tmp_path):
    saved_slice(tmp_path / "air.dcm", np.full((SIZE, SIZE), -1000.0))
    arguments = ["ct-recon", tmp_path / "air.dcm", "-o", tmp_path / "x.npy", "--views", 40, "--method", "fbp"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0
    assert "no body in the slice" in result.stdout
    assert "nan" not in result.stdout
