import numpy as np
import pytest
import torch
from scipy import ndimage

from deepgsr_cli.ct.api import denoise_ct
from deepgsr_cli.ct.denoising import (
    check_level,
    denoised,
    estimate_level,
    level_of,
    to_hu,
    to_network,
)
from deepgsr_cli.errors import OptionError, ShapeError
from deepgsr_cli.pictures.restorer import RunOptions
from tests.samples import body_hu, tiny_model

OPTIONS = RunOptions("cpu")


def noise_of(smoothness_px, level_hu, size=256):
    noise = np.random.default_rng(0).normal(size=(size, size))
    noise = ndimage.gaussian_filter(noise, smoothness_px) if smoothness_px else noise
    # As filtered backprojection has it: hardly any at low frequencies.
    noise -= ndimage.gaussian_filter(noise, 3 + 2 * smoothness_px)
    return (level_hu * noise / noise.std()).astype(np.float32)


@pytest.mark.parametrize("smoothness_px", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("level_hu", [15.0, 60.0])
def test_the_level_is_found_whatever_the_kernel(smoothness_px, level_hu):
    noisy = body_hu(size=256) + noise_of(smoothness_px, level_hu)
    assert estimate_level(noisy) == pytest.approx(level_hu, rel=0.35)


def test_the_level_grows_with_the_noise_and_not_with_the_anatomy():
    noise = noise_of(0.8, 1.0)
    weak, strong = (estimate_level(body_hu(size=256) + factor * noise) for factor in (20, 40))
    assert strong == pytest.approx(2 * weak, rel=0.1)
    assert estimate_level(body_hu(size=256)) < 2


def test_water_of_one_value_has_no_noise():
    assert estimate_level(np.zeros((64, 64))) == 0


@pytest.mark.parametrize(
    "hu", [np.zeros((5, 7)), np.full((64, 64), -1000.0), body_hu() + noise_of(0, 30, 64)]
)
def test_the_level_is_not_guessed_where_there_is_little_tissue(hu):
    assert estimate_level(hu) is None
    assert level_of(hu, None).hu == 0
    assert level_of(hu, None).note.startswith("too little soft tissue to tell the noise, unchanged; give")


def test_a_level_that_is_given_is_taken_and_beyond_the_network_its_most():
    assert level_of(body_hu(), 12.0).hu == 12
    clean, loud = level_of(body_hu(size=256), None), level_of(body_hu(size=256) + noise_of(0.0, 500.0), None)
    assert (clean.hu, clean.note) == (0, "no noise found, unchanged")
    assert loud.hu == 200
    assert "HU found; the network knows 200 HU, and leaves the rest" in loud.note
    with pytest.raises(OptionError, match="sigma is 201: of CT, give the level in HU, 0 to 200"):
        check_level(201.0)


def test_the_scale_of_the_network_goes_back_and_forth():
    hu = torch.tensor([-1024.0, -1000.0, 0.0, 3071.0])
    torch.testing.assert_close(to_hu(to_network(hu)), hu)
    assert to_network(0.0 * hu)[0] == 0.5


def test_only_what_the_network_knows_changes():
    hu = body_hu()
    hu[0, :3], hu[0, 3:6] = -2000.0, 4000.0
    result = denoised(tiny_model(1), hu, 30.0, OPTIONS)
    assert (result.shape, result.dtype) == (hu.shape, np.float32)
    same = result == hu
    assert same[0, :6].all()
    assert same[1:].mean() < 0.1
    half = denoised(tiny_model(1), hu, 30.0, OPTIONS, strength=0.5)
    np.testing.assert_allclose(half[8:], ((hu + result) / 2)[8:], atol=1e-3)


@pytest.mark.parametrize(("level", "strength"), [(0.0, 1.0), (30.0, 0.0)])
def test_nothing_to_remove_leaves_the_slice_exactly(level, strength):
    hu = body_hu()
    assert (denoised(tiny_model(1), hu, level, OPTIONS, strength=strength) == hu).all()


def test_tiles_make_no_difference_to_a_network_without_groups(ct_weights):
    from tests.samples import load_checkpoint

    model, hu = load_checkpoint(ct_weights).model, body_hu(size=160)
    whole = denoised(model, hu, 30.0, OPTIONS)
    tiled = denoised(model, hu, 30.0, RunOptions("cpu", tile=128))
    np.testing.assert_allclose(tiled, whole, atol=0.05)


def test_arrays_of_one_and_of_several_slices(ct_weights):
    volume = np.stack([body_hu(), body_hu(4.0)])
    results = denoise_ct(volume, 20.0, weights=str(ct_weights), device="cpu")
    assert (results.shape, results.dtype) == (volume.shape, np.float32)
    alone = denoise_ct(volume[1].astype(np.int16), 20.0, weights=str(ct_weights), device="cpu")
    assert (results[1] == alone).all()
    assert (results != volume).mean() > 0.5


@pytest.mark.parametrize(
    ("hu", "options", "error", "sentence"),
    [
        (np.zeros((2, 2, 2, 2)), {}, ShapeError, r"shape \(2, 2, 2, 2\); give real numbers, \(H, W\) in HU"),
        (np.full((8, 8), np.nan), {}, ShapeError, "has NaN or infinity in 64 of its values"),
        (np.zeros((8, 8)), {"sigma": -1.0}, OptionError, "sigma is -1: of CT, give the level in HU"),
        (np.zeros((8, 8)), {"strength": 2.0}, OptionError, "strength is 2: give 0"),
    ],
)
def test_arrays_that_cannot_be_are_refused(hu, options, error, sentence, ct_weights):
    with pytest.raises(error, match=sentence):
        denoise_ct(hu, weights=str(ct_weights), device="cpu", **options)


def test_weights_for_pictures_are_refused(tiny_weights):
    with pytest.raises(OptionError, match="trained for denoise; for CT slices, give weights for ct-denoise"):
        denoise_ct(body_hu(), 20.0, weights=str(tiny_weights[1]), device="cpu")
