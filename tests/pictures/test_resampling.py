import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deepgsr_cli.pictures.noise import as_8_bits
from deepgsr_cli.pictures.resampling import (
    RIM,
    clean_part,
    enlarged_alpha,
    interpolated,
    reduced,
    reduced_by_turns,
    resampling_matrix,
    resized,
    without_hidden_colours,
)


def random(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def kernel_at(x, kernel):
    x = abs(x)
    if kernel == "lanczos":
        return 1.0 if x == 0 else 3 * np.sin(np.pi * x) * np.sin(np.pi * x / 3) / (np.pi * x) ** 2 * (x < 3)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def literal(values, result, kernel):
    """MATLAB's imresize of a row, pixel by pixel: contributions of all mirrored pixels in reach."""
    length = len(values)
    scale = result / length
    mirrored = [*range(length), *reversed(range(length))]
    answer = []
    for i in range(result):
        u = (i + 0.5) / scale - 0.5
        index = range(int(np.floor(u)) - 30, int(np.floor(u)) + 31)
        weights = np.array([kernel_at(min(scale, 1) * (u - j), kernel) for j in index])
        pixels = np.array([values[mirrored[j % (2 * length)]] for j in index])
        answer.append(weights @ pixels / weights.sum())
    return np.array(answer)


@pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("length", "result"), [(36, 18), (36, 12), (36, 9), (9, 36), (13, 39), (17, 34), (4, 1), (1, 3)]
)
def test_a_row_is_resampled_as_the_definition_says(length, result, kernel):
    values = random(length).numpy()
    found = resampling_matrix(length, result, kernel).numpy() @ values
    np.testing.assert_allclose(found, literal(values, result, kernel), rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_inside_it_is_torchs_antialiased_cubic(scale):
    x = random(2, 3, 13 * scale, 17 * scale)
    ours, theirs = resized(x, 13, 17), F.interpolate(x, (13, 17), mode="bicubic", antialias=True)
    inside = (..., slice(RIM, -RIM), slice(RIM, -RIM))
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=0, atol=1e-12)
    assert (ours - theirs).abs().max() > 1e-4  # whose edges are not mirrored


def test_a_picture_turned_by_half_is_resampled_to_the_same_turned_by_half():
    x = random(1, 1, 24, 36)
    for shape in ((8, 12), (48, 72)):
        turned = resized(x.flip(-2, -1), *shape).flip(-2, -1)
        torch.testing.assert_close(turned, resized(x, *shape), rtol=0, atol=1e-13)


def test_a_reduced_picture_has_8_bits_and_whole_pixels_only():
    x = random(1, 3, 37, 53).float()
    small = reduced(x, 3)
    assert small.shape == (1, 3, 12, 17)
    assert torch.equal(small, as_8_bits(small))
    assert torch.equal(small, as_8_bits(resized(x[..., :36, :51], 12, 17)))


def test_crops_are_reduced_by_turns_as_the_pictures_they_are_cut_from():
    scales, patch = (2, 3, 4), 44
    whole = random(7, 3, 120, 120)
    crops = whole[..., 24 : 24 + patch, 48 : 48 + patch]
    small = reduced_by_turns(crops, scales)
    side = patch // 4 - 2 * RIM
    assert small.shape == (7, 3, side, side)
    parts = zip(scales, small.tensor_split(3), whole.tensor_split(3), crops.tensor_split(3))
    for scale, part, of_whole, of_crops in parts:
        top, left = 24 // scale + RIM, 48 // scale + RIM
        true = reduced(of_whole, scale)[..., top : top + side, left : left + side]
        torch.testing.assert_close(part, true, rtol=0, atol=1e-12)
        rows = slice(scale * top, scale * (top + side))
        columns = slice(scale * left, scale * (left + side))
        assert torch.equal(clean_part(of_crops, scale, side), of_whole[..., rows, columns])


@pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(3, 37, 530), (1, 1, 3)])
def test_tiles_leave_no_trace_in_an_interpolated_picture(kernel, shape):
    pixels = random(*shape).float()
    whole = resized(pixels[None], 3 * shape[1], 3 * shape[2], kernel)[0]
    np.testing.assert_allclose(interpolated(pixels.numpy(), 3, kernel), whole.numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
def test_alpha_keeps_its_type_and_range(dtype):
    alpha = np.zeros((20, 30), dtype)
    alpha[5:12, 7:21] = 200
    large = enlarged_alpha(alpha, 2)
    assert (large.shape, large.dtype) == ((40, 60), alpha.dtype)
    assert (large.min(), large.max()) == (0, 200)
    assert (large[14:20, 20:36] == 200).all()
    assert len(np.unique(large)) > 2
    assert (enlarged_alpha(np.full_like(alpha, 77), 4) == 77).all()


def test_a_hidden_colour_is_that_of_the_nearest_pixel_in_sight():
    pixels, alpha = np.zeros((3, 9, 11), np.float32), np.zeros((9, 11), np.uint8)
    pixels[:, :, :4], pixels[1, :, 4:] = 0.25, 0.75
    alpha[:, 2:4], alpha[:, 8] = 1, 255
    filled = without_hidden_colours(pixels, alpha)
    assert (filled[:, :, :6] == 0.25).all()
    assert (filled[1, :, 6:] == 0.75).all()
    assert np.array_equal(filled[:, alpha > 0], pixels[:, alpha > 0])
    for same in (0, 255):
        assert without_hidden_colours(pixels, np.full((9, 11), same, np.uint8)) is pixels
