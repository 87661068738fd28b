from dataclasses import replace

import numpy as np
import pytest

from deepgsr_cli.errors import ShapeError, UsageError
from deepgsr_cli.pictures import restorer as restorer_module
from deepgsr_cli.pictures.findings import NoiseFinding
from deepgsr_cli.pictures.noise import estimate_sigma, picture_sigma
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from deepgsr_cli.pictures.tasks import UNKNOWN
from deepgsr_cli.weights import load as load_module
from deepgsr_cli.weights.checkpoint import save_checkpoint
from tests.samples import smooth_picture, tiny_model


def noisy(channels, sigma, size=(200, 231), seed=0):
    clean = smooth_picture(channels, *size)
    noise = np.random.default_rng(seed).normal(0, 1, clean.shape)
    return (clean + noise * np.reshape(sigma, (-1, 1, 1)) / 255).astype(np.float32)


@pytest.mark.parametrize("sigma", [2, 10, 25, 50])
def test_the_estimate_finds_the_level(sigma):
    assert estimate_sigma(noisy(1, sigma)) == pytest.approx([sigma], rel=0.08)


def test_each_channel_has_its_own_estimate():
    assert estimate_sigma(noisy(3, [5, 15, 40])) == pytest.approx([5, 15, 40], rel=0.08)


def test_a_clean_picture_is_found_clean():
    clean = smooth_picture(3, 200, 231)
    assert picture_sigma(estimate_sigma(clean)) == 0
    rounded = np.rint(clean * 255) / np.float32(255)
    assert picture_sigma(estimate_sigma(rounded)) == 0


def test_texture_on_part_of_a_picture_is_not_taken_for_noise():
    picture = noisy(1, 5)
    half = np.random.default_rng(1).random((200, 100)) > 0.5
    picture[0, :, :100] += 0.3 * half * smooth_picture(1, 200, 100)[0]
    assert estimate_sigma(picture) == pytest.approx([5], rel=0.15)


def test_clipped_regions_do_not_lower_the_estimate():
    picture = noisy(1, 20)
    picture[:, :120] = np.clip(picture[:, :120] + 2, 0, 1)  # more than half is white
    picture = picture.clip(0, 1)
    assert estimate_sigma(picture) == pytest.approx([20], rel=0.12)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 400), (1, 15, 15)])
def test_a_picture_too_small_to_tell_counts_as_clean(shape):
    assert picture_sigma(estimate_sigma(np.random.default_rng(0).random(shape).astype(np.float32))) == 0


@pytest.fixture
def denoiser(tiny_weights):
    return lambda channels: Restorer(str(tiny_weights[channels]), RunOptions(device="cpu")).restore_pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_strength_blends_between_the_picture_and_the_restored_one(denoiser, channels):
    picture = noisy(channels, 25, (37, 53))
    run = denoiser(channels)
    full = run(picture, 25)
    assert np.abs(full - picture).max() > 1e-3
    assert np.array_equal(run(picture, 25, strength=0), picture)
    np.testing.assert_allclose(run(picture, 25, strength=0.25), 0.75 * picture + 0.25 * full, atol=1e-6)


def test_in_place_gives_the_same_and_uses_the_array(denoiser):
    picture = noisy(1, 25, (300, 310))
    expected = denoiser(1)(picture, 25)
    untouched = noisy(1, 25, (300, 310))
    assert np.array_equal(picture, untouched)
    result = denoiser(1)(picture, 25, in_place=True)
    assert np.array_equal(result, expected)
    assert np.shares_memory(result, picture)


def test_an_ensemble_is_the_mean_of_eight_orientations_and_so_turns_with_the_picture(denoiser, tiny_weights):
    picture = noisy(3, 25, (37, 53))
    single = denoiser(3)
    turns = [(flip, quarters) for flip in (1, -1) for quarters in range(4)]
    mean = np.mean(
        [
            np.rot90(single(np.rot90(picture[..., ::flip], k, (1, 2)), 25), -k, (1, 2))[..., ::flip]
            for flip, k in turns
        ],
        axis=0,
    )
    ensemble = Restorer(str(tiny_weights[3]), RunOptions(device="cpu", ensemble=True)).restore_pixels
    restored = ensemble(picture, 25)
    np.testing.assert_allclose(restored, mean, atol=1e-6)
    assert np.abs(restored - single(picture, 25)).max() > 1e-3
    for flip, k in turns[1:]:
        turned = np.ascontiguousarray(np.rot90(picture[..., ::flip], k, (1, 2)))
        expected = np.rot90(restored[..., ::flip], k, (1, 2))
        np.testing.assert_allclose(ensemble(turned, 25), expected, atol=1e-6)


def test_level_zero_gives_the_picture_itself(denoiser):
    picture = noisy(1, 25, (37, 53))
    assert np.array_equal(denoiser(1)(picture, 0), picture)


@pytest.mark.parametrize(
    ("sigma", "strength", "sentence"),
    [
        (76, 1, r"sigma is 76: these weights know 0 to 75"),
        (-1, 1, r"sigma is -1: these weights know"),
        (25, 1.5, r"strength is 1.5: give 0"),
    ],
)
def test_values_out_of_range_are_named_with_the_bound(denoiser, sigma, strength, sentence):
    with pytest.raises(UsageError, match=sentence):
        denoiser(1)(noisy(1, 25, (37, 53)), sigma, strength=strength)


def test_weights_for_the_other_channel_count_are_refused(denoiser):
    with pytest.raises(UsageError, match="made for gray pictures, this one is colour"):
        denoiser(1)(noisy(3, 25, (37, 53)), 25)


def test_pixels_that_are_not_finite_are_refused(denoiser):
    picture = noisy(1, 25, (37, 53))
    picture[0, 3, 4] = np.nan
    with pytest.raises(ShapeError, match="NaN or infinite"):
        denoiser(1)(picture, 25)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_the_shipped_weights_undo_what_clipping_does_to_black_and_white(channels, sigma):
    """Clipped noise of sigma 50 makes black 20 levels brighter. Within 3: the worst seen is 1.5."""
    restorer = Restorer(options=RunOptions(device="cpu"))
    for level in (0, 5, 250, 255):
        noise = np.random.default_rng(0).normal(level, sigma, (channels, 64, 64))
        stored = np.rint(noise.clip(0, 255)).astype(np.float32) / 255
        restored = restorer.restore_pixels(stored, sigma, clipped=True).clip(0, 1)
        assert abs(255 * restored.mean() - level) < 3


@pytest.fixture(scope="module")
def by_task(tmp_path_factory):
    """Weights for white noise and for photographs, as a restorer of shipped weights takes them."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {task: folder / f"{task}.safetensors" for task in ("denoise", "photo")}
    for seed, (task, path) in enumerate(paths.items()):
        save_checkpoint(path, tiny_model(3, seed, conditions=2), info={"task": task})
    return paths


@pytest.fixture
def chooser(by_task, monkeypatch):
    """A restorer without weights given, and what it finds."""

    def make(kind, noise="auto"):
        found = NoiseFinding(kind, (20.0, 21.0, 22.0), 15.0, False, kind == "camera", 0.99)
        monkeypatch.setattr(restorer_module, "noise_of", lambda *_: found)
        names = {task: str(path) for task, path in by_task.items()} | {"noise": "deepgsr-noise"}
        monkeypatch.setattr(load_module, "default_name", lambda task, channels: names[task])
        return Restorer(options=RunOptions(device="cpu"), noise=noise)

    return make


@pytest.mark.parametrize(
    ("kind", "noise", "sigma", "task", "told"),
    [
        ("white", "auto", None, "denoise", 21.02),
        ("camera", "auto", None, "photo", 15),
        ("none", "auto", None, None, 0),
        ("unknown", "auto", None, None, 0),
        ("unknown", "white", None, None, 0),
        ("camera", "white", None, "denoise", 21.02),
        ("none", "white", None, None, 0),
        ("white", "camera", None, "photo", 15),
        ("camera", "camera", None, "photo", 15),
        ("none", "camera", None, "photo", None),
        ("camera", "auto", 7, "denoise", 7),
        ("white", "camera", 7, "photo", 7),
    ],
)
def test_weights_and_level_are_chosen_by_what_is_found_and_said(chooser, kind, noise, sigma, task, told):
    choice = chooser(kind, noise).choose(noisy(3, 25, (37, 53)), sigma)
    assert (choice.restorer and choice.restorer.task) == task
    assert choice.sigma == (told if told is None else pytest.approx(told, abs=0.01))
    assert (choice.found is None) == (sigma is not None)


@pytest.mark.parametrize(
    ("noisy_share", "removed", "task"), [(0.98, 0.4, "photo"), (0.9, 0.7, "photo"), (0.9, 0.4, None)]
)
def test_what_the_network_leaves_is_texture_unless_noise_is_sure(
    chooser, monkeypatch, noisy_share, removed, task
):
    restorer = chooser("camera")
    found = replace(restorer_module.noise_of(None, None), noisy=noisy_share)
    monkeypatch.setattr(restorer_module, "noise_of", lambda *_: found)
    monkeypatch.setattr(Restorer, "share_removed", lambda *_: removed)
    choice = restorer.choose(noisy(3, 25, (37, 53)))
    assert (choice.restorer and choice.restorer.task) == task
    assert choice.found.kind == ("camera" if task else "unknown")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_share_removed_is_that_of_the_level_told(chooser, monkeypatch, channels):
    restorer = chooser("camera").camera
    monkeypatch.setattr(restorer, "restore_pixels", lambda x, sigma, clipped: x - 0.5 * sigma / 255)
    assert restorer.share_removed(noisy(channels, 5, (37, 53)), 8) == pytest.approx(0.5, rel=1e-3)


def test_weights_that_are_given_are_used_for_all_noise(chooser, by_task):
    restorer = chooser("camera")
    restorer.weights = str(by_task["denoise"])
    choice = restorer.choose(noisy(3, 25, (37, 53)))
    assert choice.restorer is restorer
    assert choice.sigma == pytest.approx(21.02, abs=0.01)


def test_a_picture_without_noise_comes_back_as_it_is_and_loads_no_weights(chooser):
    restorer = chooser("none")
    picture = (noisy(3, 25, (37, 53)) * 255).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    assert np.array_equal(restorer(picture), picture)
    assert restorer.all_loaded == {}


def test_the_network_for_photographs_is_told_the_level_or_that_nobody_knows_it(chooser, monkeypatch):
    restorer = chooser("camera").camera
    model = restorer.load(3).model
    told = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x, c: told.append(c.tolist()) or forward(x, c))
    picture = noisy(3, 25, (37, 53))
    blind = restorer.restore_pixels(picture)
    by_level = restorer.restore_pixels(picture, 51)
    assert told == [[UNKNOWN], [[pytest.approx(0.2), 1]]]
    assert not np.array_equal(blind, by_level)
    assert np.array_equal(restorer.restore_pixels(picture, 0), picture)


def test_gray_photographs_pass_as_three_equal_channels(chooser):
    restorer = chooser("camera")
    gray = noisy(1, 25, (37, 53))
    restored = restorer.camera.restore_pixels(gray, 15)
    in_three = restorer.camera.restore_pixels(np.repeat(gray, 3, axis=0), 15)
    np.testing.assert_allclose(restored[0], in_three.mean(0), atol=1e-6)


def test_what_was_used_is_known_for_the_report(chooser):
    restorer = chooser("camera")
    picture = noisy(3, 25, (37, 53)).transpose(1, 2, 0)
    restorer(picture)
    assert list(restorer.all_loaded) == ["photo, colour"]
    restorer(picture, 25)
    assert list(restorer.all_loaded) == ["colour", "photo, colour"]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("none", "no noise found, written unchanged"),
        (
            "unknown",
            "what may be noise may be texture, written unchanged; give --noise camera, or --sigma, to have it"
            " removed",
        ),
        ("white", "white noise found, sigma 20.0, 21.0, 22.0, removed by the weights for white noise"),
    ],
)
def test_a_choice_is_said_in_one_line(chooser, kind, sentence):
    assert chooser(kind).choose(noisy(3, 25, (37, 53))).words == sentence
