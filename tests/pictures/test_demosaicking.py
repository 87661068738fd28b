import numpy as np
import pytest
import torch

import deepgsr_cli
from deepgsr_cli.errors import OptionError, ShapeError
from deepgsr_cli.formats.image import Image, write_image
from deepgsr_cli.models.mosaics import bayer_mask, bilinear, malvar, mosaic_of
from deepgsr_cli.pictures.demosaicking import Demosaicker
from deepgsr_cli.pictures.mosaics import decoded, encoded, turned
from deepgsr_cli.pictures.restorer import RunOptions
from tests.dng import BLACK, NEUTRAL, WHITE, XYZ_TO_CAMERA, write_dng
from tests.samples import smooth_picture

PATTERNS = ["RGGB", "GRBG", "GBRG", "BGGR"]


def mosaic(pattern="RGGB", height=60, width=74):
    """What a sensor of that pattern records of a picture, pixel by pixel, and the picture."""
    clean = smooth_picture(3, height, width)
    colours = [["RGB".index(pattern[2 * (y % 2) + x % 2]) for x in range(width)] for y in range(height)]
    return np.take_along_axis(clean, np.array(colours)[None], axis=0)[0], clean


def test_the_mosaic_of_the_tests_is_that_of_training():
    values, clean = mosaic()
    np.testing.assert_array_equal(mosaic_of(torch.from_numpy(clean)[None])[0, 0].numpy(), values)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("method", ["deepgsr", "bilinear", "malvar"])
def test_each_pattern_gives_what_its_turned_mosaic_gives(pattern, method, mosaic_weights):
    demosaicker = Demosaicker(str(mosaic_weights), method=method)
    values, clean = mosaic(pattern)
    pixels = demosaicker(values, pattern)
    assert pixels.shape == clean.shape
    row, column = divmod(pattern.index("R"), 2)
    np.testing.assert_allclose(pixels[0, row::2, column::2], clean[0, row::2, column::2], atol=1e-6)
    np.testing.assert_array_equal(turned(pixels, pattern), demosaicker(turned(values, pattern)))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_interpolation_is_near_the_picture_for_the_right_pattern_alone(pattern):
    values, clean = mosaic(pattern)
    errors = {p: np.abs(Demosaicker(method="malvar")(values, p) - clean).mean() for p in PATTERNS}
    assert min(errors, key=errors.get) == pattern


@pytest.mark.parametrize(
    ("tile", "overlap", "height", "width"), [(104, 100, 110, 120), (120, 72, 150, 190), (200, 70, 250, 210)]
)
def test_tiles_make_no_difference_where_their_halo_holds_the_network(
    tile, overlap, height, width, mosaic_weights
):
    values, _ = mosaic(height=height, width=width)
    whole = Demosaicker(str(mosaic_weights), RunOptions(tile=0))(values, "GRBG", 7)
    tiled = Demosaicker(str(mosaic_weights), RunOptions(tile=tile, overlap=overlap))(values, "GRBG", 7)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["bilinear", "malvar"])
def test_tiles_make_no_difference_to_an_interpolation(method):
    values, _ = mosaic(height=90, width=130)
    whole = Demosaicker(method=method, options=RunOptions(tile=0))(values)
    tiled = Demosaicker(method=method, options=RunOptions(tile=64))(values)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-6)


def test_without_noise_what_is_measured_stays_and_with_it_it_does_not(mosaic_weights):
    values, _ = mosaic()
    mask = bayer_mask(torch.from_numpy(values)[None, None])[0].numpy()
    demosaicker = Demosaicker(str(mosaic_weights))
    np.testing.assert_array_equal((demosaicker(values) * mask).sum(0), values)
    assert np.abs((demosaicker(values, sigma=10.0) * mask).sum(0) - values).max() > 1e-3


def test_the_ensemble_of_an_interpolation_that_knows_no_direction_is_itself():
    values, _ = mosaic()
    inner = np.s_[:, 4:-4, 4:-4]
    one = Demosaicker(method="malvar")(values)
    eight = Demosaicker(method="malvar", options=RunOptions(ensemble=True))(values)
    np.testing.assert_allclose(eight[inner], one[inner], rtol=0, atol=1e-6)
    np.testing.assert_allclose(eight, one, rtol=0, atol=0.2)


def test_a_level_can_be_estimated(mosaic_weights):
    values, _ = mosaic(height=400, width=420)
    noisy = values + np.random.default_rng(0).normal(0, 8 / 255, values.shape).astype(np.float32)
    demosaicker = Demosaicker(str(mosaic_weights))
    assert demosaicker.level(noisy, "RGGB") == pytest.approx(8, rel=0.15)
    louder = values + np.random.default_rng(0).normal(0, 0.2, values.shape).astype(np.float32)
    assert demosaicker.level(louder, "RGGB") == 20


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"pattern": "RGBG"}, "pattern is RGBG: give the colours of the first 2 x 2 pixels"),
        ({"method": "ahd"}, "method is ahd: known are deepgsr, bilinear, malvar"),
        ({"sigma": 21}, "sigma is 21: these weights know 0 to 20"),
        ({"sigma": -1.0}, "sigma is -1: these weights know 0 to 20"),
        ({"sigma": 5, "method": "malvar"}, "sigma is 5: malvar removes no noise; give 0, or method deepgsr"),
        ({"white": 0.0}, "white is 0: give the value of white"),
        ({"black": 2.0}, "white is 1: give a value of white above that of black, 2"),
    ],
)
def test_what_cannot_be_is_a_sentence(arguments, sentence, mosaic_weights):
    with pytest.raises(OptionError, match=sentence):
        deepgsr_cli.demosaick(mosaic()[0], **{"weights": str(mosaic_weights), **arguments})


def test_weights_of_another_task_are_refused(tiny_weights):
    with pytest.raises(OptionError, match="trained for denoise; give weights for demosaick"):
        deepgsr_cli.demosaick(mosaic()[0], weights=str(tiny_weights[3]))


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((8, 8, 3), np.uint8), "an array of shape .* is no mosaic"),
        (np.zeros((8, 9), np.uint8), "the mosaic is 9 x 8 pixels"),
        (np.full((8, 8), np.nan, np.float32), "NaN or infinite"),
        (np.zeros((8, 8), np.int64), "give uint8, uint16 or floating point"),
    ],
)
def test_an_array_that_is_no_mosaic_is_a_sentence(array, sentence):
    with pytest.raises(ShapeError, match=sentence):
        deepgsr_cli.demosaick(array, method="malvar")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_an_array_comes_back_in_its_dtype(dtype):
    values, _ = mosaic()
    full = np.iinfo(dtype).max if dtype.startswith("uint") else 1
    array = np.rint(values * full).astype(dtype) if full > 1 else values.astype(dtype)
    found = deepgsr_cli.demosaick(array, method="bilinear")
    assert (found.shape, found.dtype) == ((60, 74, 3), np.dtype(dtype))
    expected = bilinear(torch.from_numpy(values)[None, None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found / full, expected, rtol=0, atol=1.01 / max(full, 200))


def test_a_tensor_comes_back_as_one_and_a_file_is_read(tmp_path, mosaic_weights):
    values, _ = mosaic("BGGR")
    tensor = torch.from_numpy(values)
    found = deepgsr_cli.demosaick(tensor, "bggr", 5, weights=str(mosaic_weights))
    assert torch.is_tensor(found)
    array = deepgsr_cli.demosaick(values, "BGGR", 5, weights=str(mosaic_weights))
    np.testing.assert_array_equal(found.numpy(), array)
    write_image(tmp_path / "m.png", Image(values[None], "uint16", "PNG"))
    of_file = deepgsr_cli.demosaick(tmp_path / "m.png", "BGGR", None, weights=str(mosaic_weights))
    assert (of_file.shape, of_file.dtype) == ((60, 74, 3), np.dtype("uint16"))


def test_srgb_is_encoded_as_its_standard_says_and_back():
    linear = np.array([-0.01, 0, 0.001, 0.0031308, 0.18, 0.5, 1])
    np.testing.assert_allclose(
        encoded(linear), [-0.1292, 0, 0.01292, 0.04045, 0.46136, 0.73536, 1], rtol=0, atol=2e-5
    )
    np.testing.assert_allclose(decoded(encoded(linear)), linear, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_gray_surface_before_a_camera_is_gray_and_as_bright(tmp_path, pattern):
    light = 0.4 * np.array(NEUTRAL)
    cell = np.array([light["RGB".index(colour)] for colour in pattern]).reshape(2, 2)
    values = np.rint(BLACK + np.tile(cell, (16, 24)) * (WHITE - BLACK)).astype(np.uint16)
    write_dng(tmp_path / "gray.dng", values, pattern)
    found = deepgsr_cli.demosaick(tmp_path / "gray.dng", method="malvar")
    np.testing.assert_allclose(found / 65535, encoded(np.full(found.shape, 0.4)), rtol=0, atol=2e-3)


def test_colours_before_a_camera_come_out_as_they_are(tmp_path):
    matrix = np.linalg.inv(camera_matrix())
    srgb = np.array([0.5, 0.3, 0.2])  # in linear light
    camera = (matrix @ srgb) * np.array(NEUTRAL)
    cell = camera[[0, 1, 1, 2]].reshape(2, 2)
    values = np.rint(BLACK + np.tile(cell, (16, 24)) * (WHITE - BLACK)).astype(np.uint16)
    write_dng(tmp_path / "flat.dng", values, orientation=6)
    found = deepgsr_cli.demosaick(tmp_path / "flat.dng", method="malvar")
    assert found.shape == (48, 32, 3)  # upright
    np.testing.assert_allclose(found / 65535, np.broadcast_to(encoded(srgb), found.shape), rtol=0, atol=3e-3)


def camera_matrix():
    """From balanced camera colours to linear sRGB; DNG 1.4 and IEC 61966-2-1, white becoming white."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    from_srgb = np.array(XYZ_TO_CAMERA) @ to_xyz
    return np.linalg.inv(from_srgb / from_srgb.sum(1, keepdims=True))


def test_malvar_is_what_the_method_computes():
    values, _ = mosaic()
    expected = malvar(torch.from_numpy(values)[None, None])[0].numpy()
    np.testing.assert_allclose(Demosaicker(method="malvar")(values), expected, rtol=0, atol=1e-6)


def test_tiles_are_chosen_by_a_share_of_the_memory(free_bytes_given):
    mosaic = np.arange(256, dtype=np.float32).reshape(16, 16) / 255
    for sharing in (1, 4):
        Demosaicker(options=RunOptions("cpu", sharing=sharing), method="malvar")(mosaic)
    assert free_bytes_given == [12 << 30, 3 << 30]
