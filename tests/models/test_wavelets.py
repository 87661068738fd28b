import numpy as np
import pytest
import pywt
import torch

from deepgsr_cli.models.wavelets import dwt2, idwt2


def maps(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(2, 3, 38, 54), (1, 2, 2), (4, 6)])
def test_bands_are_those_of_pywavelets(shape):
    x = maps(*shape)
    approximation, details = pywt.dwt2(x.numpy(), "haar")
    expected = np.stack([approximation, *details], axis=-3)
    torch.testing.assert_close(dwt2(x), torch.from_numpy(expected))


def test_inverse_gives_the_maps_back():
    x = maps(2, 3, 38, 54)
    torch.testing.assert_close(idwt2(dwt2(x)), x, rtol=0, atol=1e-14)


def test_energy_is_kept_and_the_adjoint_is_the_inverse():
    x, y = maps(2, 3, 38, 54), maps(2, 3, 4, 19, 27)
    torch.testing.assert_close(dwt2(x).square().sum(), x.square().sum())
    torch.testing.assert_close((dwt2(x) * y).sum(), (x * idwt2(y)).sum())
