import pytest
import torch

from deepgsr_cli.models.patches import aggregate, extract, from_windows, reflect_to, to_windows


def maps(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("patch", "stride"), [(3, 2), (3, 1), (4, 2), (2, 2), (5, 3), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_aggregate_of_extract_is_the_identity(patch, stride, channels):
    x = maps(2, channels, 6 * stride, 7 * stride)
    torch.testing.assert_close(aggregate(extract(x, patch, stride), patch, stride), x)


@pytest.mark.parametrize(("patch", "stride"), [(3, 2), (4, 2), (5, 3)])
def test_aggregate_is_the_mean_of_all_patches_over_each_pixel_of_a_torus(patch, stride):
    rows, columns = 5, 4
    patches = maps(1, rows, columns, patch * patch)
    height, width = rows * stride, columns * stride
    total, count = torch.zeros(height, width).double(), torch.zeros(height, width)
    for i in range(rows):
        for j in range(columns):
            for u in range(patch):
                for v in range(patch):
                    at = (i * stride + u) % height, (j * stride + v) % width
                    total[at] += patches[0, i, j, u * patch + v]
                    count[at] += 1
    torch.testing.assert_close(aggregate(patches, patch, stride)[0, 0], total / count)


def test_patches_hold_the_pixels_they_cover():
    x = maps(1, 2, 8, 6)
    patches = extract(x, 3, 2)
    assert patches.shape == (1, 4, 3, 18)
    wrapped = x.roll((-6, -4), (-2, -1))[0, :, :3, :3]  # the last patch goes over both edges
    torch.testing.assert_close(patches[0, 3, 2].reshape(2, 3, 3), wrapped)


def test_windows_hold_neighbouring_tokens_and_come_apart_again():
    grid = torch.arange(6 * 8).reshape(1, 6, 8, 1)
    windows = to_windows(grid, 3, 4)
    assert windows.shape == (4, 12, 1)
    torch.testing.assert_close(windows[1].reshape(3, 4), grid[0, :3, 4:, 0])
    torch.testing.assert_close(from_windows(windows, 3, 4, 6, 8), grid)


@pytest.mark.parametrize("size", [1, 2, 5, 17])
def test_reflection_goes_back_and_forth_for_any_length(size):
    x = torch.arange(size).reshape(1, 1, size)
    there_and_back = [*range(size), *range(size - 2, 0, -1)] or [0]
    expected = [there_and_back[i % len(there_and_back)] for i in range(20)]
    assert reflect_to(x, 1, 20).flatten().tolist() == expected
