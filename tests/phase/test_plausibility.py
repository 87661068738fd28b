"""Promises of measurements that are not as they should be: mended, or told with the likely cause."""

from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from deepgsr_cli import retrieve_phase
from deepgsr_cli.cli import app
from deepgsr_cli.errors import ResultWarning
from deepgsr_cli.formats.image import read_image
from deepgsr_cli.formats.patterns import Measurement, read_measurement, write_measurement
from deepgsr_cli.phase.methods import Settings, align
from deepgsr_cli.phase.simulation import Simulation
from tests.samples import saved_matlab, smooth_picture

TRUTH = smooth_picture(1, 24, 20)
HIO = Settings("hio", restarts=2, iterations=150)
SHORT = Settings("hio", restarts=2, iterations=20)  # what is wrong does not become right by more


def measured(model: str, **settings: object) -> Measurement:
    measurement = Simulation(model, alpha=0.0, **settings).measure(TRUTH)
    return dataclasses.replace(measurement, alpha=1.0)


def centred(measurement: Measurement) -> Measurement:
    return dataclasses.replace(measurement, intensity=np.fft.fftshift(measurement.intensity, axes=(-2, -1)))


def error(picture: np.ndarray, model: str) -> float:
    found, truth = (torch.from_numpy(x.reshape(1, 1, 24, 20)) for x in (picture, TRUTH))
    return float((align(found, truth, shifts=model == "fourier") - truth).square().mean().sqrt())


def run(*arguments: object, iterations: int = 300):
    options = ("--method", "hio", "--restarts", 3, "--iterations", iterations, "--device", "cpu")
    return CliRunner().invoke(app, ["phase", *map(str, arguments), *map(str, options)])


@pytest.mark.parametrize("model", ["cdp", "fourier"])
def test_a_zero_frequency_in_the_middle_is_found_and_moved(model, tmp_path):
    measurement = measured(model)
    right = retrieve_phase(measurement, method=HIO)
    moved = retrieve_phase(centred(measurement), method=HIO)
    np.testing.assert_array_equal(moved, right)
    write_measurement(tmp_path / "m.npz", centred(measurement))
    result = run(tmp_path / "m.npz", "-o", tmp_path / "out.tif", "--strict")
    assert result.exit_code == 0, result.output
    assert "the zero frequency is in the middle of the patterns, and was moved" in result.stderr
    assert model == "fourier" or error(tifffile.imread(tmp_path / "out.tif"), model) < 0.01


def test_measurements_that_are_right_are_left_alone(tmp_path):
    for model in ("cdp", "fourier"):
        write_measurement(tmp_path / f"{model}.npz", measured(model))
        result = run(tmp_path / f"{model}.npz", "-o", tmp_path / f"{model}.tif", "--strict")
        assert result.exit_code == 0, result.output
        assert "zero frequency" not in result.stderr


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda m: {"masks": m.masks[::-1].copy()}, "are the masks in the order of the patterns"),
        (lambda m: {"intensity": 30 * m.intensity}, "are --peak and --scaling right"),
        (
            lambda m: {"intensity": 1e-7 * m.intensity, "alpha": None},
            "are the values intensities, no magnitudes",
        ),
    ],
)
def test_what_cannot_be_right_is_told_with_its_cause(tmp_path, change, cause):
    measurement = measured("cdp")
    wrong = dataclasses.replace(measurement, **change(measurement))
    with pytest.warns(ResultWarning) as caught:
        retrieve_phase(wrong, method=SHORT)
    assert any(cause.replace("--", "") in str(warning.message) for warning in caught)
    assert not any("--" in str(warning.message) for warning in caught)
    assert {warning.filename for warning in caught} == {__file__}  # where the function was called
    write_measurement(tmp_path / "m.npz", wrong)
    out = tmp_path / "out.png"
    report = tmp_path / "page.html"
    result = run(tmp_path / "m.npz", "-o", out, "--json", "--report", report, iterations=20)
    assert result.exit_code == 0
    assert any(cause in warning for warning in json.loads(result.stdout)["warnings"])
    assert "warning:" in report.read_text()
    result = run(tmp_path / "m.npz", "-o", out, "--overwrite", "--strict", iterations=20)
    assert result.exit_code == 1
    assert cause in result.stderr.replace("\n", " ")
    assert out.exists()


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("last", [True, False])
def test_matlab_files_hold_measurements(tmp_path, version, last):
    measurement = measured("cdp")
    intensity, masks = measurement.intensity, measurement.masks
    if last:  # as MATLAB stacks pictures
        intensity, masks = (np.moveaxis(stack, 0, -1) for stack in (intensity, masks))
    fields = {"intensity": intensity, "masks": masks, "model": "cdp", "alpha": 1.0}
    saved_matlab(tmp_path / "m.mat", fields, version)
    read = read_measurement(tmp_path / "m.mat")
    np.testing.assert_array_equal(read.intensity, measurement.intensity)
    np.testing.assert_array_equal(read.masks, measurement.masks)
    assert (read.model, read.alpha) == ("cdp", 1.0)


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize(
    ("shape", "masks", "last"),
    [
        ((6, 5, 40), (6, 5, 40), True),  # more patterns than rows
        ((6, 6, 6), None, True),
        ((5, 6, 9), None, True),
        ((2, 6, 5), None, False),
        ((6, 8, 10), (3, 4, 10), True),
        ((10, 8, 6), (10, 4, 3), False),
    ],
)
def test_patterns_of_matlab_files_are_last_unless_sizes_tell(tmp_path, version, shape, masks, last):
    generator = np.random.default_rng(0)
    fields = {"intensity": generator.random(shape)} | ({"masks": generator.random(masks)} if masks else {})
    saved_matlab(tmp_path / "m.mat", fields, version)
    read = read_measurement(tmp_path / "m.mat")
    for name, stack in fields.items():
        np.testing.assert_array_equal(getattr(read, name), np.moveaxis(stack, -1, 0) if last else stack)


@pytest.mark.parametrize("name", ["entry_1/data_1/data", "entry_1/instrument_1/detector_1/data"])
def test_cxi_files_hold_intensities(tmp_path, name):
    intensity = np.fft.fftshift(measured("fourier").intensity, axes=(-2, -1))
    with h5py.File(tmp_path / "m.cxi", "w") as file:
        file[name] = intensity
    np.testing.assert_array_equal(read_measurement(tmp_path / "m.cxi").intensity, intensity)
    options = ("--model", "fourier", "--oversampling", "2")
    result = run(tmp_path / "m.cxi", *options, "-o", tmp_path / "out.png", iterations=20)
    assert result.exit_code == 0, result.output
    assert "moved to [0, 0]" in result.stderr


def test_folders_hold_files_of_all_kinds(tmp_path):
    (tmp_path / "in").mkdir()
    measurement = measured("cdp")
    write_measurement(tmp_path / "in" / "a.npz", measurement)
    fields = {"intensity": measurement.intensity, "masks": measurement.masks, "model": "cdp"}
    saved_matlab(tmp_path / "in" / "b.mat", fields, "7.3")
    result = run(tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    first, second = (read_image(tmp_path / "out" / f"{name}.png").pixels for name in "ab")
    np.testing.assert_allclose(first, second, atol=2 / 255)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", b"\x89HDF\r\n\x1a\n" + bytes(600)])
def test_a_damaged_matlab_file_is_one_sentence(tmp_path, content):
    (tmp_path / "m.mat").write_bytes(content)
    result = run(tmp_path / "m.mat", "-o", tmp_path / "out.png")
    assert result.exit_code == 1
    assert "m.mat: cannot be read as .mat" in result.stderr.replace("\n", " ")
