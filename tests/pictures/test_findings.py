"""The shipped estimator, on noise that the tests make."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepgsr_cli.models.noise_estimator import CELL, NoiseEstimator
from deepgsr_cli.pictures import camera
from deepgsr_cli.pictures.findings import NoiseFinding, load_noise_estimator, noise_of, windows_of
from deepgsr_cli.pictures.jpeg import jpeg
from deepgsr_cli.pictures.noise import as_8_bits, estimate_sigma
from deepgsr_cli.weights.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def estimator() -> NoiseEstimator:
    return load_noise_estimator().model


def scene(channels: int = 3, height: int = 203, width: int = 254) -> np.ndarray:
    """Smooth colours with edges, (C, H, W), 8 bits."""
    y, x = np.mgrid[0 : 3 : height * 1j, 0 : 4 : width * 1j]
    channel = [0.5 + 0.3 * np.sin(x * y + k) * (1 - 0.5 * (x + k > 3 * y)) for k in range(channels)]
    return np.rint(np.stack(channel) * 255).astype(np.float32) / 255


def in_8_bits(pixels: np.ndarray) -> np.ndarray:
    return (np.rint(pixels * 255).clip(0, 255) / 255).astype(np.float32)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("channels", "sigma"), [(1, 5), (1, 15), (1, 25), (3, 5), (3, 15), (3, 25), (3, 50)])
def test_white_noise_is_found_with_its_level(estimator, channels, sigma):
    clean = scene(channels)
    found = noise_of(in_8_bits(clean + sigma / 255 * noise(clean.shape)), estimator)
    assert found.kind == "white"
    assert found.sigmas == pytest.approx([sigma] * channels, rel=0.1)
    assert found.sigma == pytest.approx(sigma, rel=0.1)


def test_a_clean_picture_has_no_noise_or_nobody_can_tell(estimator):
    assert noise_of(scene(), estimator).kind in ("none", "unknown")


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_picture_has_no_noise(estimator, value):
    assert noise_of(np.full((3, 64, 64), value, np.float32), estimator).kind == "none"


def test_blurred_noise_is_a_cameras(estimator):
    clean = scene()
    grain = noise((3, 204, 255))
    grain = sum(grain[:, i : i + 203, j : j + 254] for i in (0, 1) for j in (0, 1)) / 2
    found = noise_of(in_8_bits(clean + 10 / 255 * grain), estimator)
    assert found.kind == "camera"
    assert found.correlated
    assert found.level == pytest.approx(10, rel=0.4)


def test_noise_of_a_sensor_with_a_mosaic_is_a_cameras(estimator, monkeypatch):
    monkeypatch.setattr(camera, "SHOT", (0.003, 0.003))
    shares = camera.Shares(
        clean=0, white=0, mosaic=1, smoothed=0, chroma_blurred=0, blurred=0, sharpened=0, compressed=0
    )
    clean = torch.from_numpy(scene())[None]
    photo = camera.photographed(clean, torch.Generator().manual_seed(0), shares).pictures
    found = noise_of(photo[0].numpy(), estimator)
    assert found.kind == "camera"
    assert found.level == pytest.approx(255 * float(camera.level_of(photo, clean)), rel=0.4)


@pytest.mark.parametrize(("quality", "sigma"), [(50, 25), (75, 18), (90, 10)])
def test_noise_before_jpeg_is_a_cameras_with_the_level_that_is_left(estimator, quality, sigma):
    clean = torch.from_numpy(scene())[None]
    noisy = clean + sigma / 255 * torch.from_numpy(noise(clean.shape)).float()
    photo = jpeg(as_8_bits(noisy), torch.tensor([float(quality)]))
    found = noise_of(photo[0].numpy(), estimator)
    assert found.kind == "camera"
    assert found.correlated
    assert found.level == pytest.approx(255 * float(camera.level_of(photo, clean)), rel=0.4)


def test_of_gray_noise_before_jpeg_the_finest_detail_says_nothing(estimator):
    clean = torch.from_numpy(scene(1))[None]
    noisy = clean + 25 / 255 * torch.from_numpy(noise(clean.shape)).float()
    photo = jpeg(as_8_bits(noisy), torch.tensor([40.0]))[0].numpy()
    assert estimate_sigma(photo)[0] < 15
    assert noise_of(photo, estimator).sigma == pytest.approx(25, rel=0.3)


def test_what_is_found_is_said_in_words():
    white = NoiseFinding("white", (4.96, 5.04, 5.0), 5, False, False, 1)
    assert white.words == "white noise found, sigma 5.0, 5.0, 5.0"
    both = NoiseFinding("camera", (5, 5, 5), 4.26, True, True, 1)
    assert both.words == "noise of a camera or JPEG found, level 4.3 (correlated, stronger in the light)"
    assert NoiseFinding("none", (5,), 1, False, False, 0).words == "no noise found"


@pytest.mark.parametrize("shape", [(3, 15, 400), (1, 400, 15), (1, 1, 1)])
def test_too_small_a_picture_is_said_to_be(estimator, shape):
    found = noise_of(np.random.default_rng(0).random(shape).astype(np.float32), estimator)
    assert found.kind == "unknown"
    assert found.words == "too small to tell its noise"


def test_of_a_large_picture_a_megapixel_is_looked_at_on_the_grid_of_cells():
    y, x = np.mgrid[0:1501, 0:2003]
    pixels = (y * 4096 + x)[None].astype(np.float32)
    windows = windows_of(pixels)
    assert [window.shape for window in windows] == [(1, 3, 256, 256)] * 16
    corners = [divmod(int(window[0, 0, 0, 0]), 4096) for window in windows]
    assert all(top % CELL == left % CELL == 0 for top, left in corners)
    assert corners[0] == (0, 0)
    assert corners[-1] == (1496 - 256, 2000 - 256)


def test_a_narrow_picture_of_many_pixels_is_looked_at():
    windows = windows_of(np.zeros((3, 17, 100_000), np.float32))
    assert [window.shape for window in windows] == [(1, 3, 16, 256)] * 4


def test_windows_are_judged_as_one_picture(estimator):
    clean = scene(3, 256, 256)
    pixels = torch.from_numpy(in_8_bits(clean + 10 / 255 * noise(clean.shape)))[None]
    with torch.no_grad():
        cells = estimator.cells(pixels)
        whole, reordered = (estimator.judged(x) for x in (cells.flatten(2), cells.flatten(2).flip(-1)))
    torch.testing.assert_close(whole.sigma, reordered.sigma)


def test_the_network_is_small_and_all_of_it_learns(tmp_path):
    torch.manual_seed(0)
    network = NoiseEstimator()
    assert sum(parameter.numel() for parameter in network.parameters()) <= 100_000
    estimate = network(torch.rand(2, 3, 32, 48))
    sum(part.sum() for part in estimate).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    save_checkpoint(tmp_path / "noise.safetensors", network, info={"task": "noise"})
    again = load_checkpoint(tmp_path / "noise.safetensors", {"noise-estimator": NoiseEstimator}).model
    x = torch.rand(1, 3, 16, 24)
    assert torch.equal(again(x).sigma, network(x).sigma)
    with pytest.raises(ValueError, match="depth"):
        NoiseEstimator.from_config({"depth": 3})


def test_a_batch_is_judged_as_its_pictures_are():
    torch.manual_seed(0)
    network = NoiseEstimator().eval()
    x = torch.rand(2, 3, 32, 48)
    both, second = network(x), network(x[1:])
    torch.testing.assert_close(both.level[1:], second.level)
    torch.testing.assert_close(both.noisy[1:], second.noisy)
