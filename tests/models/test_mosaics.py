import pytest
import torch

from deepgsr_cli.models.mosaics import bayer_mask, bilinear, malvar, mosaic_of

SIZES = [(9, 12), (12, 9), (10, 14), (2, 2), (1, 5), (3, 2)]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_a_pixel_shows_one_colour_and_half_of_them_green():
    mask = bayer_mask(random(1, 1, 6, 8))
    assert torch.equal(mask.sum(1), torch.ones(1, 6, 8, dtype=torch.float64))
    assert mask.sum((2, 3)).tolist() == [[12, 24, 12]]
    assert mask[0, :, :2, :2].tolist() == [[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolate", [bilinear, malvar])
def test_interpolation_keeps_what_is_measured(interpolate, size):
    x = random(2, 1, *size)
    colours = interpolate(x)
    assert colours.shape == (2, 3, *size)
    torch.testing.assert_close(mosaic_of(colours), x, rtol=0, atol=1e-15)


@pytest.mark.parametrize("interpolate", [bilinear, malvar])
def test_interpolation_is_as_exact_where_networks_are_not(interpolate):
    x = random(2, 1, 9, 12, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = interpolate(x)
    assert torch.equal(narrow, interpolate(x))


def test_bilinear_interpolation_averages_neighbours():
    x = random(2, 1, 9, 12)
    colours = bilinear(x)
    x = x[:, 0]
    green_at_red = (x[:, 3, 4] + x[:, 5, 4] + x[:, 4, 3] + x[:, 4, 5]) / 4
    torch.testing.assert_close(colours[:, 1, 4, 4], green_at_red)
    blue_at_red = (x[:, 3, 3] + x[:, 5, 5] + x[:, 3, 5] + x[:, 5, 3]) / 4
    torch.testing.assert_close(colours[:, 2, 4, 4], blue_at_red)
    torch.testing.assert_close(colours[:, 0, 4, 5], (x[:, 4, 4] + x[:, 4, 6]) / 2)


# The filters of the paper's figure 2, times 8, for the colour and the row and column of a pixel; a filter of
# red at a pixel is that of blue at the pixel one to the right and below.
GREEN_AT_RED = [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]
RED_AT_GREEN_IN_RED_ROW = [
    [0, 0, 0.5, 0, 0],
    [0, -1, 0, -1, 0],
    [-1, 4, 5, 4, -1],
    [0, -1, 0, -1, 0],
    [0, 0, 0.5, 0, 0],
]
RED_AT_BLUE = [
    [0, 0, -1.5, 0, 0],
    [0, 2, 0, 2, 0],
    [-1.5, 0, 6, 0, -1.5],
    [0, 2, 0, 2, 0],
    [0, 0, -1.5, 0, 0],
]


@pytest.mark.parametrize(
    ("colour", "row", "column", "kernel"),
    [
        (1, 4, 4, GREEN_AT_RED),
        (1, 5, 5, GREEN_AT_RED),
        (0, 4, 5, RED_AT_GREEN_IN_RED_ROW),
        (2, 5, 4, RED_AT_GREEN_IN_RED_ROW),
        (0, 5, 4, [list(line) for line in zip(*RED_AT_GREEN_IN_RED_ROW)]),
        (2, 4, 5, [list(line) for line in zip(*RED_AT_GREEN_IN_RED_ROW)]),
        (0, 5, 5, RED_AT_BLUE),
        (2, 4, 4, RED_AT_BLUE),
    ],
)
def test_malvar_applies_the_filters_of_the_paper(colour, row, column, kernel):
    x = random(1, 1, 10, 12)
    kernel = torch.tensor(kernel, dtype=torch.float64) / 8
    there = x[0, 0, row - 2 : row + 3, column - 2 : column + 3]
    torch.testing.assert_close(malvar(x)[0, colour, row, column], (kernel * there).sum())


def test_malvar_restores_flat_and_sloping_pictures_to_the_edge():
    flat = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)[:, None, None].expand(1, 3, 9, 14)
    gray = flat.mean(1, keepdim=True).expand_as(flat)
    torch.testing.assert_close(malvar(mosaic_of(gray)), gray)
    torch.testing.assert_close(malvar(mosaic_of(flat)), flat, rtol=0, atol=1e-12)
    slope = torch.linspace(0, 1, 14, dtype=torch.float64).expand(1, 3, 9, 14)
    torch.testing.assert_close(malvar(mosaic_of(slope))[..., 2:-2], slope[..., 2:-2], rtol=0, atol=1e-12)
