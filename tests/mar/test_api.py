import numpy as np
import pytest
import torch

from deepgsr_cli.errors import ResultWarning, ShapeError, UsageError
from deepgsr_cli.mar.api import reduce_metal
from deepgsr_cli.tomography.attenuation import to_attenuation
from deepgsr_cli.tomography.geometry import sparse_view
from deepgsr_cli.tomography.geometry_files import write_geometry
from deepgsr_cli.tomography.radon import Radon
from tests.invoke import invoke
from tests.samples import PIXEL_MM, body_hu, saved_slice


@pytest.fixture(scope="module")
def hu():
    """A slice with a metal rod, (64, 64)."""
    hu = body_hu()
    hu[30:34, 20:24] = 6000
    return hu


@pytest.mark.parametrize("keep", [True, False])
def test_a_slice_gives_what_the_command_writes(tmp_path, hu, keep):
    saved_slice(tmp_path / "a.dcm", hu)
    flag = "" if keep else "--no-keep-metal"
    invoke(f"mar {tmp_path}/a.dcm -o {tmp_path}/x.npy --method li --device cpu {flag}")
    ours = reduce_metal(hu, pixel_mm=PIXEL_MM, method="li", keep_metal=keep, device="cpu")
    assert (ours.shape, ours.dtype) == (hu.shape, np.float32)
    assert np.array_equal(ours, np.load(tmp_path / "x.npy"))
    assert (ours[hu > 5000] == hu[hu > 5000]).all() == keep


def test_a_sinogram_with_a_mask_gives_what_the_command_writes(tmp_path, hu):
    geometry = sparse_view(hu.shape, (PIXEL_MM, PIXEL_MM), 90)
    scan = tmp_path / "scan.json"
    write_geometry(geometry, scan)
    y = Radon(geometry)(to_attenuation(hu, torch.device("cpu")))[0, 0].numpy()
    mask = hu > 5000
    np.save(tmp_path / "y.npy", y)
    np.save(tmp_path / "mask.npy", mask)
    files = f"{tmp_path}/y.npy --geometry {scan} --mask {tmp_path}/mask.npy"
    invoke(f"mar {files} -o {tmp_path}/x.npy --method nmar --device cpu")
    ours = reduce_metal(y, scan, metal=mask, method="nmar", device="cpu")
    assert np.array_equal(ours, np.load(tmp_path / "x.npy"))


def test_a_slice_without_metal_comes_back_as_it_is():
    hu = body_hu()
    for metal in (2500.0, np.zeros(hu.shape, bool)):
        assert np.array_equal(reduce_metal(hu, pixel_mm=PIXEL_MM, metal=metal, method="li"), hu)


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"pixel_mm": None}, UsageError, "needs pixel_mm"),
        ({"pixel_mm": 0}, ShapeError, "^pixel_mm is 0; give a number above 0"),
        ({"metal": 500.0}, UsageError, "^metal is 500: give 1000 to 30000 HU"),
        ({"method": "fbp"}, UsageError, "known are deepgsr, li, nmar"),
        ({"metal": np.ones((3, 4))}, ShapeError, r"mask of shape \(3, 4\), but the slice has \(64, 64\)"),
        ({"metal": np.where(body_hu() > 400, np.nan, 0)}, ShapeError, "mask of float64; give finite real"),
        ({"metal": np.full((64, 64), "")}, ShapeError, "mask of <U1; give finite real numbers or bool"),
        ({"metal": np.ones((64, 64))}, ShapeError, "metal is 100% of the slice, .* invert the mask"),
    ],
)
def test_what_does_not_fit_is_refused(hu, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        reduce_metal(hu, **{"pixel_mm": PIXEL_MM, "method": "li", "device": "cpu", **options})


def test_a_tensor_or_a_list_is_the_array_of_its_values(hu):
    options = {"pixel_mm": PIXEL_MM, "method": "li", "device": "cpu"}
    mask = hu > 5000
    expected = reduce_metal(hu, metal=mask, **options)
    slice = torch.from_numpy(hu).float().requires_grad_()
    for metal in (torch.from_numpy(mask), mask.tolist()):
        assert np.array_equal(reduce_metal(slice, metal=metal, **options), expected)


def test_ct_numbers_that_no_body_has_are_doubted(hu):
    geometry = sparse_view(hu.shape, (PIXEL_MM, PIXEL_MM), 90)
    y = Radon(geometry)(to_attenuation(hu, torch.device("cpu")))[0, 0].numpy()
    with pytest.warns(ResultWarning, match="denser parts of the body are at"):
        reduce_metal(3 * y, geometry, metal=hu > 5000, method="li", device="cpu")


def test_a_mask_where_no_metal_is_is_doubted(hu):
    geometry = sparse_view(hu.shape, (PIXEL_MM, PIXEL_MM), 90)
    y = Radon(geometry)(to_attenuation(hu, torch.device("cpu")))[0, 0].numpy()
    metal = (hu > 5000)[::-1].T
    for data, options in ((hu, {"pixel_mm": PIXEL_MM}), (y, {"geometry": geometry})):
        with pytest.warns(ResultWarning, match="where the mask has metal, 90% of the slice are at"):
            reduce_metal(data, metal=metal, method="li", device="cpu", **options)
