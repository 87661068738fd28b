import math

import numpy as np
import pytest
import torch

from deepgsr_cli.ct.dose import (
    ELECTRONIC_VARIANCE,
    Kernels,
    added_variance,
    frequencies,
    noise_for_crops,
    radial_spectrum,
    random_kernels,
    scanner_turn,
    spectrum_frequencies,
)
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION
from deepgsr_cli.tomography.radon import Radon


def disk(size, radius_px):
    axis = torch.arange(size) - (size - 1) / 2
    return WATER_ATTENUATION * (torch.hypot(axis[:, None], axis) < radius_px).float()


@pytest.mark.parametrize("dose", [0.25, 0.5])
def test_the_variance_added_is_what_counting_less_photons_and_electronics_add(dose):
    generator, photons, y = np.random.default_rng(0), 2e4, 2.0

    def variance(share):
        counts = generator.poisson(share * photons * math.exp(-y), 400_000)
        read = counts + generator.normal(0, math.sqrt(ELECTRONIC_VARIANCE), counts.shape)
        return np.log(read / share / photons).var()

    expected = variance(dose) - variance(1.0)
    assert float(added_variance(torch.tensor(y), photons, dose)) == pytest.approx(expected, rel=0.03)
    assert float(added_variance(torch.tensor(y), photons, 1.0)) == 0


@pytest.mark.parametrize("pixel_mm", [0.7, 12.0])
def test_a_turn_sees_the_corners_and_reconstructs_a_disk(pixel_mm):
    turn = scanner_turn((64, 51), (pixel_mm, pixel_mm), 240, pixel_mm)
    reach_mm = turn.source_mm * math.sin(turn.fan_angles_rad().max())
    assert reach_mm >= math.hypot(64, 51) / 2 * pixel_mm
    A, x = Radon(turn), disk(64, 20)[:, 6:57][None, None]
    middle = A.fbp(A(x))[0, 0, 22:42, 16:36]
    assert float(middle.mean()) == pytest.approx(WATER_ATTENUATION, rel=0.01)


def test_noise_is_strongest_in_the_middle_and_weak_at_low_frequencies():
    x = disk(96, 40)
    generator = torch.Generator().manual_seed(0)
    noise = noise_for_crops(x, 3.0, 1.0, 1e5, generator)
    assert noise[40:56, 40:56].std() > 1.3 * noise[40:56, 80:88].std()
    spectrum, frequency = radial_spectrum(noise), spectrum_frequencies()
    count = torch.bincount(
        (torch.hypot(torch.fft.fftfreq(96)[:, None], torch.fft.fftfreq(96)) * 255 / math.sqrt(0.5))
        .round()
        .long()
        .flatten(),
        minlength=256,
    )

    def density(low, high):
        chosen = (frequency > low) & (frequency < high)
        return spectrum[chosen].sum() / count[chosen].sum()

    assert density(0.2, 0.35) > 4 * density(0.005, 0.05)


def test_a_radial_spectrum_has_the_energy_of_its_image():
    noise = torch.randn(37, 53, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(radial_spectrum(noise).sum(), noise.square().mean())


def test_kernels_keep_the_mean_and_a_boost_amplifies_edges():
    kernels = Kernels(torch.tensor([0.2, 0.4, 0.4]), torch.full((3,), 2.0), torch.tensor([0.0, 0.0, 0.5]))
    passed = kernels(frequencies(16, 22))
    assert passed.shape == (3, 16, 12)
    torch.testing.assert_close(passed[:, 0, 0], torch.ones(3))
    assert (passed[0] <= passed[1]).all()
    assert (passed[1] <= passed[2]).all()
    assert passed[2].max() > 1


def test_random_kernels_are_from_smooth_to_sharp():
    cutoff = random_kernels(500, torch.Generator().manual_seed(0)).cutoff
    assert cutoff.min() < 0.14
    assert cutoff[cutoff < 1].max() > 0.7
    assert 0.1 < float((cutoff > 1).float().mean()) < 0.2
