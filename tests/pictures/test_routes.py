from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import deepgsr_cli
from deepgsr_cli.errors import UsageError
from deepgsr_cli.evaluation.metrics import psnr
from deepgsr_cli.formats.image import read_image, to_uint8
from deepgsr_cli.formats.jpeg import jpeg_file
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.pictures.compression import of_quality
from deepgsr_cli.pictures.findings import (
    NoiseFinding,
    RainFinding,
    is_drawn,
    load_noise_estimator,
    noise_of,
    rain_of,
)
from deepgsr_cli.pictures.jobs import FileOptions, Restoration
from deepgsr_cli.pictures.noise import as_8_bits
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from deepgsr_cli.pictures.routes import Choice, Route, Second
from tests.drawings import drawings
from tests.samples import in_rain, smooth_picture

DRAWINGS = list(drawings())
COLOURS = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (200, 30, 90), (12, 250, 240)]


def scene(channels=3, height=203, width=254):
    """Flat shapes with soft texture, as a photograph has, (C, H, W), of 8 bits."""
    random = np.random.default_rng(3)
    x = smooth_picture(channels, height, width) * 0.6 + 0.15
    grain = random.normal(0, 1, (height + 6, width + 6))
    grain = sum(grain[i : i + height, j : j + width] for i in range(7) for j in range(7)) / 49
    return (np.rint((x + 0.1 * grain * (x > 0.4)) * 255).clip(0, 255) / 255).astype(np.float32)


def in_noise(clean, sigma, seed=0):
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return as_8_bits(torch.from_numpy(clean) + sigma / 255 * noise).numpy()


@pytest.fixture(scope="module")
def restorer():
    return Restorer(options=RunOptions(device="cpu"), task="restore")


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)
def test_what_is_drawn_is_left_alone(drawing):
    for restore in (deepgsr_cli.denoise, deepgsr_cli.derain, deepgsr_cli.restore):
        assert np.array_equal(restore(drawing.samples, device="cpu"), drawing.samples)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [1, 2, 8])
def test_noise_over_a_drawing_makes_it_a_picture(channels, sigma):
    for drawing in DRAWINGS[:20:3]:
        samples = drawing.samples.reshape(*drawing.samples.shape[:2], -1)
        if samples.shape[2] == channels:
            pixels = samples.transpose(2, 0, 1).astype(np.float32) / 255 * 0.8 + 0.1
            assert is_drawn(pixels)
            assert not is_drawn(in_noise(pixels, sigma))


def test_a_photograph_is_not_drawn_and_a_dark_one_of_few_levels_neither():
    assert not is_drawn(scene())
    assert not is_drawn(scene(1))
    assert not is_drawn((in_noise(scene(1) * 0.03 + 0.02, 1.5) * 255).round() / 255)


@pytest.mark.parametrize("shape", [(3, 7, 40), (1, 40, 7), (1, 1, 1)])
def test_a_picture_smaller_than_a_cell_can_be_asked_about(shape):
    assert is_drawn(np.full(shape, 0.3, np.float32))
    assert noise_of(np.full(shape, 0.3, np.float32), load_noise_estimator().model).kind == "unknown"


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("gray", [False, True])
def test_one_colour_stays_within_two_levels_by_all_that_restores_pictures(colour, gray):
    samples = np.full((48, 64, 3), colour, np.uint8)
    samples = samples[..., 1] if gray else samples
    results = [
        deepgsr_cli.denoise(samples, device="cpu"),
        deepgsr_cli.denoise(samples, 25, device="cpu"),
        deepgsr_cli.derain(samples, device="cpu"),
        deepgsr_cli.restore(samples, device="cpu"),
        deepgsr_cli.dejpeg(samples, device="cpu"),
        deepgsr_cli.dejpeg(samples, 10, device="cpu"),
        *(deepgsr_cli.upscale(samples, scale, device="cpu") for scale in (2, 3, 4)),
    ]
    for result in results:
        assert np.abs(result.astype(int) - samples[0, 0]).max() <= 2


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("pattern", ["RGGB", "GBRG"])
def test_one_colour_comes_of_its_mosaic(colour, pattern):
    mosaic = np.empty((32, 48), np.uint8)
    for place, name in enumerate(pattern):
        mosaic[place // 2 :: 2, place % 2 :: 2] = colour["RGB".index(name)]
    for sigma in (0, 10, None):
        result = deepgsr_cli.demosaick(mosaic, pattern, sigma, device="cpu")
        assert np.abs(result.astype(int) - colour).max() <= 2


def test_rain_falls_all_over_a_picture_from_top_to_bottom():
    generator = np.random.default_rng(0)
    dry = generator.random((3, 128, 160)).astype(np.float32) * 0.5
    streaks = np.zeros((128, 160), np.float32)
    for _ in range(60):
        top, left = generator.integers(0, 100), generator.integers(0, 160)
        streaks[top : top + 28, left] = 0.3
    found = rain_of([dry + streaks], [dry])
    assert found.there
    assert found.level == pytest.approx(255 * np.sqrt(np.square(streaks).mean()), rel=1e-3)
    assert found.upright > 0.8
    # The same lying down, in one place, or a hundredth as strong is none.
    level = np.ascontiguousarray(streaks.T)
    assert not rain_of([dry.transpose(0, 2, 1) + level], [dry.transpose(0, 2, 1)]).there
    corner = streaks * (np.add.outer(np.arange(128), np.arange(160)) < 60)
    assert not rain_of([dry + corner], [dry]).there
    # Where it is expected weak rain counts, lying rain does not.
    weak = dry + streaks / 30
    assert not rain_of([weak], [dry]).there
    assert rain_of([weak], [dry], expected=True).there
    assert not rain_of([dry.transpose(0, 2, 1) + level], [dry.transpose(0, 2, 1)], expected=True).there
    assert not rain_of([dry + streaks / 100], [dry]).there
    # Windows of a picture are judged as one.
    halves = [np.ascontiguousarray(half) for half in np.split(dry, [64], axis=2)]
    both = [np.ascontiguousarray(half) for half in np.split(dry + streaks, [64], axis=2)]
    assert rain_of(both, halves).level == pytest.approx(found.level, rel=0.05)


def test_rain_is_found_and_removed_and_said_to_be(restorer):
    clean = scene()
    rainy = in_rain(clean)
    route = restorer.route(rainy)
    assert route.facts["rain"]
    assert route.words.startswith("rain found, removed by the weights for rain")
    assert psnr(route.run(rainy.copy()), clean) > psnr(rainy, clean) + 3


def test_noise_is_removed_as_denoise_does(restorer):
    clean = scene()
    noisy = in_noise(clean, 8)
    route = restorer.route(noisy)
    assert not route.facts["rain"]
    assert route.facts["noise"] == "white"
    assert route.words.startswith("white noise found")
    expected = Restorer(options=RunOptions(device="cpu")).route(noisy).run(noisy.copy(), clipped=True)
    np.testing.assert_array_equal(route.run(noisy.copy(), clipped=True), expected)


def test_rain_and_noise_are_removed_in_turn(restorer):
    clean = scene()
    degraded = in_noise(in_rain(clean), 12)
    route = restorer.route(degraded)
    assert len(route.choices) == 2
    assert route.words.startswith("rain found, removed by the weights for rain; ")
    seen = []
    restored = route.run(degraded.copy(), progress=lambda done, total: seen.append(done / total))
    assert psnr(restored, clean) > psnr(degraded, clean) + 5
    assert seen == sorted(seen)
    assert seen[-1] == 1
    half = route.run(degraded.copy(), strength=0.5)
    np.testing.assert_allclose(half, (degraded + restored) / 2, atol=1e-6)


def test_poor_jpeg_is_removed_and_good_jpeg_left(restorer):
    clean = scene()
    poor, good = (read_image(jpeg_file(to_uint8(clean), quality)) for quality in (20, 80))
    route = restorer.route(poor.pixels, coding=poor.metadata.jpeg)
    assert route.facts["quality"] == 20
    assert route.words == "JPEG of quality 20 found, removed by the weights for JPEG"
    assert psnr(route.run(poor.pixels.copy()), clean) > psnr(poor.pixels, clean)
    assert restorer.route(good.pixels, coding=good.metadata.jpeg).idle


@pytest.mark.parametrize("task", ["restore", "derain"])
def test_no_rain_is_told_in_a_small_picture(task):
    # The network takes something upright off it, and the one block that it has is all of it.
    small = in_rain(scene())[:, 40:100, 40:72]
    route = Restorer(options=RunOptions(device="cpu"), task=task).route(small)
    assert route.facts["rain"] is False
    assert route.choices[0].words == "too small to tell its rain"
    assert route.choices[0].advice == "give --weights deepgsr-derain to have it removed"


@pytest.mark.parametrize("task", ["restore", "derain"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_whole_picture_is_written_as_the_bytes_of_its_file(tmp_path, task, channels):
    path = tmp_path / "a.jpg"
    levels = to_uint8(smooth_picture(channels, 203, 254))
    Pillow.fromarray(levels.squeeze()).save(path, quality=85)
    work = Restoration(Restorer(options=RunOptions(device="cpu"), task=task), FileOptions())
    result = work(Job(path, tmp_path / "out.jpg", Path("a.jpg")))
    assert (tmp_path / "out.jpg").read_bytes() == path.read_bytes()
    words = {
        "restore": ("nothing found to remove", "what may be noise may be texture"),
        "derain": "no rain found",
    }
    assert result.note.startswith(words[task])
    assert ", written unchanged" in result.note
    assert result.facts["rain"] is False


def test_weights_that_are_given_are_used_without_a_look(tiny_weights):
    restorer = Restorer(str(tiny_weights[3]), RunOptions(device="cpu"), task="derain")
    assert not restorer.looks
    assert restorer.route(scene()).choices == (Choice(restorer),)


def test_a_noise_level_is_refused_where_none_is_told(restorer):
    with pytest.raises(UsageError, match="the other tasks take none"):
        restorer(to_uint8(scene()), 25)


def test_what_networks_were_used_is_known(restorer):
    fresh = Restorer(options=RunOptions(device="cpu"), task="restore")
    noisy = in_noise(scene(), 8)
    fresh.route(noisy).run(noisy)
    assert list(fresh.all_loaded) == ["derain, colour", "denoise, colour"]
    assert fresh.all_seconds_loading > 0


def test_a_route_says_in_one_line_what_was_found_and_done():
    white = NoiseFinding("white", (5.0,), 5, False, False, 1)
    none, unsure = (NoiseFinding(kind, (5.0,), 5, False, False, 0.5) for kind in ("none", "unknown"))
    rainy, dry = RainFinding(True, 9, 0.9, 0.3), RainFinding(False, 0.1, 0, 0)
    by = {task: Restorer(task=task) for task in ("denoise", "derain", "dejpeg")}
    of_rain, of_noise = Choice(by["derain"], rain=rainy), Choice(by["denoise"], 5, white)
    of_jpeg = Choice(by["dejpeg"], compression=of_quality(20, 1))
    assert Route((of_rain, of_noise)).words == (
        "rain found, removed by the weights for rain;"
        " white noise found, sigma 5.0, removed by the weights for white noise"
    )
    nothing = Route((Choice(None, rain=dry), Choice(None, 0, none)))
    assert (nothing.idle, nothing.words, nothing.advice) == (True, "nothing found to remove", "")
    unknown = Route((Choice(None, rain=dry), Choice(None, 0, unsure)))
    assert unknown.words == "what may be noise may be texture"
    assert unknown.advice == "give --noise camera, or --sigma, to have it removed"
    assert (
        Route((*nothing.choices, of_jpeg)).words
        == "JPEG of quality 20 found, removed by the weights for JPEG"
    )
    coarse = NoiseFinding("camera", (5.0,), 5, True, False, 1)
    of_both = Choice(Restorer(task="photo"), 5, coarse, second=Second(by["denoise"], 8))
    assert of_both.words.endswith("removed by the weights for photographs and for white noise")
    assert Route((of_rain, of_noise)).facts == {
        "rain": True,
        "noise": "white",
        "sigma_estimated": [5.0],
        "sigma": 5,
    }


def test_a_tile_where_a_network_fails_stays_as_it_is(restorer, monkeypatch):
    decompressor = restorer.specialist("dejpeg")
    model = decompressor.load(3).model
    monkeypatch.setattr(model, "forward", lambda x, condition: x + 1000 * (x > 0.99))
    picture = scene()
    picture[:, 20:24, 20:24] = 1
    restored = decompressor.restore_compressed(picture, of_quality(20, 3))
    np.testing.assert_array_equal(restored, picture)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("strength", [1, 0.5])
@pytest.mark.parametrize("mirrored", [False, True])
def test_two_restorations_are_averaged(restorer, dtype, strength, mirrored):
    photo, white = restorer.specialist("photo"), restorer.specialist("denoise")
    given = in_noise(scene(), 12)[:, :-3]
    given = to_uint8(given).transpose(2, 0, 1).copy() if dtype == np.uint8 else given
    second = given.transpose(0, 2, 1) if mirrored else given
    results = [
        each.restore_pixels(pixels.copy(), sigma, strength=strength, in_place=True).astype(np.float64)
        for each, sigma, pixels in ((photo, 12, given), (white, 20, second))
    ]
    results[1] = results[1].transpose(0, 2, 1) if mirrored else results[1]
    told = []
    mean = Choice(photo, 12, second=Second(white, 20, mirrored)).run(
        given.copy(), strength=strength, progress=lambda *done: told.append(done)
    )
    np.testing.assert_allclose(mean, sum(results) / 2, atol=0.5 if dtype == np.uint8 else 1e-5)
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("dependent", [False, True])
@pytest.mark.parametrize("noise", ["auto", "camera"])
def test_noise_of_a_camera_is_removed_twice_in_two_ways(restorer, dependent, noise, monkeypatch):
    found = NoiseFinding("camera", (9.0,) * 3, 10.0, True, dependent, 0.999)
    monkeypatch.setattr("deepgsr_cli.pictures.restorer.noise_of", lambda *_: found)
    denoiser = replace(restorer.specialist("denoise"), noise=noise)
    choice = denoiser.choose(in_noise(scene(), 12))
    second = choice.second
    assert (choice.restorer.task, choice.sigma) == ("photo", 10)
    if dependent or noise == "camera":
        assert (second.restorer, second.sigma, second.mirrored) == (choice.restorer, 10, True)
    else:
        assert (second.restorer.task, second.mirrored) == ("denoise", False)
        assert 10 < second.sigma < 20


def test_a_picture_that_is_mirrored_anyway_is_not_mirrored_again(monkeypatch):
    found = NoiseFinding("camera", (9.0,) * 3, 10.0, True, True, 0.999)
    monkeypatch.setattr("deepgsr_cli.pictures.restorer.noise_of", lambda *_: found)
    denoiser = Restorer(options=RunOptions(device="cpu", ensemble=True))
    choice = denoiser.choose(in_noise(scene(), 12))
    assert (choice.restorer.task, choice.second) == ("photo", None)
