"""Promises of deepgsr denoise over DICOM files of CT."""

import json
import shlex

import numpy as np
import pydicom
import pytest
from pydicom import uid as uids
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.compute import precision
from deepgsr_cli.ct.api import denoise_ct
from deepgsr_cli.formats.image import Image, write_image
from tests.invoke import invoke
from tests.samples import body_hu, ct, saved, saved_slice, smooth_picture


@pytest.fixture
def noisy():
    """Slices of three places with noise, whole HU, (3, 128, 128)."""
    noise = np.random.default_rng(0).normal(0, 30, (3, 128, 128))
    return np.stack([np.rint(body_hu(2 * i, size=128) + noise[i]).clip(-1024, 3071) for i in range(3)])


@pytest.fixture
def series(tmp_path, noisy):
    """A folder with the slices as one series, one of them without a suffix."""
    folder = tmp_path / "series"
    folder.mkdir()
    for i, hu in enumerate(noisy):
        position = ["0", "0", str(2 * i)]
        name = "2" if i == 2 else f"{i}.dcm"
        saved_slice(folder / name, hu, ImagePositionPatient=position, InstanceNumber=i + 1)
    return folder


def hu_of(path):
    slice = pydicom.dcmread(path)
    return slice.pixel_array * float(slice.RescaleSlope) + float(slice.RescaleIntercept)


def test_a_series_becomes_a_derived_series(tmp_path, series, noisy, ct_weights, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    common = f"denoise {series} -o {tmp_path}/out --weights {ct_weights} --device cpu"
    lines = [json.loads(line) for line in invoke(f"{common} --json").splitlines()]
    assert [line["status"] for line in lines] == ["done"] * 3
    assert all(line["sigma_from"] == "pixels" for line in lines)
    assert all(20 < line["sigma_hu"] < 45 for line in lines)
    assert all(line["change_hu"] > 0 for line in lines)
    sources = [pydicom.dcmread(file) for file in sorted(series.iterdir())]
    results = [pydicom.dcmread(tmp_path / "out" / f"{i}.dcm") for i in range(3)]
    for source, result in zip(sources, results):
        assert result.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert result.SOPClassUID == uids.CTImageStorage
        assert result.StudyInstanceUID == source.StudyInstanceUID
        assert result.SeriesInstanceUID not in {x.SeriesInstanceUID for x in sources}
        assert result.SourceImageSequence[0].ReferencedSOPInstanceUID in {x.SOPInstanceUID for x in sources}
        assert result.SeriesDescription.endswith("[deepgsr denoise]")
        assert (
            "denoise: noise level estimated in each slice; strength 1; bf16" in result.DerivationDescription
        )
        assert "HU found" in result.DerivationDescription
        assert result.PixelSpacing == source.PixelSpacing
    assert len({result.SeriesInstanceUID for result in results}) == 1
    expected = denoise_ct(noisy[0], weights=str(ct_weights), device="cpu")
    np.testing.assert_allclose(hu_of(tmp_path / "out" / "0.dcm"), expected, atol=0.5 + 1e-3)
    again = [json.loads(line) for line in invoke(f"{common} --json --skip-existing").splitlines()]
    assert [line["status"] for line in again] == ["skipped"] * 3


def test_several_processes_write_the_same(tmp_path, series, ct_weights, forked):
    common = f"denoise {series} --weights {ct_weights} --device cpu --precision fp32"
    invoke(f"{common} -o {tmp_path}/one")
    invoke(f"{common} -o {tmp_path}/two --jobs 2")
    for i in range(3):
        assert (hu_of(tmp_path / "one" / f"{i}.dcm") == hu_of(tmp_path / "two" / f"{i}.dcm")).all()


@pytest.mark.parametrize("option", ["--sigma 0", "--strength 0"])
def test_nothing_to_do_keeps_the_stored_values(tmp_path, series, noisy, ct_weights, option):
    invoke(f"denoise {series}/0.dcm -o {tmp_path}/x.dcm --weights {ct_weights} --device cpu {option}")
    source, result = pydicom.dcmread(series / "0.dcm"), pydicom.dcmread(tmp_path / "x.dcm")
    assert (source.pixel_array == result.pixel_array).all()


def test_what_was_not_measured_keeps_its_values(tmp_path, noisy, ct_weights):
    stored = np.rint(noisy[0] + 1024).astype(int)
    stored[:4] = -2000
    saved(ct(stored, PixelPaddingValue=-2000), tmp_path / "a.dcm")
    invoke(f"denoise {tmp_path}/a.dcm -o {tmp_path}/x.dcm --weights {ct_weights} --device cpu")
    result = pydicom.dcmread(tmp_path / "x.dcm").pixel_array
    assert (result[:4] == -2000).all()
    assert (result[4:] != stored[4:]).mean() > 0.5


def test_a_result_in_float_is_what_python_gives(tmp_path, series, noisy, ct_weights):
    common = f"--weights {ct_weights} --device cpu --sigma 25 --strength 0.5"
    invoke(f"denoise {series}/1.dcm -o {tmp_path}/x.npy {common}")
    expected = denoise_ct(noisy[1], 25.0, strength=0.5, weights=str(ct_weights), device="cpu")
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected)


def test_a_report_shows_what_was_removed(tmp_path, series, ct_weights):
    report = tmp_path / "r.json"
    files = f"{series} -o {tmp_path}/out --report {report}"
    invoke(f"denoise {files} --weights {ct_weights} --device cpu --window=-600,1500")
    content = json.loads(report.read_text())
    assert content["protocol"]["precision"] in ("fp32", "bf16")  # what "auto" was
    assert "noise (HU)" in content["summary"]
    assert "-600,1500 HU" in json.dumps(content)


def test_a_dry_run_needs_no_weights_and_writes_nothing(tmp_path, series):
    output = invoke(f"denoise {series} -o {tmp_path}/out --dry-run")
    assert output.count("write: ") == 3
    assert not (tmp_path / "out").exists()


def test_a_folder_with_pictures_is_of_pictures(tmp_path, series, tiny_weights):
    write_image(series / "photo.png", Image(smooth_picture(1, 32, 32), "uint8", "PNG"))
    output = invoke(f"denoise {series} -o {tmp_path}/out --sigma 20 --weights {tiny_weights[1]} --device cpu")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["photo.png"]
    assert "photo.png" in output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("{series}", "CT slices need -o: give a folder, or for one slice a file"),
        ("{series} {picture} -o out", "is DICOM and"),
        ("{series} -o out --noise camera", "--noise: is for pictures; leave it out for CT slices"),
        ("{series} -o out --ensemble", "--ensemble: is for pictures"),
        ("{series} -o out --format png", "--format png: known are dicom, tiff, npy"),
        ("{series} -o out --sigma 300", "--sigma 300: give a number from 0 to 200 HU, or auto"),
        ("{series} -o out --window wide", "--window wide: give centre,width in HU"),
        ("{picture} -o out.png --pixel-mm 1", "--pixel-mm: is for CT slices; leave it out for pictures"),
        ("{mr} -o out", "is MR Image Storage, not a CT image; give CT slices"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, series, arguments, sentence):
    picture = tmp_path / "photo.png"
    write_image(picture, Image(smooth_picture(1, 32, 32), "uint8", "PNG"))
    slice = ct(np.zeros((8, 8), int), SOPClassUID=uids.MRImageStorage, Modality="MR")
    names = {"series": series, "picture": picture, "mr": saved(slice, tmp_path / "mr.dcm")}
    result = CliRunner().invoke(app, shlex.split("denoise " + arguments.format(**names)))
    assert result.exit_code in (1, 2)
    assert sentence in " ".join(result.stderr.split())
