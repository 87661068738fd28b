import numpy as np
import torch

from deepgsr_cli.pictures.arrays import FLAT_SIDE, flat_areas


def test_flat_areas_are_the_squares_of_one_colour():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (2, 3, 53, 61), generator=generator) / 255
    x[0, :, 5:24, 7:30] = torch.tensor([1.0, 0.2, 0.0])[:, None, None]
    x[0, :, 30:, 40:] = 0.5
    x[0, 1, 52, 60] = 0.6
    x[1, :, :16] = 0.25  # one row too few
    x[1, :, 20:40, :25] = 1
    x[1, 2, 20:40, :25] = torch.linspace(0, 1, 20)[:, None]  # one colour in two channels
    expected = np.zeros((2, 1, 53, 61), dtype=bool)
    for k, picture in enumerate(x.numpy()):
        for i in range(53 - FLAT_SIDE + 1):
            for j in range(61 - FLAT_SIDE + 1):
                square = picture[:, i : i + FLAT_SIDE, j : j + FLAT_SIDE]
                if (square == square[:, :1, :1]).all():
                    expected[k, 0, i : i + FLAT_SIDE, j : j + FLAT_SIDE] = True
    assert expected[0].sum() > 19 * 23
    assert not expected[1].any()
    np.testing.assert_array_equal(flat_areas(x).numpy(), expected)


def test_pictures_smaller_than_a_flat_area_have_none():
    assert not flat_areas(torch.zeros(1, 1, FLAT_SIDE - 1, 40)).any()
    assert flat_areas(torch.zeros(1, 1, FLAT_SIDE, FLAT_SIDE)).all()
