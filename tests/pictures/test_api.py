import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import deepgsr_cli
from deepgsr_cli.errors import OptionError, ShapeError, UsageError
from deepgsr_cli.formats.image import Image, read_image, write_image
from deepgsr_cli.mar.methods import MetalMethod
from deepgsr_cli.pictures.api import denoise, derain, estimate_noise, restore, upscale
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from tests.invoke import invoke
from tests.samples import smooth_picture

SIZE = (37, 53)


def noisy(channels, sigma=25, size=SIZE, seed=0):
    """A picture, (C, H, W), float32."""
    noise = np.random.default_rng(seed).normal(0, sigma / 255, (channels, *size))
    return (smooth_picture(channels, *size) + noise).astype(np.float32)


def samples(channels, dtype="uint8"):
    """The same as a caller has it, (H, W) or (H, W, C)."""
    planes = noisy(channels).clip(0, 1)
    white = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    stored = (np.rint(planes * white) if white > 1 else planes).astype(dtype)
    return stored[0] if channels == 1 else np.ascontiguousarray(stored.transpose(1, 2, 0))


@pytest.fixture
def run(tiny_weights):
    """`denoise` by tiny weights on the CPU."""
    return lambda picture, sigma=25.0, channels=3, **options: denoise(
        picture, sigma, weights=str(tiny_weights[channels]), device="cpu", **options
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_comes_back_in_its_shape_and_dtype(run, tiny_weights, dtype, channels):
    picture = samples(channels, dtype)
    restored = run(picture, channels=channels)
    assert (restored.shape, restored.dtype) == (picture.shape, picture.dtype)
    # The same pixels, whatever they are stored as; they end at black and white in all of them.
    restorer = Restorer(str(tiny_weights[channels]), RunOptions("cpu"))
    clipped = dtype.startswith("uint") or (picture.min(), picture.max()) == (0, 1)
    pixels = restorer.restore_pixels(noisy(channels).clip(0, 1), 25, clipped=clipped)
    expected = pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)
    if dtype.startswith("uint"):
        restored, expected = restored / np.iinfo(dtype).max, expected.clip(0, 1)
    np.testing.assert_allclose(restored, expected, atol={"uint8": 4 / 255, "float16": 2e-3}.get(dtype, 1e-4))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_untouched_and_changes_nothing(run, dtype, channels):
    picture = samples(channels, dtype).reshape(*SIZE, channels)
    alpha = (np.random.default_rng(1).random((*SIZE, 1)) * 255).astype(dtype)
    restored = run(np.concatenate((picture, alpha), 2), channels=channels)
    assert np.array_equal(restored[..., -1:], alpha)
    assert np.array_equal(restored[..., :-1], run(picture, channels=channels))


def test_a_batch_is_its_pictures_one_by_one_each_with_its_own_level(run):
    first, second = samples(3), np.rint(samples(3) * 0.5).astype(np.uint8)
    batch = np.stack((first, second))
    for sigma in (25, None):
        assert np.array_equal(run(batch, sigma), [run(first, sigma), run(second, sigma)])


def test_a_tensor_comes_back_as_a_tensor_with_its_dtype_and_device(run):
    array = samples(3, "float32")
    expected = torch.from_numpy(run(array))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        restored = run(torch.from_numpy(array).to(dtype).requires_grad_())
        assert (restored.dtype, restored.device.type) == (dtype, "cpu")
        tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(restored.float(), expected, atol=tolerance, rtol=0)
    lazy = torch.complex(torch.zeros(array.shape), torch.from_numpy(-array)).conj().imag  # holds a sign back
    torch.testing.assert_close(run(lazy), expected, atol=0, rtol=0)
    integers = samples(3)
    assert torch.equal(run(torch.from_numpy(integers)), torch.from_numpy(run(integers)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_tensor_of_a_gpu_comes_back_there(run):
    picture = torch.from_numpy(samples(3)).to("cuda")
    restored = run(picture)
    assert restored.device == picture.device
    assert torch.equal(restored.cpu(), run(picture.cpu()))


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("sigma", [20.0, None])
def test_a_file_gives_what_the_command_writes(run, tiny_weights, tmp_path, depth, sigma):
    alpha = np.full(SIZE, 7, depth)
    write_image(tmp_path / "a.png", Image(noisy(3).clip(0, 1), depth, "PNG", alpha))
    options = f"--sigma {sigma or 'auto'} --weights {tiny_weights[3]} --device cpu"
    invoke(f"denoise {tmp_path}/a.png -o {tmp_path}/b.png {options}")
    written = read_image(tmp_path / "b.png").pixels.transpose(1, 2, 0)
    restored = run(tmp_path / "a.png", sigma)
    assert restored.dtype == depth
    assert np.array_equal(restored[..., :3], np.rint(written * np.float32(np.iinfo(depth).max)))
    assert np.array_equal(restored[..., 3], alpha)
    assert np.array_equal(run(str(tmp_path / "a.png"), sigma), restored)


@pytest.mark.parametrize(("function", "task"), [(derain, "derain"), (restore, "restore")])
def test_tasks_without_a_level_take_gray_and_colour(blind_weights, function, task):
    weights = str(blind_weights[task])
    restorer = Restorer(weights, RunOptions("cpu"), task=task)
    for channels in (1, 3):
        picture = samples(channels)
        restored = function(picture, weights=weights, device="cpu")
        assert np.array_equal(restored, restorer(picture))
        assert (restored != picture).any()
    assert list(restorer.loaded) == [3]
    with pytest.raises(UsageError, match="sigma is 25: denoise needs"):
        restorer(samples(3), 25)


def test_strength_and_ensemble_reach_the_model(run):
    picture = samples(3, "float32")
    full = run(picture)
    np.testing.assert_allclose(run(picture, strength=0.25), 0.75 * picture + 0.25 * full, atol=1e-6)
    assert np.abs(run(picture, ensemble=True) - full).max() > 1e-3


def test_white_says_what_floats_and_integers_mean(run):
    picture = samples(3, "float32")
    np.testing.assert_allclose(run(255 * picture, white=255) / 255, run(picture), atol=1e-5)
    restored = run(np.rint(4095 * picture).astype(np.uint16), white=4095)
    assert restored.max() <= 4095
    sixteen_bits = run(np.rint(65535 * picture).astype(np.uint16))
    np.testing.assert_allclose(restored / 4095, sixteen_bits / 65535, atol=2e-3)


@pytest.mark.parametrize("scale", [255.0, -3.0])
def test_a_range_that_is_not_of_white_is_refused_with_the_way_out(run, scale):
    for call in (run, estimate_noise):
        with pytest.raises(ShapeError, match="but white is 1; give white=255"):
            call(scale * samples(3, "float64"))
        with pytest.raises(ShapeError, match=r"from -1 to 1, and black is 0; give \(picture \+ 1\) / 2"):
            call(2 * samples(3, "float64") - 1)
        with pytest.raises(ShapeError, match=r"whole areas are below 0, which is black; add what makes"):
            call(samples(3, "float64") - 0.5)


def test_noise_and_highlights_beyond_white_are_taken(run):
    picture = noisy(1, sigma=75)[0]
    picture[:3, :5] = 40.0
    assert run(picture, 75, channels=1).shape == SIZE


@pytest.mark.parametrize("white", [0, -1, 300, float("inf"), float("nan")])
def test_a_white_that_is_none_is_refused(run, white):
    with pytest.raises(UsageError, match=r"^white is .*: give the value of white, above 0"):
        run(samples(3), white=white)


@pytest.mark.parametrize(
    ("picture", "way_out"),
    [
        (np.zeros(7), r"give \(H, W\)"),
        (np.zeros((0, 4)), r"give \(H, W\)"),
        (np.zeros((9, 8, 7)), r"a batch of gray pictures is picture\[..., None\]"),
        (np.zeros((3, 8, 9)), r"channels come last; give numpy.transpose\(picture, \(1, 2, 0\)\)"),
        (torch.zeros(5, 3, 8, 9), r"channels come last; .* \(0, 2, 3, 1\)\), or permute a tensor so"),
        (np.zeros((4, 4), int), "a picture of int64: give uint8, uint16 or floating point"),
        (np.zeros((4, 4), bool), "a picture of bool: give uint8"),
        (torch.zeros(4, 4, dtype=torch.int32), "a picture of int32: .* with white= the value"),
        (np.zeros((4, 4), complex), "a picture of complex128: give"),
    ],
)
def test_an_array_that_is_no_picture_is_refused_with_the_way_out(run, picture, way_out):
    with pytest.raises(ShapeError, match=way_out):
        run(picture)


def test_the_noise_of_a_picture_is_estimated_on_the_scale_of_sigma():
    picture = noisy(3, 20, (120, 130)).transpose(1, 2, 0)
    assert estimate_noise(picture) == pytest.approx(20, rel=0.1)
    assert estimate_noise(torch.from_numpy(255 * picture), white=255) == pytest.approx(20, rel=0.1)
    with_alpha = np.concatenate((picture, np.zeros((120, 130, 1))), 2)
    assert estimate_noise(with_alpha) == pytest.approx(estimate_noise(picture), rel=1e-6)
    assert estimate_noise(smooth_picture(1, 120, 130)[0]) == 0
    with pytest.raises(ShapeError, match="is a batch; give its pictures one by one"):
        estimate_noise(picture[None])


def test_a_restorer_reads_its_weights_and_their_level_once(tiny_weights):
    restorer = Restorer(str(tiny_weights[3]), RunOptions("cpu"))
    first = restorer(samples(3), 25)
    loaded = restorer.load(3)
    object.__setattr__(loaded, "info", {})
    assert restorer.sigma_limit(3) == 75
    assert np.array_equal(restorer(samples(3), 25), first)
    assert restorer.load(3) is loaded


def test_errors_name_arguments():
    with pytest.raises(UsageError, match=r"^noise is grain: known are auto, white, camera"):
        denoise(samples(3), 25, noise="grain")
    with pytest.raises(UsageError, match=r"^tile is -1: give 0 or more"):
        RunOptions(tile=-1)


GRAY = np.full((16, 20), 0.5, np.float32)
HU = np.zeros((16, 20))


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: deepgsr_cli.denoise(GRAY, sigma="25"), "sigma"),
        (lambda: deepgsr_cli.denoise(GRAY, sigma=25, strength="1"), "strength"),
        (lambda: deepgsr_cli.denoise(GRAY, sigma=25, white="1"), "white"),
        (lambda: deepgsr_cli.denoise(GRAY, sigma=25, device=0), "device"),
        (lambda: deepgsr_cli.denoise(noisy(1)[0].clip(0, 1), sigma=25, weights=3), "weights"),
        (lambda: deepgsr_cli.denoise(GRAY, noise=np.ones(2)), "noise"),
        (lambda: deepgsr_cli.dejpeg(GRAY, "10"), "quality"),
        (lambda: deepgsr_cli.upscale(GRAY, "2"), "scale"),
        (lambda: deepgsr_cli.upscale(GRAY, 2.5), "scale"),
        (lambda: deepgsr_cli.upscale(GRAY, method=np.ones(2)), "method"),
        (lambda: deepgsr_cli.estimate_noise(GRAY, white="1"), "white"),
        (lambda: deepgsr_cli.demosaick(GRAY, 3), "pattern"),
        (lambda: deepgsr_cli.demosaick(GRAY, sigma="0"), "sigma"),
        (lambda: deepgsr_cli.demosaick(GRAY, black="0"), "black"),
        (lambda: deepgsr_cli.demosaick(GRAY, method=["malvar"]), "method"),
        (lambda: deepgsr_cli.denoise_ct(HU, "20"), "sigma"),
        (lambda: deepgsr_cli.reconstruct_ct(HU, num_views="20", pixel_mm=1.0), "num_views"),
        (lambda: deepgsr_cli.reconstruct_ct(HU, num_views=20, pixel_mm=1.0, seed="0"), "seed"),
        (lambda: deepgsr_cli.reconstruct_ct(HU, num_views=20, pixel_mm=1.0, method=3), "method"),
        (lambda: deepgsr_cli.reduce_metal(HU, pixel_mm=1.0, metal="3000"), "metal"),
        (lambda: deepgsr_cli.reduce_metal(HU, pixel_mm=1.0, method=["li"]), "method"),
        (lambda: deepgsr_cli.retrieve_phase(HU + 1, oversampling="2"), "oversampling"),
        (lambda: deepgsr_cli.retrieve_phase(HU + 1, alpha="3"), "alpha"),
        (lambda: deepgsr_cli.retrieve_phase(HU + 1, method=3), "method"),
        (lambda: RunOptions(tile="64"), "tile"),
        (lambda: RunOptions(batch=1.5), "batch"),
        (lambda: RunOptions(precision=3), "precision"),
        (lambda: MetalMethod(threshold_hu="3000"), "threshold_hu"),
        (lambda: MetalMethod(precision="bf8"), "precision"),
        (lambda: Restorer(task="paint"), "task"),
    ],
)
def test_a_value_of_a_wrong_type_names_its_argument(call, argument):
    with pytest.raises(OptionError, match=rf"^{argument} is "):
        call()


def test_numbers_of_numpy_and_torch_are_taken(run):
    picture = samples(3)
    result = run(picture, 25.0)
    for sigma in (np.array([25.0]), torch.tensor(25.0), np.int64(25)):
        assert np.array_equal(run(picture, sigma), result)
    assert upscale(GRAY, 2.0, method="bicubic").shape == (32, 40)


def test_what_is_no_whole_array_is_refused():
    with pytest.raises(ShapeError, match="is no array"):
        denoise([GRAY, GRAY[:8]], sigma=20)
    with pytest.raises(ShapeError, match="mask would be lost"):
        denoise(np.ma.masked_less(GRAY, 0.2), sigma=20)


def test_upscale_is_the_restorer_by_one_call(upscale_weights):
    picture = samples(3)
    options = {"weights": str(upscale_weights), "device": "cpu"}
    large = upscale(picture, 3, strength=0.5, **options)
    restorer = Restorer(str(upscale_weights), RunOptions("cpu"), task="upscale")
    assert np.array_equal(large, restorer.enlarge(picture, 3, strength=0.5))
    assert not np.array_equal(large, upscale(picture, 3, **options))
    tensor = upscale(torch.from_numpy(picture), method="bicubic")
    assert (tensor.shape, tensor.dtype) == ((74, 106, 3), torch.uint8)
    assert upscale(picture, 4, ensemble=True, **options).shape == (148, 212, 3)
    with pytest.raises(ShapeError, match="give white=255"):
        upscale(picture.astype(np.float32), **options)


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_samples_of_pillow_that_are_no_light_are_refused(mode):
    picture = (
        Pillow.fromarray(np.zeros((20, 20, 3), np.uint8)) if mode != "LAB" else Pillow.new("LAB", (20, 20))
    )
    with pytest.raises(ShapeError, match=rf"mode {mode}: give picture.convert\('RGB'\)"):
        denoise(picture if mode == "LAB" else picture.convert(mode), 25)


def test_a_picture_of_pillow_is_as_its_array():
    array = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    expected = denoise(array, 25, device="cpu")
    np.testing.assert_array_equal(denoise(Pillow.fromarray(array), 25, device="cpu"), expected)
