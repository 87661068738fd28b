import numpy as np
import torch

from deepgsr_cli.pictures.noise import gaussian_noise, protocol_noise


def test_protocol_noise_is_the_stream_of_the_published_scripts():
    """np.random.seed(0) for each picture, drawn in (H, W, C) order, as KAIR's and Restormer's tests do."""
    np.random.seed(0)  # noqa: NPY002
    published = np.random.normal(0, 25 / 255, (37, 53, 3))  # noqa: NPY002
    assert np.array_equal(protocol_noise((3, 37, 53), 25, 0), published.transpose(2, 0, 1).astype(np.float32))


def test_clipped_noise_is_that_of_a_file_and_is_told():
    clean = torch.full((256, 1, 8, 8), 0.02)
    ranges, generators = (50, 50), [torch.Generator().manual_seed(0) for _ in range(2)]
    (noisy, told), (plain, _) = (
        gaussian_noise(clean, ranges, generator, clipped=share)
        for generator, share in zip(generators, (0.5, 0))
    )
    cut = told[:, 1] == 1
    assert 90 < cut.sum() < 166
    assert torch.equal(noisy[~cut], plain[~cut])
    stored = (plain[cut] * 255).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(noisy[cut], stored / 255)


def test_training_noise_has_the_levels_it_says_and_is_not_clipped():
    clean = torch.full((64, 1, 64, 64), 0.02)
    noisy, level = gaussian_noise(clean, (5, 50), torch.Generator().manual_seed(0))
    measured = (noisy - clean).std((1, 2, 3))
    torch.testing.assert_close(measured, level[:, 0], rtol=0.05, atol=0)
    assert 5 / 255 <= level[:, 0].min() < 8 / 255
    assert 47 / 255 < level[:, 0].max() <= 50 / 255
    assert not level[:, 1].any()
    assert noisy.min() < 0


def test_one_seed_gives_one_result():
    clean = torch.zeros(2, 3, 8, 8)
    first, second = (gaussian_noise(clean, (0, 75), torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
