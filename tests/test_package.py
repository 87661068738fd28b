"""The face of the package: its names, and what importing it costs."""

import importlib
import inspect
import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pytest
import torch

import deepgsr_cli
from deepgsr_cli.phase.methods import Settings
from deepgsr_cli.tomography.attenuation import to_attenuation
from deepgsr_cli.tomography.geometry import sparse_view
from deepgsr_cli.tomography.radon import Radon
from tests.samples import PIXEL_MM, body_hu, smooth_picture

FUNCTIONS = [name for name in deepgsr_cli.__all__ if name[0].islower()]


def test_importing_the_package_imports_no_torch():
    code = "import sys, deepgsr_cli; dir(deepgsr_cli); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("modules_first", [False, True])
def test_a_function_stays_one_whichever_is_imported_first(modules_first):
    with patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.partition(".")[0] == "deepgsr_cli"]:
            del sys.modules[name]
        fresh = importlib.import_module("deepgsr_cli")
        if not modules_first:
            assert all(callable(getattr(fresh, name)) for name in FUNCTIONS)
        for name in ("cli.pictures", "pictures.restorer", "pictures.jobs", "ct.api", "mar.api", "phase.api"):
            importlib.import_module(f"deepgsr_cli.{name}")
        assert all(callable(getattr(fresh, name)) for name in FUNCTIONS)
        assert fresh.restore is importlib.import_module("deepgsr_cli.pictures.api").restore


def test_the_package_lists_its_names_and_each_is_there():
    assert set(deepgsr_cli.__all__) <= set(dir(deepgsr_cli))
    for name in deepgsr_cli.__all__:
        assert getattr(deepgsr_cli, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sharpen'"):
        deepgsr_cli.sharpen  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_at_most_eight_parameters_and_says_what_it_does(name):
    function = getattr(deepgsr_cli, name)
    assert len(inspect.signature(function).parameters) <= 8
    assert function.__doc__


# A picture in gray and in colour with noise, and a slice with metal and its scan.
NOISE = 0.08 * np.random.default_rng(0).standard_normal((3, 38, 44))
COLOUR = (smooth_picture(3, 38, 44) + NOISE).clip(0, 1).transpose(1, 2, 0).astype(np.float32)
GRAY = COLOUR[..., 0]
SLICE = body_hu(size=48)
SLICE[20:24, 20:24] = 6000
SCAN = sparse_view(SLICE.shape, (PIXEL_MM, PIXEL_MM), 40)
CALLS = {
    "denoise": lambda: deepgsr_cli.denoise(COLOUR, 20.0),
    "denoise, looking": lambda: deepgsr_cli.denoise(GRAY),
    "denoise, camera": lambda: deepgsr_cli.denoise(COLOUR, 8.0, noise="camera"),
    "denoise, ensemble": lambda: deepgsr_cli.denoise(GRAY, 20.0, ensemble=True),
    "derain": lambda: deepgsr_cli.derain(COLOUR),
    "dejpeg": lambda: deepgsr_cli.dejpeg(COLOUR, 20),
    "upscale": lambda: deepgsr_cli.upscale(COLOUR, 2, strength=0.5),
    "upscale, bicubic": lambda: deepgsr_cli.upscale(COLOUR, 2, method="bicubic"),
    "demosaick": lambda: deepgsr_cli.demosaick(GRAY),
    "demosaick, bilinear": lambda: deepgsr_cli.demosaick(GRAY, method="bilinear"),
    "denoise_ct": lambda: deepgsr_cli.denoise_ct(SLICE, 20.0),
    "reconstruct_ct": lambda: deepgsr_cli.reconstruct_ct(SLICE, num_views=30, pixel_mm=PIXEL_MM),
    "reconstruct_ct, scan": lambda: deepgsr_cli.reconstruct_ct(_scan(), SCAN, method="cgls"),
    "reduce_metal": lambda: deepgsr_cli.reduce_metal(SLICE, pixel_mm=PIXEL_MM),
    "reduce_metal, scan": lambda: deepgsr_cli.reduce_metal(_scan(), SCAN, method="nmar"),
    "retrieve_phase": lambda: deepgsr_cli.retrieve_phase(
        np.abs(np.fft.fft2(255 * GRAY[:20, :20], (40, 40))) ** 2,
        alpha=3.0,
        method=Settings("red", restarts=1, iterations=5),
    ),
}


def _scan():
    return Radon(SCAN)(to_attenuation(SLICE, torch.device("cpu")))[0, 0].numpy()


@pytest.mark.filterwarnings("ignore::deepgsr_cli.errors.ResultWarning")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_result_does_not_depend_on_defaults_of_torch_nor_on_autocast_of_the_caller(call):
    expected = call()
    torch.set_default_dtype(torch.float64)
    try:
        result = call()
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        in_autocast = call()
    with torch.device("meta"):  # as "cuda" would be, which is not everywhere
        elsewhere = call()
    assert result.dtype == in_autocast.dtype == elsewhere.dtype == np.float32
    assert np.array_equal(result, expected)
    assert np.array_equal(in_autocast, expected)
    assert np.array_equal(elsewhere, expected)
