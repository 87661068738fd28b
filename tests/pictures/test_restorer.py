from dataclasses import replace

import numpy as np
import pytest
import torch

from deepgsr_cli.compute import precision
from deepgsr_cli.compute.tiling import apply_tiled
from deepgsr_cli.errors import ShapeError, UsageError
from deepgsr_cli.formats.codecs import JpegCoding
from deepgsr_cli.formats.image import read_image
from deepgsr_cli.formats.jpeg import jpeg_file
from deepgsr_cli.models import NSR, NSRConfig
from deepgsr_cli.pictures import restorer as restorer_module
from deepgsr_cli.pictures.compression import of_coding, of_quality
from deepgsr_cli.pictures.findings import NoiseFinding
from deepgsr_cli.pictures.noise import estimate_sigma, picture_sigma
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from deepgsr_cli.weights import load as load_module
from deepgsr_cli.weights.checkpoint import save_checkpoint
from tests.samples import smooth_picture, tiny_model
from tests.waiting import NoWaiting


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


@pytest.mark.parametrize("brightness", [0.1, 0.25, 0.8])
def test_what_clipping_takes_off_noise_is_added_to_the_estimate(brightness):
    clean = np.float32(brightness) + smooth_picture(1, 200, 231) / 10
    noise = np.random.default_rng(0).normal(0, 40 / 255, clean.shape).astype(np.float32)
    picture = np.rint((clean + noise).clip(0, 1) * 255).astype(np.uint8)
    assert estimate_sigma(picture) == pytest.approx([40], rel=0.06)


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


@pytest.mark.parametrize("channels", [1, 3])
def test_an_area_of_one_colour_keeps_it(denoiser, channels):
    picture = noisy(channels, 25, (37, 53))
    picture[:, 10:35, 20:] = np.reshape([0.9, 0.1, 0.3][:channels], (-1, 1, 1))
    restored = denoiser(channels)(picture, 25)
    assert np.array_equal(restored[:, 10:35, 20:], picture[:, 10:35, 20:])
    assert np.abs(restored - picture)[:, :, :20].mean() > 1e-3


def test_in_place_gives_the_same_and_uses_the_array(denoiser):
    picture = noisy(1, 25, (300, 310))
    expected = denoiser(1)(picture, 25)
    untouched = noisy(1, 25, (300, 310))
    assert np.array_equal(picture, untouched)
    result = denoiser(1)(picture, 25, in_place=True)
    assert np.array_equal(result, expected)
    assert np.shares_memory(result, picture)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_filter_over_rows_of_tiles_gives_what_the_network_gives_by_itself(channels):
    picture = noisy(channels, 25, (90, 120))
    restorer = Restorer(options=RunOptions(device="cpu"))
    model = restorer.load(channels).model
    assert model.config.search
    condition = torch.zeros(1, model.config.conditions)
    condition[0, 0] = 25 / 255
    with torch.no_grad():
        expected = model(torch.from_numpy(picture)[None], condition)[0]
    np.testing.assert_allclose(restorer.restore_pixels(picture, 25), expected, atol=1e-6)
    tiles = Restorer(options=RunOptions(device="cpu", tile=256))
    larger = noisy(channels, 25, (150, 400))
    whole, tiled = restorer.restore_pixels(larger, 25), tiles.restore_pixels(larger, 25)
    assert np.abs(whole - tiled).mean() < 0.5 / 255


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


@pytest.mark.parametrize("weights", ["deepgsr-gray", "deepgsr-gray-fast"])
def test_bf16_moves_what_a_shipped_network_makes_by_a_fraction_of_a_level(weights):
    picture = noisy(1, 15, (96, 96))
    results = [
        Restorer(weights, RunOptions("cpu", name)).restore_pixels(picture, 15) for name in ("fp32", "bf16")
    ]
    assert 1e-5 < np.sqrt(np.square(results[1] - results[0]).mean()) < 0.25 / 255


def test_auto_is_bf16_where_there_are_units_for_it(monkeypatch, tiny_weights):
    picture = noisy(1, 25, (37, 53))

    def outcome(asked):
        options = RunOptions("cpu", asked)
        restored = Restorer(str(tiny_weights[1]), options).restore_pixels(picture, 25)
        return restored.tolist(), options.protocol["precision"]

    bf16, fp32 = outcome("bf16"), outcome("fp32")
    assert bf16[0] != fp32[0]
    assert outcome("auto") == fp32
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    assert outcome("auto") == bf16


NETWORKS = [
    ("denoise", 1, 1, {}),
    ("denoise", 3, 1, {"search": 4}),
    ("derain", 1, 0, {}),
    ("dejpeg", 3, 5, {}),
]


@pytest.fixture(params=NETWORKS, ids=lambda row: f"{row[0]}-{row[1]}")
def restoring(request, tmp_path):
    """What restores a small picture on a device, by a small network of a task."""
    task, channels, conditions, fields = request.param
    width = 3 if task == "derain" else channels
    save_checkpoint(
        tmp_path / "tiny.safetensors", tiny_model(width, conditions=conditions, **fields), info={"task": task}
    )
    picture = noisy(channels, 20, (70, 93)).clip(0, 1)

    def run(device):
        restorer = Restorer(str(tmp_path / "tiny.safetensors"), RunOptions(device, tile=64), task=task)
        if task == "dejpeg":
            return restorer.restore_compressed(picture, of_quality(40, channels), strength=0.5)
        return restorer.restore_pixels(picture, 20 if task == "denoise" else None, strength=0.5)

    return run


def test_nothing_that_is_done_to_tiles_waits_for_the_device(restoring, monkeypatch, on_meta):
    class Begun(Exception):
        pass

    def begin(function, image, tiles, **options):
        shape = len(image) + (0 if tiles.prepare is None else 2 * len(image)), 48, 64
        tiles = torch.empty(2, *shape, device=on_meta)
        with torch.no_grad():
            function(tiles)  # constants are copied at their first use
            with NoWaiting():
                assert function(tiles).shape == (2, len(image), 48, 64)
        raise Begun

    monkeypatch.setattr(restorer_module, "apply_tiled", begin)
    monkeypatch.setattr(restorer_module, "select_device", lambda name: on_meta)
    monkeypatch.setattr(restorer_module, "free_memory", lambda device: 2**30)
    monkeypatch.setattr(load_module, "select_device", lambda name: on_meta)
    with pytest.raises(Begun):
        restoring("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_restores_the_same_and_is_waited_for_by_no_tile(restoring, monkeypatch):
    def watched(*arguments, **options):
        apply_tiled(*arguments, **options)  # constants are copied, and kernels chosen, at their first use
        torch.cuda.set_sync_debug_mode("error")
        try:
            return apply_tiled(*arguments, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    expected = restoring("cpu")
    monkeypatch.setattr(restorer_module, "apply_tiled", watched)
    np.testing.assert_allclose(restoring("cuda"), expected, rtol=0, atol=2e-3)


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


@pytest.fixture
def enlarger(upscale_weights):
    return lambda **options: Restorer(str(upscale_weights), RunOptions("cpu", **options), task="upscale")


@pytest.mark.parametrize(
    "shape", [(20, 23), (20, 23, 1), (20, 23, 2), (20, 23, 3), (20, 23, 4), (2, 20, 23, 4)]
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_arrays_of_any_kind_are_enlarged(enlarger, shape, dtype):
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    array = (np.random.default_rng(0).uniform(0.2, 0.8, shape) * white).astype(dtype)
    large = enlarger().enlarge(array, 3)
    axes = [i for i, length in enumerate(shape) if length in (20, 23)]
    assert large.shape == tuple(3 * n if i in axes else n for i, n in enumerate(shape))
    assert large.dtype == array.dtype
    if len(shape) == 4:
        np.testing.assert_array_equal(large[1], enlarger().enlarge(array[1], 3))


def test_a_gray_picture_is_enlarged_as_the_colour_picture_of_three_equal_channels(enlarger):
    gray = noisy(1, 5, (20, 23))
    colour = enlarger().enlarge_pixels(gray.repeat(3, 0), 2)
    found = enlarger().enlarge_pixels(gray, 2)
    np.testing.assert_allclose(found[0], colour.mean(0), rtol=0, atol=1e-6)


def test_an_ensemble_turns_with_the_picture(enlarger):
    picture = noisy(3, 5, (20, 23))
    turned = np.rot90(picture, axes=(1, 2)).copy()
    run = enlarger(ensemble=True).enlarge_pixels
    np.testing.assert_allclose(run(turned, 2), np.rot90(run(picture, 2), axes=(1, 2)), rtol=0, atol=1e-5)
    assert np.abs(run(picture, 2) - enlarger().enlarge_pixels(picture, 2)).max() > 1e-3


@pytest.mark.parametrize(
    ("scale", "method", "sentence"),
    [
        (5, "deepgsr", "scale is 5: give 2, 3 or 4"),
        (2, "nearest", "method is nearest: known are deepgsr, bicubic, lanczos"),
    ],
)
def test_a_scale_or_method_that_is_not_there_is_named(enlarger, scale, method, sentence):
    with pytest.raises(UsageError, match=sentence):
        enlarger().enlarge_pixels(noisy(3, 5, (20, 23)), scale, method)
    with pytest.raises(UsageError, match=sentence):
        enlarger().enlarge(np.zeros((20, 23), np.uint8), scale, method=method)


def test_weights_for_other_scales_are_refused(tmp_path):
    picture = noisy(3, 5, (20, 23))
    path = tmp_path / "x2.safetensors"
    save_checkpoint(path, NSR(NSRConfig(scales=(2,), width=8, blocks=1)), info={"task": "upscale"})
    only_two = Restorer(str(path), RunOptions("cpu"), task="upscale")
    assert only_two.enlarge_pixels(picture, 2).shape == (3, 40, 46)
    with pytest.raises(UsageError, match="do not enlarge 4 times; leave weights out"):
        only_two.enlarge_pixels(picture, 4)


@pytest.fixture
def decompressor(jpeg_weights):
    return lambda channels=1: Restorer(str(jpeg_weights[channels]), RunOptions("cpu"), task="dejpeg")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("corner", [(0, 0), (5, 0), (3, 7)])
def test_blocks_are_shown_from_a_corner_on(decompressor, channels, corner):
    pixels = smooth_picture(channels, 61, 70)
    compression = of_quality(20, channels, corner=corner)
    restorer = decompressor(channels)
    restored = restorer.restore_compressed(pixels, compression)
    assert restored.shape == pixels.shape
    top, left = (-place % 8 for place in corner)
    padded = np.pad(pixels, ((0, 0), (top, 0), (left, 0)), "symmetric")
    expected = restorer.restore_compressed(padded, of_quality(20, channels))[:, top:, left:]
    assert np.array_equal(restored, expected)
    own = pixels.copy()
    restorer.restore_compressed(own, compression, in_place=True)
    assert np.array_equal(own, restored)


@pytest.mark.parametrize("corner", [(0, 0), (5, 0)])
def test_a_network_goes_no_farther_than_a_jpeg_file_lets_it(decompressor, corner):
    pixels = smooth_picture(1, 61, 70)
    coding = JpegCoding((1,) * 64, (1,) * 64, 1.0, corner)
    known = replace(of_quality(20, 1, corner=corner), luma=of_coding(coding, 1).luma)
    restorer = decompressor()
    far = restorer.restore_compressed(pixels, replace(known, luma=None)) - pixels
    near = restorer.restore_compressed(pixels, known) - pixels
    # A coefficient changes by 0.85 at most, and so does the root mean square of a block.
    rows, columns = (slice(place, place + 48) for place in corner)
    blocks = [255 * change[0, rows, columns].reshape(6, 8, 6, 8) for change in (far, near)]
    rms = [np.sqrt(np.square(block).mean((1, 3))).max() for block in blocks]
    assert rms[0] > 1
    assert rms[1] < 0.85 + 1e-3


def test_tasks_that_are_told_other_things_are_not_mixed_up(decompressor, tiny_weights):
    pixels = smooth_picture(1, 41, 52)
    with pytest.raises(UsageError, match="dejpeg has to know how a picture was compressed"):
        decompressor()(pixels[0])
    with pytest.raises(UsageError, match="denoise is not told of a compression"):
        Restorer(str(tiny_weights[1]), RunOptions("cpu")).restore_compressed(pixels, of_quality(20, 1))


def test_a_batch_that_was_decoded_is_restored_picture_by_picture(decompressor):
    levels = [np.rint(255 * smooth_picture(1, 48, 64, seed=i)[0]).astype(np.uint8) for i in range(2)]
    batch = np.stack([np.asarray(read_image(jpeg_file(x, 20)).pixels[0]) for x in levels])[..., None]
    restorer = decompressor()
    together = restorer.decompress(batch, 20)
    assert together.shape == batch.shape
    for i in range(2):
        assert np.array_equal(together[i], restorer.decompress(batch[i], 20))
    tensor = restorer.decompress(torch.from_numpy(batch), 20)
    assert torch.equal(tensor, torch.from_numpy(together))


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
        found = NoiseFinding(kind, (20.0, 21.0, 22.0), 15.0, False, kind == "camera", 0.999)
        monkeypatch.setattr(restorer_module, "noise_of", lambda *_: found)
        names = {task: str(path) for task, path in by_task.items()} | {"noise": "deepgsr-noise"}
        monkeypatch.setattr(load_module, "default_name", lambda task, channels: names[task])
        return Restorer(options=RunOptions(device="cpu"), noise=noise)

    return make


@pytest.mark.parametrize(
    ("kind", "noise", "sigma", "task", "told"),
    [
        ("white", "auto", None, "denoise", 20.72),
        ("camera", "auto", None, "photo", 15),
        ("none", "auto", None, None, 0),
        ("unknown", "auto", None, None, 0),
        ("unknown", "white", None, None, 0),
        ("camera", "white", None, "denoise", 20.72),
        ("none", "white", None, None, 0),
        ("white", "camera", None, "photo", 15),
        ("camera", "camera", None, "photo", 15),
        ("none", "camera", None, "photo", 15),
        ("camera", "auto", 7, "denoise", 7),
        ("white", "camera", 7, "photo", 7),
    ],
)
def test_weights_and_level_are_chosen_by_what_is_found_and_said(chooser, kind, noise, sigma, task, told):
    choice = chooser(kind, noise).choose(noisy(3, 25, (37, 53)), sigma)
    assert (choice.restorer and choice.restorer.task) == task
    assert choice.sigma == (told if told is None else pytest.approx(told, abs=0.01))
    assert (choice.found is None) == (sigma is not None)


@pytest.mark.parametrize(("channels", "texture"), [(1, 0.4), (3, 0.3)])
@pytest.mark.parametrize("sigma", [0.5, 4, 60])
def test_of_white_noise_that_is_found_what_texture_adds_is_not_told(monkeypatch, channels, texture, sigma):
    found = NoiseFinding("white", (sigma,) * channels, sigma, False, False, 0.999)
    monkeypatch.setattr(restorer_module, "noise_of", lambda *_: found)
    told = Restorer(options=RunOptions(device="cpu")).choose(noisy(channels, 25, (37, 53))).sigma
    assert told == pytest.approx(max(sigma - texture, sigma / 2))


@pytest.mark.parametrize(
    ("kind", "probability", "share", "colour", "task"),
    [
        ("camera", 0.995, 0.4, 0.2, "photo"),
        ("camera", 0.85, 0.7, 0.4, "photo"),
        ("camera", 0.85, 0.6, 0.4, None),
        ("camera", 0.85, 1.5, 0.4, None),
        ("camera", 0.85, 0.7, 0.2, None),
        ("white", 0.98, 0.4, 0.4, None),
        ("white", 0.98, 0.6, 0, "denoise"),
        ("white", 0.999, 0.4, 0, "denoise"),
    ],
)
def test_what_the_network_leaves_or_overdoes_is_texture_unless_noise_is_sure(
    chooser, monkeypatch, kind, probability, share, colour, task
):
    restorer = chooser(kind)
    found = replace(restorer_module.noise_of(None, None), noisy=probability)
    monkeypatch.setattr(restorer_module, "noise_of", lambda *_: found)
    monkeypatch.setattr(Restorer, "removal", lambda *_: restorer_module.Removal(share, colour))
    choice = restorer.choose(noisy(3, 25, (37, 53)))
    assert (choice.restorer and choice.restorer.task) == task
    assert choice.found.kind == (kind if task else "unknown")


@pytest.mark.parametrize(("quality", "task"), [(75, "photo"), (95, None)])
def test_noise_without_colour_is_believed_where_jpeg_may_have_taken_the_colour(
    chooser, monkeypatch, quality, task
):
    restorer = chooser("camera")
    found = replace(restorer_module.noise_of(None, None), noisy=0.85)
    monkeypatch.setattr(restorer_module, "noise_of", lambda *_: found)
    monkeypatch.setattr(Restorer, "removal", lambda *_: restorer_module.Removal(0.7, 0.3))
    levels = np.rint(255 * noisy(3, 25, (80, 96)).clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
    choice = restorer.choose(read_image(jpeg_file(np.ascontiguousarray(levels), quality)).pixels)
    assert (choice.restorer and choice.restorer.task) == task


@pytest.mark.parametrize("channels", [1, 3])
def test_the_share_removed_is_that_of_the_level_told(chooser, monkeypatch, channels):
    restorer = chooser("camera").camera
    monkeypatch.setattr(restorer_module, "estimate_sigma", lambda _: [8.0])  # all of it is white
    monkeypatch.setattr(restorer, "_run", lambda x, told, strength, **_: x - 0.5 * told[0])
    removed = restorer.removal(noisy(channels, 5, (37, 53)), 8)
    assert removed.share == pytest.approx(0.5, rel=1e-3)
    assert removed.colour == pytest.approx(0, abs=1e-3)


def test_the_colour_of_what_is_removed_is_seen(chooser, monkeypatch):
    restorer = chooser("camera").camera
    blue = np.float32([0, 0, 0.1]).reshape(3, 1, 1)
    monkeypatch.setattr(restorer, "_run", lambda x, *_, **__: x - blue)
    # Blue alone has a luma of 0.114, and colours of 0.5 and -0.081 (JFIF).
    colour = np.sqrt((0.5**2 + 0.081**2) / 2) / 0.114
    assert restorer.removal(noisy(3, 5, (37, 53)), 8).colour == pytest.approx(colour, rel=0.01)


def test_weights_that_are_given_are_used_for_all_noise(chooser, by_task):
    restorer = chooser("camera")
    restorer.weights = str(by_task["denoise"])
    choice = restorer.choose(noisy(3, 25, (37, 53)))
    assert choice.restorer is restorer
    assert choice.sigma == pytest.approx(20.72, abs=0.01)


def test_a_picture_without_noise_comes_back_as_it_is_and_loads_no_weights(chooser):
    restorer = chooser("none")
    picture = (noisy(3, 25, (37, 53)) * 255).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    assert np.array_equal(restorer(picture), picture)
    assert restorer.all_loaded == {}


@pytest.mark.parametrize(("level", "white", "told"), [(40, 60, 40), (40, 30, 54), (40, 0, 75)])
def test_the_network_for_photographs_is_told_more_the_coarser_noise_is(
    chooser, monkeypatch, level, white, told
):
    restorer = chooser("camera").camera
    monkeypatch.setattr(restorer_module, "estimate_sigma", lambda _: [white] * 3)
    monkeypatch.setattr(Restorer, "sigma_limit", lambda *_: 75)
    model = restorer.load(3).model
    heard = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x, c: heard.append(c.tolist()) or forward(x, c))
    picture = noisy(3, 25, (37, 53))
    assert not np.array_equal(restorer.restore_pixels(picture, level), picture)
    assert heard == [[[pytest.approx(told / 255), 1]]]
    assert np.array_equal(restorer.restore_pixels(picture, 0), picture)


def test_a_picture_too_small_to_tell_its_noise_stays_though_it_is_a_cameras(chooser, monkeypatch):
    restorer = chooser("unknown", "camera")
    small = NoiseFinding("unknown", (), 0.0, False, False, 0.5)
    monkeypatch.setattr(restorer_module, "noise_of", lambda *_: small)
    choice = restorer.choose(noisy(3, 25, (8, 8)))
    assert choice.restorer is None
    assert choice.advice == "give --sigma to have it removed"


def test_noise_that_is_not_found_is_removed_where_it_is_asked_for_and_that_is_said(chooser):
    choice = chooser("none", "camera").choose(noisy(3, 25, (37, 53)))
    said = "no noise found; a level of 15.0 removed by the weights for photographs, as asked"
    assert choice.words == said


def test_gray_photographs_pass_as_three_equal_channels(chooser):
    restorer = chooser("camera")
    gray = noisy(1, 25, (37, 53))
    restored = restorer.camera.restore_pixels(gray, 20)
    in_three = restorer.camera.restore_pixels(np.repeat(gray, 3, axis=0), 20)
    np.testing.assert_allclose(restored[0], in_three.mean(0), atol=1e-6)


def test_gray_photographs_pass_the_shipped_network_and_its_filter():
    restorer = Restorer(task="photo", options=RunOptions(device="cpu", precision="fp32"))
    gray = noisy(1, 25, (37, 53))
    restored = restorer.restore_pixels(gray, 20)
    in_three = restorer.restore_pixels(np.repeat(gray, 3, axis=0), 20)
    np.testing.assert_allclose(restored[0], in_three.mean(0), atol=1e-5)


def test_what_was_used_is_known_for_the_report(chooser):
    restorer = chooser("camera")
    picture = noisy(3, 25, (37, 53)).transpose(1, 2, 0)
    restorer(picture)
    assert list(restorer.all_loaded) == ["photo, colour"]


@pytest.mark.parametrize(
    ("kind", "sentence", "advice"),
    [
        ("none", "no noise found", ""),
        (
            "unknown",
            "what may be noise may be texture",
            "give --noise camera, or --sigma, to have it removed",
        ),
        ("white", "white noise found, sigma 20.0, 21.0, 22.0, removed by the weights for white noise", ""),
    ],
)
def test_a_choice_is_said_in_one_line(chooser, kind, sentence, advice):
    choice = chooser(kind).choose(noisy(3, 25, (37, 53)))
    assert (choice.words, choice.advice) == (sentence, advice)
