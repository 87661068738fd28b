import math

import numpy as np
import pytest
import torch

from deepgsr_cli.errors import ShapeError, UsageError
from deepgsr_cli.phase.diffraction import Diffraction, coded_masks, oversampled_fourier
from deepgsr_cli.phase.noise import alpha_noise, photon_noise, snr_noise

SHAPE = (11, 14)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_complex(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex128, generator=seeded(seed))


def operators():
    support = torch.rand(SHAPE, generator=seeded(5)) > 0.3
    double = torch.complex128
    yield "fourier", oversampled_fourier(SHAPE, dtype=double)
    yield "odd oversampling", oversampled_fourier(SHAPE, 1.7, scaling="unitary", dtype=double)
    yield "support", oversampled_fourier(SHAPE, support=support, dtype=double)
    for kind in ("uniform", "quaternary", "binary"):
        yield kind, Diffraction(coded_masks(kind, 3, SHAPE, seeded(), double))
    yield "any masks", Diffraction(random_complex(2, *SHAPE), size=(13, 20), scale=0.7)


ALL = pytest.mark.parametrize("A", [pytest.param(A, id=name) for name, A in operators()])


@ALL
def test_adjoint(A):
    x, z = random_complex(2, 1, *SHAPE, seed=1), random_complex(2, *A.range_shape, seed=2)
    Ax = A(x)
    left, right = (Ax.conj() * z).sum(), (x.conj() * A.adjoint(z)).sum()
    assert (left - right).abs() <= 1e-10 * Ax.norm() * z.norm()


@ALL
def test_gradient_of_real_pictures(A):
    x = torch.rand(1, 1, *SHAPE, dtype=torch.float64, generator=seeded()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: A(x).abs().square().sum(), x)


@ALL
def test_the_pseudo_inverse_gives_back_what_is_seen(A):
    x = random_complex(2, 1, *SHAPE)
    torch.testing.assert_close(A.pseudo_inverse(A(x)), x * (A.gram > 0))


def test_patterns_are_those_of_numpy():
    x = np.random.default_rng(0).random(SHAPE)
    padded = np.zeros((22, 28))
    padded[:11, :14] = x
    z = oversampled_fourier(SHAPE, dtype=torch.complex128)(torch.from_numpy(x)[None, None])
    # prDeep: FFT2 / sqrt(samples) times sqrt(pixels / samples).
    np.testing.assert_allclose(z[0, 0].numpy(), np.fft.fft2(padded) / math.sqrt(22 * 28) / 2, atol=1e-12)


@pytest.mark.parametrize(("kind", "values"), [("quaternary", {1, -1, 1j, -1j}), ("binary", {1, -1})])
def test_mask_values_are_equally_likely(kind, values):
    masks = coded_masks(kind, 2, (100, 100), seeded()).flatten().tolist()
    assert set(masks) == values
    for value in values:
        assert masks.count(value) / len(masks) == pytest.approx(1 / len(values), abs=0.02)


def test_uniform_masks_have_modulus_1_and_any_phase():
    masks = coded_masks("uniform", 2, (100, 100), seeded(), torch.complex128)
    torch.testing.assert_close(masks.abs(), torch.ones(2, 100, 100, dtype=torch.float64))
    assert all(masks.pow(k).mean().abs() < 0.03 for k in (1, 2, 3, 4))


def test_masks_are_a_function_of_the_seed():
    first, again, other = (coded_masks("uniform", 1, SHAPE, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("add", [alpha_noise, photon_noise])
def test_noise_by_alpha_has_the_stated_mean_and_variance(add):
    z = torch.full((1, 1, 400, 500), 300 * np.exp(0.3j), dtype=torch.complex128)
    noisy = add(z, 20.0, seeded())
    assert noisy.mean() == pytest.approx(300**2, rel=1e-3)
    assert noisy.std() == pytest.approx(20 * 300, rel=1e-2)


def test_photons_come_whole_and_never_negative():
    z = torch.full((1, 1, 50, 50), 5.0 + 0j)
    counts = photon_noise(z, 4.0, seeded()) / 16
    torch.testing.assert_close(counts, counts.round())
    assert counts.min() >= 0


def test_negative_intensities_are_measured_as_0():
    noisy = alpha_noise(torch.ones(1, 1, 50, 50, dtype=torch.complex64), 100.0, seeded())
    assert noisy.min() == 0
    assert (noisy == 0).double().mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("snr_db", [10.0, 30.0])
def test_white_noise_has_the_stated_snr(snr_db):
    z = 100 + random_complex(2, 1, 200, 200)
    z[1] *= 7
    clean = z.abs().square()
    noise = snr_noise(z, snr_db, seeded()) - clean
    ratio = clean.square().sum((1, 2, 3)) / noise.square().sum((1, 2, 3))
    torch.testing.assert_close(10 * ratio.log10(), torch.full((2,), snr_db).double(), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Diffraction(torch.ones(3, 4, 5)), "complex"),
        (lambda: Diffraction(torch.ones(4, 5) + 0j), "(J, H, W)"),
        (lambda: Diffraction(torch.zeros(1, 4, 5) + 0j), "all 0"),
        (lambda: Diffraction(torch.full((1, 4, 5), math.nan) + 0j), "NaN"),
        (lambda: Diffraction(torch.ones(1, 4, 5) + 0j, size=(3, 9)), "smaller"),
        (lambda: oversampled_fourier((4, 5), support=torch.ones(5, 4)), "support"),
        (lambda: oversampled_fourier((4, 5))(torch.ones(1, 1, 5, 4)), "picture"),
        (lambda: oversampled_fourier((4, 5)).adjoint(torch.ones(1, 1, 4, 5) + 0j), "patterns"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(make, words):
    with pytest.raises(ShapeError) as error:
        make()
    assert words in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: oversampled_fourier((4, 5), 0.5),
        lambda: oversampled_fourier((4, 5), scaling="none"),
        lambda: coded_masks("octonary", 1, (4, 5), seeded()),
        lambda: coded_masks("binary", 0, (4, 5), seeded()),
    ],
)
def test_values_out_of_range_are_refused(make):
    with pytest.raises(UsageError):
        make()
