import numpy as np
import pytest
import skimage.metrics

from deepgsr_cli.evaluation.metrics import luma_inside, luma_y, psnr, psnr_b, rounded8, ssim
from deepgsr_cli.formats.codecs import gray


def pair(*shape):
    generator = np.random.default_rng(0)
    clean = generator.random(shape)
    return np.clip(clean + generator.normal(0, 0.1, shape), 0, 1), clean


@pytest.mark.parametrize("shape", [(1, 37, 53), (3, 40, 31), (1, 11, 11)])
def test_psnr_and_ssim_are_those_of_scikit_image_with_the_papers_parameters(shape):
    noisy, clean = pair(*shape)
    expected = skimage.metrics.peak_signal_noise_ratio(clean, noisy, data_range=1)
    assert psnr(noisy, clean) == pytest.approx(expected, abs=1e-9)
    # scikit-image averages over the pixels whose window lies within the image, as we do.
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected = np.mean([skimage.metrics.structural_similarity(a, b, **options) for a, b in zip(clean, noisy)])
    assert ssim(noisy, clean) == pytest.approx(expected, abs=1e-7)


def test_equal_pictures():
    _, clean = pair(3, 20, 20)
    assert psnr(clean, clean) == np.inf
    assert ssim(clean, clean) == pytest.approx(1)


def test_edges_of_blocks_lower_the_psnr_by_their_squared_height():
    clean = np.full((2, 40, 64), 0.5)
    noisy = clean + np.random.default_rng(0).normal(0, 0.1, clean.shape)
    steps = np.zeros((40, 64))
    steps[:, 8:16] = 0.5  # two edges, each along 40 pixels, of height 0.5
    flat = np.zeros((1, 40, 64))
    error = np.mean(steps**2)
    # Of 4 x 64 pairs across horizontal edges and 7 x 40 across vertical ones, 2 x 40 differ.
    effect = 0.5**2 * 80 / (4 * 64 + 7 * 40) * np.log2(8) / np.log2(40)
    assert psnr_b(steps[None], flat) == pytest.approx(-10 * np.log10(error + effect))
    # Within blocks they count for nothing, and noise has none.
    shifted = np.roll(steps, 3, axis=1)
    assert psnr_b(shifted[None], flat) == pytest.approx(psnr(shifted[None], flat))
    single = np.mean([psnr(x[None], y[None]) for x, y in zip(noisy, clean)])
    assert single - 0.3 < psnr_b(noisy, clean) <= single
    assert psnr_b(flat, flat) == np.inf


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8), (9, 3), (3, 9)])
def test_small_pictures_have_few_edges_or_none(size):
    noisy, clean = pair(1, *size)
    assert psnr_b(noisy, clean) <= psnr(noisy, clean)


def test_peak_scales_both_alike():
    noisy, clean = pair(1, 20, 30)
    assert psnr_b(255 * noisy, 255 * clean, peak=255) == pytest.approx(psnr_b(noisy, clean))
    assert psnr(255 * noisy, 255 * clean, peak=255) == pytest.approx(psnr(noisy, clean))
    assert ssim(255 * noisy, 255 * clean, peak=255) == pytest.approx(ssim(noisy, clean))


def test_pictures_smaller_than_the_window_have_a_similarity():
    noisy, clean = pair(1, 1, 5)
    assert 0 < ssim(noisy, clean) < 1


def test_rounding_is_that_of_an_8_bit_file():
    levels = rounded8(np.array([-0.2, 0.0019, 0.0021, 0.5, 1.3]))
    assert (levels * 255).tolist() == pytest.approx([0, 0, 1, 128, 255])


def test_gray_is_bt601_luma_and_keeps_gray():
    colour = np.array([[[1.0]], [[0.5]], [[0.25]]])
    assert gray(colour) == pytest.approx(0.299 + 0.587 / 2 + 0.114 / 4, abs=1e-3)
    assert gray(np.full((3, 2, 2), 0.7)) == pytest.approx(0.7)


def test_luma_y_is_the_broadcast_range_of_bt601():
    corners = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float).T[..., None]
    np.testing.assert_allclose(luma_y(corners)[0, :, 0] * 255, [16, 235, 81.481, 144.553, 40.966], atol=1e-9)


def test_luma_inside_is_that_of_the_rounded_pixels_without_their_edges():
    pixels = np.random.default_rng(0).uniform(-0.1, 1.1, (3, 20, 23))
    expected = luma_y(rounded8(pixels))[:, 3:17, 3:20]
    found = luma_inside(pixels, 3)
    np.testing.assert_array_equal(found, expected)
    pixels[:, :3] = pixels[:, :, -3:] = 0
    np.testing.assert_array_equal(luma_inside(pixels, 3), expected)
