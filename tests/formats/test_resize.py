import numpy as np
import pytest

from deepgsr_cli.formats.resize import resized, resized_in_8_bits


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("filter", ["bicubic", "lanczos"])
def test_a_constant_picture_stays_at_any_size(channels, filter):
    levels = np.arange(1, channels + 1, dtype=np.uint8)[:, None, None] * np.ones((37, 53), np.uint8)
    for shape in ((37, 53), (11, 90)):
        other = resized(levels, shape, filter)
        assert other.shape == (channels, *shape)
        assert np.array_equal(other, np.broadcast_to(levels[:, :1, :1], other.shape))


def test_a_picture_of_its_own_size_is_rounded_only():
    pixels = np.random.default_rng(0).uniform(-0.1, 1.1, (1, 13, 9)).astype(np.float32)
    expected = np.rint(pixels.clip(0, 1) * 255).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(resized_in_8_bits(pixels, (13, 9)), expected)
