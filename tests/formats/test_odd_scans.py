"""Files of scans that are odd: refused in a sentence, or read with a note, and never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
import torch

from deepgsr_cli.ct.arrays import as_sinogram
from deepgsr_cli.errors import InputError, ShapeError
from deepgsr_cli.formats.dicom.series import find_series
from deepgsr_cli.formats.sinograms import Sinograms
from deepgsr_cli.jobs.here import run_here
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.run import Run
from deepgsr_cli.tomography.geometry import Geometry, even_angles
from tests.formats.test_sinograms import BINS, VIEWS, Y
from tests.samples import body_hu, saved_slice


def test_integrals_of_the_wrong_sign_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    np.save(path, -Y)
    with pytest.raises(InputError, match=r"is negative behind the object, down to -2, as ln\(I / I0\) is"):
        Sinograms(path, VIEWS, BINS)
    np.testing.assert_allclose(Sinograms(path, VIEWS, BINS, "integrals").read(0), -Y, rtol=1e-6)
    geometry = Geometry("parallel", (16, 16), (4.0, 4.0), BINS, 2.5, even_angles(0, 180, VIEWS))
    with pytest.raises(ShapeError, match="without its minus; turn the sign"):
        as_sinogram(-Y, geometry, torch.device("cpu"))
    # Noise about nothing has both signs, and an offset of the detector is small.
    np.save(path, np.random.default_rng(0).normal(-0.05, 0.05, Y.shape))
    Sinograms(path, VIEWS, BINS)


@pytest.mark.parametrize("theta", ["abc", 3.0, np.array(["a"] * VIEWS)])
def test_angles_that_are_no_list_of_numbers_are_refused(theta: object, tmp_path: Path) -> None:
    path = tmp_path / "y.npz"
    np.savez(path, sinogram=Y, theta=np.asarray(theta))
    with pytest.raises(InputError, match=r"its theta is .*; give one number a view"):
        Sinograms(path, VIEWS, BINS)


def test_groups_in_the_places_of_arrays_are_refused_or_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "y.h5"
    with h5py.File(path, "w") as file:
        file.create_group("exchange/data")
    with pytest.raises(InputError, match="no /exchange/data of"):
        Sinograms(path, VIEWS, BINS)
    with h5py.File(path, "w") as file:
        file["exchange/data"] = Y[:, None]
        file.create_group("exchange/theta")
        file.create_group("exchange/data_white")
    assert Sinograms(path, VIEWS, BINS).theta is None


def test_a_rescaling_that_no_hu_need_is_refused(tmp_path: Path) -> None:
    path = saved_slice(tmp_path / "a.dcm", body_hu(), RescaleIntercept="-1e300")
    with pytest.raises(InputError, match=r"RescaleIntercept -1e.300, which no HU need; export it again"):
        find_series(path)


@pytest.mark.parametrize(
    ("elements", "note"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "its planes are not axial"),
        ({"Modality": "PT"}, "Modality is PT, in a file of class CT; it is taken as CT in HU"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"], "RescaleType": "HU"}, ""),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"]}, ""),
        (
            {"PixelSpacing": ["0.004", "0.005"]},
            "PixelSpacing is 0.004 x 0.005 mm, so the slice is 0.256 x 0.32",
        ),
        ({"PixelSpacing": ["400", "400"]}, "PixelSpacing is 400 x 400 mm, so the slice is 25600 x"),
        ({"RescaleType": "US"}, "RescaleType says that the values have no unit"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.9, -0.436]}, ""),
        ({}, ""),
    ],
)
def test_what_is_taken_otherwise_than_a_slice_says_is_noted(
    elements: dict[str, object], note: str, tmp_path: Path
) -> None:
    (series,) = find_series(saved_slice(tmp_path / "a.dcm", body_hu(), **elements)).series
    assert len(series.notes) == bool(note)
    assert all(found.startswith(note) for found in series.notes)


def test_an_error_of_one_of_many_files_names_it() -> None:
    class Failing:
        columns = ()
        protocol: ClassVar[dict[str, str]] = {}
        title = "Works"

        def __call__(self, job: Job, **options: object) -> None:
            raise InputError("the views cover 1 degree; give more")

    jobs = tuple(Job(Path(name), Path(f"out/{name}"), Path(name)) for name in ("a.npy", "b.npy"))
    found = list(run_here(Run(jobs, lambda place: Failing())))  # type: ignore[arg-type, return-value]
    assert [outcome.error for outcome in found] == [
        f"{name}: the views cover 1 degree; give more" for name in ("a.npy", "b.npy")
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize("shape", [(VIEWS, BINS), (16, 16), (2, 16, 16)])
def test_slices_in_hu_are_no_sinogram(dtype: type, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "volume.npy"
    hu = np.resize(body_hu(), shape).astype(dtype)
    np.save(path, hu)
    with pytest.raises(InputError, match=r"slice 1 goes down to -1000, as CT numbers in HU do, .* as DICOM"):
        Sinograms(path, VIEWS, BINS)
    geometry = Geometry("parallel", (16, 16), (4.0, 4.0), BINS, 2.5, even_angles(0, 180, VIEWS))
    if len(shape) == 2:
        with pytest.raises(ShapeError, match=r"goes down to -1000, .* without a geometry, and with pixel_mm"):
            as_sinogram(hu, geometry, torch.device("cpu"))
