"""The error that is expected of the network: written beside the result, and high where errors are."""

import json
import math
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from typer.testing import CliRunner

import deepgsr_cli
from deepgsr_cli.cli import app
from deepgsr_cli.ct.methods import Method, load_network, reconstructed
from deepgsr_cli.ct.simulation import SimulatedScan
from deepgsr_cli.ct.slices import read_hu, reduced
from deepgsr_cli.ct.uncertainty import WEIGHTS, expected_error, features
from deepgsr_cli.tomography.attenuation import to_attenuation, to_hu
from deepgsr_cli.tomography.geometry import Geometry, sparse_view
from deepgsr_cli.tomography.radon import Radon
from tests.invoke import invoke
from tests.samples import SIZE, body_hu, saved_slice

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load_network(None, "cpu", offline=True).model


def test_errors_are_larger_where_they_are_expected_to_be(model):
    hu = body_hu(size=192)
    texture = np.random.default_rng(0).choice([-150, 150], (15, 37))  # what 40 views hardly show
    hu[60:90, 60:134] += texture.repeat(2, 0).repeat(2, 1)
    A, truth = Radon(sparse_view(hu.shape, (2.0, 2.0), 40)), to_attenuation(hu, CPU)
    y = A(truth)
    x = reconstructed(A, y, Method(), model=model).x
    expected = expected_error(A, y, x, Method(), model)[0, 0].numpy()
    error, inside = np.abs(to_hu(x) - to_hu(truth)), hu > -500
    most = inside & (expected >= np.quantile(expected[inside], 0.8))
    assert error[most].mean() > 3 * error[inside & ~most].mean()
    assert expected[65:85, 65:129].mean() > 2 * expected[112:127, 75:120].mean()


@pytest.mark.parametrize("size", [64, 128])
def test_of_a_slice_of_few_pixels_two_thirds_of_the_errors_are_within(model, size):
    """It was calibrated on 512 x 512 pixels."""
    example = Path(__file__).parents[2] / "examples" / "ct" / "chest.dcm"
    truth = to_attenuation(reduced(torch.from_numpy(read_hu(example)[0]), size).numpy(), CPU)
    A = Radon(sparse_view((size, size), (400 / size, 400 / size), 60))
    y = SimulatedScan(A.geometry, 1e5)(truth, (0, 1))
    x = reconstructed(A, y, Method(photons=1e5), model=model).x
    expected = expected_error(A, y, x, Method(photons=1e5), model)[0, 0].numpy()
    error = np.abs(to_hu(x) - to_hu(truth))
    within = (error <= expected)[to_hu(truth) > -900]
    assert 0.5 < within.mean() < 0.8


def test_each_feature_has_a_weight_and_is_finite(model):
    A = Radon(sparse_view((37, 53), (4.0, 4.0), 24))
    x = to_attenuation(np.full((37, 53), -1000, np.float32), CPU)  # without a body, too
    found = features(A, A(x), x, 1e5, model)
    assert found.shape == (len(WEIGHTS), 37, 53)
    assert torch.isfinite(found).all()


def test_of_an_object_that_is_cut_off_the_slice_has_an_expected_error(model):
    whole = Geometry("parallel", (96, 96), (4.0, 4.0), 140, 4.0, tuple(math.pi * i / 45 for i in range(45)))
    seen = Geometry("parallel", (SIZE, SIZE), (4.0, 4.0), 40, 4.0, whole.angles_rad)
    y = Radon(whole)(to_attenuation(body_hu(size=96), CPU))[..., 50:90]
    A = Radon(seen)
    x = reconstructed(A, y, Method(), model=model).x
    expected = expected_error(A, y, x, Method(), model)
    assert expected.shape == x.shape
    assert torch.isfinite(expected).all()
    assert (expected > 0).all()


def test_a_series_has_a_second_one_with_the_expected_errors(tmp_path):
    (tmp_path / "scan").mkdir()
    for k in range(3):
        saved_slice(tmp_path / f"scan/{k}.dcm", body_hu(k), ImagePositionPatient=["0", "0", str(2 * k)])
    told = {}
    for count in (1, 3):
        report = tmp_path / f"{count}.json"
        files = f"{tmp_path}/scan -o {tmp_path}/{count} --report {report}"
        options = f"--views 30 --photons 1e5 --uncertainty --device cpu --json --batch {count}"
        told[count] = [json.loads(line) for line in invoke(f"ct-recon {files} {options}").splitlines()]
        item = json.loads(report.read_text())["items"][0]
        assert item["images"][-1]["label"] == "Expected error, black 0, white 200 HU"
        assert item["metrics"]["expected error in body (HU)"] == told[count][0]["uncertainty_hu"]
    assert [a["uncertainty_hu"] for a in told[1]] == pytest.approx(
        [b["uncertainty_hu"] for b in told[3]], rel=1e-3
    )
    results, expected = (
        [pydicom.dcmread(tmp_path / f"1/{k}{end}.dcm") for k in range(3)] for end in ("", "_uncertainty")
    )
    assert len({slice.SeriesInstanceUID for slice in results}) == 1
    assert len({slice.SeriesInstanceUID for slice in expected}) == 1
    assert len({slice.SOPInstanceUID for slice in results + expected}) == 6
    assert results[0].SeriesInstanceUID != expected[0].SeriesInstanceUID
    for slice, other in zip(results, expected):
        assert slice.StudyInstanceUID == other.StudyInstanceUID
        assert slice.ImagePositionPatient == other.ImagePositionPatient
        assert "[deepgsr uncertainty, simulated 30 views]" in other.SeriesDescription
        assert "standard deviation in HU expected of the error" in other.DerivationDescription
        hu = other.pixel_array + float(other.RescaleIntercept)
        assert 0 < hu[20:44, 20:44].mean() < 500
        np.testing.assert_array_equal(hu, np.rint(hu))
    assert told[1][0]["uncertainty_hu"] > 0


def test_the_expected_error_of_other_formats_is_beside_the_result(tmp_path):
    source = saved_slice(tmp_path / "0.dcm", body_hu())
    options = "--views 30 --uncertainty --device cpu"
    line = invoke(f"ct-recon {source} -o {tmp_path}/out.npy {options}")
    assert "expected error" in line
    assert np.load(tmp_path / "out_uncertainty.npy").shape == (SIZE, SIZE)
    assert not (tmp_path / "out_uncertainty.dcm").exists()


@pytest.mark.parametrize("option", ["", "--skip-existing"])
def test_a_file_in_its_place_is_not_lost(tmp_path, option):
    source = saved_slice(tmp_path / "0.dcm", body_hu())
    (tmp_path / "out_uncertainty.npy").write_bytes(b"another")
    options = f"--views 30 --uncertainty --device cpu {option}"
    result = CliRunner().invoke(app, f"ct-recon {source} -o {tmp_path}/out.npy {options}".split())
    assert result.exit_code == 1
    words = "exists without" if option else "exists; give --overwrite"
    assert f"out_uncertainty.npy: {words}" in " ".join(result.stderr.split())
    assert (tmp_path / "out_uncertainty.npy").read_bytes() == b"another"
    invoke(f"ct-recon {source} -o {tmp_path}/out.npy --views 30 --uncertainty --device cpu --overwrite")
    assert np.load(tmp_path / "out_uncertainty.npy").shape == (SIZE, SIZE)


def test_a_run_goes_on_after_an_interruption_between_the_two_files_of_a_slice(tmp_path, monkeypatch):
    source = saved_slice(tmp_path / "0.dcm", body_hu())
    command = f"ct-recon {source} -o {tmp_path}/out.npy --views 30 --uncertainty --device cpu"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("deepgsr_cli.ct.reconstruction.Reconstruction._of_slice", interrupt)
        assert CliRunner().invoke(app, command.split()).exit_code == 130
    assert not list(tmp_path.glob("out*"))
    invoke(f"{command} --skip-existing")
    assert np.load(tmp_path / "out.npy").shape == (SIZE, SIZE)
    assert "skip: " in invoke(f"{command} --skip-existing --dry-run")


def test_a_result_without_its_map_is_not_skipped_and_both_are(tmp_path):
    (tmp_path / "in").mkdir()
    for i, name in enumerate("ab"):
        saved_slice(tmp_path / f"in/{name}.dcm", body_hu(), ImagePositionPatient=["0", "0", str(i)])
    command = f"ct-recon {tmp_path}/in -o {tmp_path}/out/ --format npy --views 30 --device cpu"
    invoke(f"{command} --method fbp")
    (tmp_path / "out/b.npy").unlink()
    before = (tmp_path / "out/a.npy").read_bytes()

    result = CliRunner().invoke(app, f"{command} --uncertainty --skip-existing".split())
    assert result.exit_code == 1
    text = " ".join(result.stderr.split())
    assert "a.npy: exists without" in text
    assert "a_uncertainty.npy; delete it, or give --overwrite or another -o" in text
    assert (tmp_path / "out/a.npy").read_bytes() == before
    assert (tmp_path / "out/b_uncertainty.npy").exists()
    assert "fail: " in invoke(f"{command} --uncertainty --skip-existing --dry-run")
    invoke(f"{command} --uncertainty --overwrite")
    assert invoke(f"{command} --uncertainty --skip-existing --dry-run").count("skip: ") == 2


def test_where_it_cannot_be_it_is_one_sentence(tmp_path):
    for name in ("a.dcm", "a_uncertainty.dcm"):
        saved_slice(tmp_path / name, body_hu(), SeriesInstanceUID=f"1.2.{len(name)}")
    result = CliRunner().invoke(
        app, f"ct-recon {tmp_path} -o {tmp_path}/out --uncertainty --method tv".split()
    )
    assert result.exit_code == 2
    assert "--uncertainty is of --method deepgsr, not of tv" in result.stderr
    result = CliRunner().invoke(app, f"ct-recon {tmp_path} -o {tmp_path}/out --uncertainty".split())
    assert result.exit_code == 2
    assert "would both be written to" in result.stderr


def test_of_other_weights_it_is_said_that_nobody_has_calibrated_it(tmp_path):
    source = saved_slice(tmp_path / "0.dcm", body_hu())
    file = Path(deepgsr_cli.__file__).parent / "bundled" / "deepgsr-ct.safetensors"
    told = []
    for name in (str(file), "deepgsr-ct"):
        command = f"ct-recon {source} -o {tmp_path}/out/ --overwrite --views 30 --device cpu --uncertainty"
        result = CliRunner().invoke(app, [*command.split(), "--weights", name])
        assert result.exit_code == 0
        told.append("calibrated for deepgsr-ct" in result.stderr)
    assert told == [True, False]
