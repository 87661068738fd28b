import numpy as np
import pytest
import torch

from deepgsr_cli.ct.api import reconstruct_ct
from deepgsr_cli.ct.methods import Method
from deepgsr_cli.errors import ShapeError, UsageError
from deepgsr_cli.tomography.attenuation import hu_to_attenuation
from deepgsr_cli.tomography.geometry import sparse_view
from deepgsr_cli.tomography.geometry_files import write_geometry
from tests.invoke import invoke
from tests.samples import PIXEL_MM, body_hu, saved_slice

GEOMETRY = sparse_view((32, 32), (8.0, 8.0), 24)


@pytest.fixture
def sinogram():
    """Noisy line integrals, (views, bins), of a disk."""
    generator = np.random.default_rng(0)
    half_mm = np.sqrt(np.clip(90**2 - (GEOMETRY.bin_positions_mm() / GEOMETRY.magnification) ** 2, 0, None))
    y = np.tile(2 * hu_to_attenuation(0.0) * half_mm, (GEOMETRY.num_views, 1))
    return (y + 0.01 * generator.standard_normal(y.shape)).astype(np.float32)


@pytest.mark.parametrize("settings", [Method("fbp"), Method("tv", iterations=20)], ids=["fbp", "tv"])
def test_a_sinogram_gives_what_the_command_writes(tmp_path, sinogram, settings):
    np.save(tmp_path / "y.npy", sinogram)
    scan = tmp_path / "scan.json"
    write_geometry(GEOMETRY, scan)
    files = f"{tmp_path}/y.npy --geometry {scan} -o {tmp_path}/x.npy"
    iterations = f"--iterations {settings.iterations}" if settings.iterations else ""
    invoke(f"ct-recon {files} --method {settings.name} {iterations} --device cpu")
    hu = reconstruct_ct(sinogram, scan, method=settings, device="cpu")
    assert (hu.shape, hu.dtype) == ((32, 32), np.float32)
    assert np.array_equal(hu, np.load(tmp_path / "x.npy"))
    in_memory = reconstruct_ct(sinogram, GEOMETRY, method=settings, device="cpu")
    np.testing.assert_allclose(in_memory, hu, atol=0.01)


def test_a_slice_gives_what_the_command_writes(tmp_path):
    hu = body_hu()
    saved_slice(tmp_path / "a.dcm", hu)
    options = "--method fbp --views 30 --device cpu"
    invoke(f"ct-recon {tmp_path}/a.dcm -o {tmp_path}/x.npy {options}")
    ours = reconstruct_ct(hu, num_views=30, pixel_mm=PIXEL_MM, method="fbp", device="cpu")
    assert np.array_equal(ours, np.load(tmp_path / "x.npy"))


def test_simulated_noise_is_that_of_the_seed_and_the_slice():
    def run(hu, seed):
        method = Method("fbp", photons=1e4)
        return reconstruct_ct(hu, num_views=30, pixel_mm=[8.0, 8.0], method=method, device="cpu", seed=seed)

    hu = body_hu(size=32)
    assert np.array_equal(run(hu, 1), run(hu.astype(np.int16), 1))
    assert (run(hu, 1) != run(hu, 2)).any()


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        (np.zeros((24, 50)), {}, "give either geometry, for a sinogram, or num_views"),
        (np.zeros((24, 50)), {"geometry": GEOMETRY, "num_views": 3}, "give either geometry"),
        (np.zeros((24, 50)), {"geometry": GEOMETRY, "pixel_mm": 1.0}, "leave pixel_mm out"),
        (np.zeros((32, 32)), {"num_views": 8}, "needs pixel_mm"),
        (np.zeros((32, 32)), {"num_views": 8, "pixel_mm": 1.0, "method": "art"}, "art.* known are deepgsr"),
    ],
)
def test_what_is_not_one_of_both_cases_is_refused(data, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        reconstruct_ct(data, **options)


def test_arrays_that_do_not_fit_are_refused(sinogram):
    def refused(data, sentence):
        with pytest.raises(ShapeError, match=sentence):
            reconstruct_ct(data, GEOMETRY, method="fbp", device="cpu")

    refused(sinogram.T, "but geometry has 24 views x .* bins; transpose it")
    refused(sinogram[:5], "give the geometry of this scan")
    refused(sinogram[None], r"give real numbers, \(views, bins\)")
    refused(1000 + sinogram, "a line integral is 100 at most; give -ln")
    sinogram[3, 4] = np.nan
    refused(sinogram, "NaN or infinity in 1 of its values")


def test_a_tensor_that_requires_its_gradient_is_the_array_of_its_values(sinogram):
    options = {"method": "fbp", "device": "cpu"}
    tensor = torch.from_numpy(sinogram).requires_grad_()
    expected = reconstruct_ct(sinogram, GEOMETRY, **options)
    assert np.array_equal(reconstruct_ct(tensor, GEOMETRY, **options), expected)


@pytest.mark.parametrize("pixel_mm", [0, -1.0, (1.0, np.nan), "1"])
def test_pixels_of_no_size_are_refused(pixel_mm):
    with pytest.raises(ShapeError, match=r"^pixel_mm is .*; give a"):
        reconstruct_ct(np.zeros((32, 32)), num_views=8, pixel_mm=pixel_mm, method="fbp", device="cpu")
