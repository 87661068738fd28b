"""Slices reconstructed or corrected at once are what they are one by one."""

import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.ct.batches import MOST_AT_ONCE, ON_THREADS, AtOnce, grouped
from deepgsr_cli.ct.methods import METHODS, Method, load_network, reconstruct_each, reconstructed
from deepgsr_cli.ct.network import Unrolled
from deepgsr_cli.ct.simulation import SimulatedScan
from deepgsr_cli.errors import OptionError
from deepgsr_cli.tomography.attenuation import to_attenuation
from deepgsr_cli.tomography.geometry import Geometry, sparse_view
from deepgsr_cli.tomography.geometry_files import write_geometry
from deepgsr_cli.tomography.radon import Radon
from tests.invoke import invoke
from tests.samples import PIXEL_MM, SIZE, body_hu, saved_slice

CPU = torch.device("cpu")
GIB = 2**30
# Of attenuation in 1/mm, of which a body has 0.05 at most: 0.05 HU. A convolution rounds otherwise for more
# pictures at a time.
TOLERANCE = 5e-5 * 0.0192


@pytest.fixture(scope="module")
def model() -> Unrolled:
    """The shipped network: one with random weights makes more of how sums are rounded."""
    return load_network(None, "cpu", offline=True).model


@pytest.mark.parametrize("name", METHODS)
def test_sinograms_of_several_doses_are_reconstructed_as_alone(name, model):
    geometry = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 40)
    photons = [1e4, None, 1e6]
    x = [to_attenuation(body_hu(3 * k), CPU) for k in range(3)]
    y = torch.cat([SimulatedScan(geometry, dose)(one) for one, dose in zip(x, photons)])
    A = Radon(geometry)
    shares = []
    together = reconstruct_each(
        A,
        y,
        Method(name, iterations=12),
        photons,
        model=model,
        progress=lambda done, parts: shares.append(done / parts),
    )
    for one, dose, result in zip(y.split(1), photons, together):
        alone = reconstructed(A, one, Method(name, dose, iterations=12), model=model)
        torch.testing.assert_close(result.x, alone.x, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(result.misfit(), alone.misfit(), rtol=0, atol=1e-4)
    assert shares == sorted(shares)
    assert not shares or shares[-1] == 1


@pytest.mark.parametrize("name", ["fbp", "tv"])
def test_sinograms_that_cut_off_the_object_are_reconstructed_as_alone(name):
    whole = Geometry("parallel", (96, 96), (4.0, 4.0), 140, 4.0, tuple(math.pi * i / 45 for i in range(45)))
    seen = Geometry("parallel", (SIZE, SIZE), (4.0, 4.0), 40, 4.0, whole.angles_rad)
    wide, narrow = body_hu(size=96), np.full((96, 96), -1000, np.float32)
    narrow[40:56, 40:56] = 0
    images = torch.cat([to_attenuation(hu, CPU) for hu in (wide, narrow, wide - 20)])
    y = Radon(whole)(images)[..., 50:90]
    A, method = Radon(seen), Method(name, iterations=5)
    together = reconstruct_each(A, y, method, [None] * 3)
    assert [bool(result.note) for result in together] == [True, False, True]
    for one, result in zip(y.split(1), together):
        alone = reconstructed(A, one, method)
        assert result.note == alone.note
        torch.testing.assert_close(result.x, alone.x, rtol=0, atol=TOLERANCE)


def test_noise_is_that_of_the_slice_alone():
    geometry = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 30)
    scan, x = SimulatedScan(geometry, 1e4), to_attenuation(body_hu(), CPU)
    together = scan(torch.cat([x, x, 1.1 * x]), [(0, 7), 8, (0, 7)])
    assert torch.equal(together[:1], scan(x, (0, 7)))
    assert torch.equal(together[1:2], scan(x, 8))
    assert torch.equal(together[2:], scan(1.1 * x, (0, 7)))


def lines(text: str) -> list[dict]:
    """The objects printed, without the time."""
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        line.pop("seconds")
    return found


def same(first: list[dict], second: list[dict]) -> bool:
    """Whether two lists of facts are equal but for rounding, and for the folder of the results."""
    for one, other in zip(first, second, strict=True):
        for name in one.keys() | other.keys():
            value = one[name]
            if isinstance(value, float):
                value = pytest.approx(value, rel=1e-4, abs=1e-5)
            if name != "output" and other[name] != value:
                return False
    return True


def test_a_series_of_two_geometries_is_reconstructed_as_slice_by_slice(tmp_path):
    (tmp_path / "scan").mkdir()
    for k in range(5):
        saved_slice(
            tmp_path / f"scan/{k}.dcm",
            body_hu(2 * k),
            ImagePositionPatient=["0", "0", str(2 * k)],
            PixelSpacing=["4", "4"] if k != 2 else ["5", "5"],
        )
    (tmp_path / "scan/3.dcm").write_bytes((tmp_path / "scan/3.dcm").read_bytes()[:-900])
    options = "--views 40 --photons 1e5 --format npy --device cpu --json"
    told = {}
    for count in (1, 8):
        report = tmp_path / f"{count}.json"
        command = f"ct-recon {tmp_path}/scan -o {tmp_path}/{count} --batch {count} --report {report}"
        result = CliRunner().invoke(app, f"{command} {options}".split())
        assert result.exit_code == 1
        told[count] = lines(result.stdout)
    # The series of the other pixel size is the last one.
    assert [line["status"] for line in told[1]] == ["done", "done", "failed", "done", "done"]
    assert same(told[1], told[8])
    pages = [json.loads((tmp_path / f"{count}.json").read_text())["items"] for count in (1, 8)]
    assert [[i["label"] for i in item["images"]] for item in pages[0]] == [
        [i["label"] for i in item["images"]] for item in pages[1]
    ]
    assert pages[0][0]["metrics"]["PSNR TV (dB)"] == pytest.approx(pages[1][0]["metrics"]["PSNR TV (dB)"])
    for k in (0, 1, 2, 4):
        first, second = (np.load(tmp_path / f"{count}/{k}.npy") for count in (1, 8))
        np.testing.assert_allclose(first, second, rtol=0, atol=0.01)


@pytest.mark.parametrize("command", ["ct-recon --method tv --iterations 20", "mar --method nmar", "mar"])
def test_a_stack_is_done_as_slice_by_slice(tmp_path, command):
    geometry = sparse_view((SIZE, SIZE), (PIXEL_MM, PIXEL_MM), 60)
    write_geometry(geometry, tmp_path / "scan.toml")
    slices = [body_hu(k) for k in range(5)]
    for k in (1, 2, 4):
        slices[k][30:34, 18 + k : 22 + k] = 6000
    y = Radon(geometry)(torch.cat([to_attenuation(hu, CPU) for hu in slices]))
    np.save(tmp_path / "stack.npy", y[:, 0].numpy())
    told = {}
    for count in (1, 3):
        files = f"{tmp_path}/stack.npy --geometry {tmp_path}/scan.toml -o {tmp_path}/{count}"
        told[count] = lines(invoke(f"{command} {files} --format npy --device cpu --json --batch {count}"))
    assert same(told[1], told[3])
    for k in range(5):
        first, second = (np.load(tmp_path / f"{count}/stack_{k + 1:04}.npy") for count in (1, 3))
        np.testing.assert_allclose(first, second, rtol=0, atol=0.01)


def test_metal_of_a_series_is_reduced_as_slice_by_slice(tmp_path):
    (tmp_path / "scan").mkdir()
    for k in range(4):
        hu = body_hu(k)
        if k != 1:
            hu[30:34, 18 + k : 22 + k] = 6000
        saved_slice(tmp_path / f"scan/{k}.dcm", hu, ImagePositionPatient=["0", "0", str(2 * k)])
    told = {}
    for count in (1, 4):
        files = f"{tmp_path}/scan -o {tmp_path}/{count} --report {tmp_path}/{count}.html"
        command = f"mar {files} --method nmar --format npy --device cpu --json --batch {count}"
        told[count] = lines(invoke(command))
    assert same(told[1], told[4])
    assert [line["metal_px"] > 0 for line in told[1]] == [True, False, True, True]
    for k in range(4):
        first, second = (np.load(tmp_path / f"{count}/{k}.npy") for count in (1, 4))
        np.testing.assert_allclose(first, second, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("count", "device", "free", "expected"),
    [
        (None, "cpu", 64 * GIB, 1),
        (5, "cpu", 0, 5),
        (None, "cuda", 400 * GIB, MOST_AT_ONCE),
        (None, "cuda", GIB, 7),
        (None, "cuda", 0, 1),
    ],
)
def test_slices_at_once_are_those_that_fit_a_third_of_the_memory(monkeypatch, count, device, free, expected):
    monkeypatch.setattr("deepgsr_cli.ct.batches.free_memory", lambda device: free)
    geometry = sparse_view((512, 512), (0.8, 0.8), 60)
    assert AtOnce(count)(geometry, torch.device(device), 100.0) == expected
    assert AtOnce(count, sharing=2)(geometry, torch.device(device), 100.0) in (expected, expected // 2)


@pytest.mark.parametrize(("threads", "free", "expected"), [(1, 64, 1), (2, 64, 4), (16, 64, 4), (16, 0, 1)])
def test_several_threads_of_a_cpu_do_several_slices_by_a_network(monkeypatch, threads, free, expected):
    monkeypatch.setattr("deepgsr_cli.ct.batches.free_memory", lambda device: free * GIB)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    geometry = sparse_view((512, 512), (0.8, 0.8), 60)
    assert AtOnce()(geometry, CPU, 100.0, ON_THREADS) == expected
    assert AtOnce()(geometry, CPU, 100.0) == 1


def test_no_slices_at_once_are_refused():
    with pytest.raises(OptionError, match="give 1 or more slices at once"):
        AtOnce(0)
    for options in ("--batch 0", "--batch 2 --jobs 2", "--batch 2 --cluster local:2"):
        assert CliRunner().invoke(app, f"ct-recon scan -o out {options}".split()).exit_code == 2


def test_equal_geometries_are_found_in_their_order():
    small, large = (sparse_view((n, n), (1.0, 1.0), 30) for n in (32, 64))
    assert grouped([large, small, large, sparse_view((32, 32), (1.0, 1.0), 30)]) == [[0, 2], [1, 3]]
