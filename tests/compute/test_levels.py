import numpy as np
import pytest

from deepgsr_cli.compute.levels import average


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_mean_is_that_of_all_pixels(dtype):
    random = np.random.default_rng(0)
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    first, second = ((random.random((3, 700, 520)) * top).astype(dtype) for _ in range(2))
    mean = first.copy()
    average(mean, second[:, ::-1, ::-1])
    error = mean - (first.astype(np.float64) + second[:, ::-1, ::-1]) / 2
    assert np.abs(error).max() <= (1e-6 if dtype == np.float32 else 0.5)
    assert abs(error.mean()) < 1e-3  # halves are rounded up as often as down
