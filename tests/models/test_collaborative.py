"""Collaborative filtering against its definition, and what the network makes of it."""

import dataclasses
import functools
import tracemalloc

import numpy as np
import pytest
import pywt
import scipy.fft
import torch

from deepgsr_cli.models import PRESETS, DeepGSR, DeepGSRConfig, collaborative
from deepgsr_cli.models.collaborative import PATCH, STRIDE, collaborative_filter, filter_margin
from deepgsr_cli.models.deepgsr import filter_of

SIGMA = 0.1


def _noisy(*shape, seed=0):
    """Squares of 12 pixels, shaded, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    squares = 0.3 + 0.3 * ((y // 6 + x // 6) % 2) + 0.2 * x / shape[-1]
    return torch.from_numpy((squares + rng.normal(0, SIGMA, shape)).astype(np.float32))


def _tensor_engine(image, radius, threshold):
    """The tensor engine in the place of the compiled one."""
    return collaborative._tensor_engine(image[None], radius, torch.tensor([threshold]))[0]


@pytest.fixture(params=["compiled", "tensor"])
def engine(request, monkeypatch):
    if request.param == "tensor":
        monkeypatch.setattr(collaborative, "_compiled_engine", _tensor_engine)


@functools.cache
def _by_definition(height, width, threshold, radius):
    """Estimate and share of a noisy image, (H, W), by BM3D's definition, patch by patch."""
    image = _noisy(1, 1, height, width)[0, 0].numpy()
    counts = [max(0, -(-(size - PATCH) // STRIDE)) + 1 for size in image.shape]
    padding = [(radius, radius + (n - 1) * STRIDE + PATCH - size) for n, size in zip(counts, image.shape)]
    z = np.pad(image, padding, mode="symmetric").astype(float)
    patches = np.lib.stride_tricks.sliding_window_view(z, (PATCH, PATCH))
    window = np.outer(np.kaiser(PATCH, 2), np.kaiser(PATCH, 2))
    total, weights, kept_weights = np.zeros_like(z), np.zeros_like(z), np.zeros_like(z)
    for top in range(radius, radius + counts[0] * STRIDE, STRIDE):
        for left in range(radius, radius + counts[1] * STRIDE, STRIDE):
            candidates = patches[top - radius : top + radius + 1, left - radius : left + radius + 1]
            distances = ((candidates - patches[top, left]) ** 2).sum((2, 3))
            nearest = np.argsort(distances, axis=None, kind="stable")[:16]
            rows, columns = np.unravel_index(nearest, distances.shape)
            corners = zip(rows + top - radius, columns + left - radius)
            places = [(slice(y, y + PATCH), slice(x, x + PATCH)) for y, x in corners]
            transformed = scipy.fft.dctn([z[place] for place in places], axes=(1, 2), norm="ortho")
            bands = pywt.wavedec(transformed, "haar", axis=0)
            kept = sum(int((abs(band) >= threshold).sum()) for band in bands)
            kept += int(abs(bands[0][0, 0, 0]) < threshold)
            mean = bands[0][0, 0, 0]
            bands = [np.where(abs(band) >= threshold, band, 0) for band in bands]
            bands[0][0, 0, 0] = mean
            group = scipy.fft.idctn(pywt.waverec(bands, "haar", axis=0), axes=(1, 2), norm="ortho")
            for place, patch in zip(places, group):
                total[place] += window / kept * patch
                weights[place] += window / kept
                kept_weights[place] += window / (16 * PATCH**2)
    inner = (slice(radius, radius + height), slice(radius, radius + width))
    return total[inner] / weights[inner], kept_weights[inner] / weights[inner]


@pytest.mark.parametrize("shape", [(26, 37), (31, 20)])
def test_the_filter_is_bm3ds_first_step(engine, shape):
    image = _noisy(1, 1, *shape)
    estimate, share = collaborative_filter(image, torch.tensor([SIGMA]), 5)
    expected, expected_share = _by_definition(*shape, 2.7 * SIGMA, 5)
    assert estimate.shape == share.shape == image.shape
    np.testing.assert_allclose(estimate[0, 0], expected, atol=2e-6)
    np.testing.assert_allclose(share[0, 0], expected_share, atol=2e-6)


def test_engines_agree_in_colour(monkeypatch):
    image = _noisy(2, 3, 45, 70)
    sigma = torch.tensor([SIGMA, 2 * SIGMA])
    expected = collaborative_filter(image, sigma, 7)
    monkeypatch.setattr(collaborative, "_compiled_engine", _tensor_engine)
    for a, b in zip(collaborative_filter(image, sigma, 7), expected):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


def test_colours_of_a_gray_image_are_filtered_as_the_gray_image_with_less_noise():
    gray = _noisy(1, 1, 40, 48)
    estimate, _ = collaborative_filter(gray.expand(-1, 3, -1, -1), torch.tensor([SIGMA]), 8)
    # The orthonormal mean of three equal channels is sqrt(3) times as large, its noise said to be sigma.
    expected, _ = collaborative_filter(gray, torch.tensor([SIGMA / 3**0.5]), 8)
    torch.testing.assert_close(estimate, expected.expand(-1, 3, -1, -1), atol=2e-6, rtol=0)


def test_without_noise_the_image_comes_back_and_all_is_kept(engine):
    image = _noisy(1, 1, 30, 41)
    estimate, share = collaborative_filter(image, torch.tensor([0.0]), 6)
    torch.testing.assert_close(estimate, image, atol=2e-6, rtol=0)
    torch.testing.assert_close(share, torch.ones_like(share), atol=1e-5, rtol=0)


def test_the_share_is_that_of_the_noise_where_patches_repeat():
    rng = np.random.default_rng(1)
    clean = np.tile(rng.random((5, 7)), (20, 15)).astype(np.float32)  # 35 repetitions in a window
    noisy = clean + rng.normal(0, SIGMA, clean.shape).astype(np.float32)
    estimate, share = collaborative_filter(torch.from_numpy(noisy)[None, None], torch.tensor([SIGMA]), 16)
    error = (estimate[0, 0].numpy() - clean)[24:-24, 24:-24]
    assert error.var() < 0.2 * SIGMA**2
    assert 0.5 < error.var() / SIGMA**2 / share[0, 0, 24:-24, 24:-24].mean() < 2


def test_the_number_of_threads_changes_nothing():
    image, sigma = _noisy(1, 1, 130, 190), torch.tensor([SIGMA])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = collaborative_filter(image, sigma, 9)
        torch.set_num_threads(3)
        for a, b in zip(collaborative_filter(image, sigma, 9), expected):
            assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


def test_an_estimate_depends_on_the_pixels_of_two_searches_around_it_alone(engine):
    image, sigma, radius = _noisy(1, 1, 100, 120), torch.tensor([SIGMA]), 8
    whole, _ = collaborative_filter(image, sigma, radius)
    margin = 2 * (radius + PATCH)
    top, left = 4 * STRIDE, 6 * STRIDE
    part, _ = collaborative_filter(image[..., top : top + 84, left : left + 88], sigma, radius)
    inner = part[..., margin:-margin, margin:-margin]
    expected = whole[..., top + margin : top + 84 - margin, left + margin : left + 88 - margin]
    torch.testing.assert_close(inner, expected, atol=2e-6, rtol=0)


def test_half_precision_of_the_network_leaves_the_filter_exact():
    image, sigma = _noisy(1, 3, 20, 24), torch.tensor([SIGMA])
    expected, _ = collaborative_filter(image, sigma, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(collaborative_filter(image, sigma, 6)[0], expected)


def test_every_image_of_a_batch_is_filtered_by_its_own_level():
    images, sigma = _noisy(3, 1, 20, 24), torch.tensor([0.05, 0.1, 0.2])
    together = collaborative_filter(images, sigma, 6)
    for i in range(3):
        for a, b in zip(collaborative_filter(images[i : i + 1], sigma[i : i + 1], 6), together):
            assert torch.equal(a[0], b[i])


TINY = DeepGSRConfig(
    stem=1, widths=(8, 8), encoder=(1, 1), decoder=(1,), encoder_groups=(0, 0), decoder_groups=(0,), search=4
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (9, 23), (32, 40)])
def test_the_network_blends_its_own_result_with_the_filters(channels, shape):
    torch.manual_seed(0)
    model = DeepGSR(dataclasses.replace(TINY, channels=channels)).eval()
    x, level = torch.rand(2, channels, *shape), torch.tensor([[0.1], [0.2]])
    estimate, _ = collaborative_filter(x, level[:, 0], TINY.search)
    strength = (level / (level + 1 / 255))[..., None, None]
    with torch.no_grad():
        # Its last layer is zero at first: by itself it changes nothing. The share's logarithmic odds, -3 at
        # first, are bounded by 4, so that a gradient always leads back.
        for bias in (-3, 50, -50):
            model.blend.bias.fill_(bias)
            share = 1 / (1 + np.exp(-4 * np.tanh(bias / 4)))
            torch.testing.assert_close(model(x, level), x + strength * share * (estimate - x))


def test_the_network_is_shown_the_estimate():
    torch.manual_seed(0)
    model = DeepGSR(TINY)
    x, level = torch.rand(1, 1, 24, 24), torch.tensor([[0.1]])
    model.tail.weight.data.normal_()
    model.filtered_head.weight.data.normal_()
    model.blend.bias.data.fill_(-50)
    before = model(x, level)
    model.filtered_head.weight.data.zero_()
    assert not torch.allclose(before, model(x, level))


def test_a_picture_said_to_be_free_of_noise_comes_back():
    torch.manual_seed(0)
    model = DeepGSR(TINY)
    model.tail.weight.data.normal_()
    x = torch.rand(1, 1, 16, 20)
    assert torch.equal(model(x, torch.zeros(1, 1)), x)


def test_the_preset_takes_fewer_than_60_thousand_multiply_adds_a_pixel():
    from torch.utils.flop_counter import FlopCounterMode

    config = PRESETS["collaborative"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        DeepGSR(config)(torch.zeros(1, 1, 256, 256), torch.zeros(1, 1))
    # Of the filter: squares of the differences; two DCTs of a group's lines and back, four Haar transforms
    # of its members and back, and its weighted sum; all for every group, one to 16 pixels.
    members = 16 * PATCH**2
    group = members * (4 * PATCH + 2 * 4 + 1)
    per_pixel = (2 * config.search + 1) ** 2 + group / STRIDE**2
    assert 0 < counter.get_total_flops() / 2 / 256**2 < 60_000 - per_pixel


@pytest.mark.parametrize("change", [{"search": 1}, {"search": 101}, {"conditions": 0}, {"outputs": 2}])
def test_a_search_needs_a_radius_and_the_level_of_the_noise(change):
    with pytest.raises(ValueError, match="radius of 2 to 100 pixels, and needs the noise level"):
        dataclasses.replace(TINY, **change)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_computes_the_same():
    image, sigma = _noisy(2, 3, 90, 110), torch.tensor([SIGMA, 2 * SIGMA])
    expected = collaborative_filter(image, sigma, 16)
    for a, b in zip(collaborative_filter(image.cuda(), sigma.cuda(), 16), expected):
        torch.testing.assert_close(a.cpu(), b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_tensor_engine_filters_a_batch_as_its_images_one_by_one(channels):
    maps = _noisy(3, channels, 37 + 8 - 1, 41 + 8 - 1)
    thresholds = torch.tensor([0.1, 0.2, 0.3])
    together = collaborative._tensor_engine(maps, 4, thresholds)
    for image, threshold, sums in zip(maps, thresholds.tolist(), together):
        torch.testing.assert_close(sums, _tensor_engine(image, 4, threshold), rtol=1e-4, atol=1e-4)


def test_a_known_estimate_gives_what_the_network_finds_itself():
    torch.manual_seed(0)
    shape = dataclasses.replace(PRESETS["collaborative"], widths=(8, 8), encoder=(1, 1), decoder=(1,),
                                encoder_groups=(0, 0), decoder_groups=(0,))  # fmt: skip
    model = DeepGSR(shape).eval()
    torch.nn.init.normal_(model.filtered_head.weight, std=0.02)
    torch.nn.init.normal_(model.tail.weight, std=0.02)
    x, condition = _noisy(2, 1, 33, 40), torch.tensor([[SIGMA], [SIGMA / 2]])
    with torch.inference_mode():
        filtered = filter_of(x, condition[:, 0], shape.search)
        torch.testing.assert_close(model(x, condition, filtered), model(x, condition), rtol=0, atol=0)


def test_blocks_that_are_added_one_by_one_give_what_all_together_give(monkeypatch):
    images = _noisy(2, 3, 33, 131)
    whole = collaborative_filter(images, torch.tensor([SIGMA, 2 * SIGMA]), 6)
    monkeypatch.setattr(collaborative, "_BLOCKS_A_THREAD", 1)
    pieces = collaborative_filter(images, torch.tensor([SIGMA, 2 * SIGMA]), 6)
    for a, b in zip(whole, pieces):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_the_filter_holds_sums_of_the_image_and_of_few_blocks(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    image = _noisy(1, 3, 400, 1600)
    tracemalloc.start()
    try:
        collaborative_filter(image, torch.tensor([SIGMA]), 6)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sums = 4 * 7 * (400 + 12) * (1600 + 12)
    assert sums < most < 1.5 * sums


def test_a_part_of_an_image_with_its_margins_gives_what_the_whole_gives():
    images, sigma = _noisy(2, 3, 33, 171), torch.tensor([SIGMA, 2 * SIGMA])
    start, stop, margin = 40, 80, filter_margin(6)
    parts = collaborative_filter(images[..., start - margin : stop + margin], sigma, 6)
    for whole, part in zip(collaborative_filter(images, sigma, 6), parts):
        inner = part[..., margin:-margin]
        torch.testing.assert_close(inner, whole[..., start:stop], rtol=0, atol=1e-5)
