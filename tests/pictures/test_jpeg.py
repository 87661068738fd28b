import numpy as np
import pytest
import torch

from deepgsr_cli.formats.image import read_image, to_uint8
from deepgsr_cli.formats.jpeg import jpeg_file
from deepgsr_cli.pictures import jpeg
from deepgsr_cli.pictures.jpeg import (
    TOLD,
    Steps,
    compressed,
    compressed_for_training,
    draw_steps,
    standard_steps,
    told,
    vivid_for_training,
)
from deepgsr_cli.pictures.tasks import DEJPEG, QUALITY, Shown
from tests.samples import smooth_picture


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(channels=3, height=72, width=88, seed=0):
    """A picture with edges, slopes and a little texture, (1, C, H, W), of whole levels."""
    pixels = smooth_picture(channels, height, width, seed=seed)
    pixels = pixels + np.random.default_rng(seed).normal(0, 0.01, pixels.shape)
    return torch.from_numpy(np.rint(255 * pixels.clip(0, 1)).astype(np.float32) / 255)[None]


def at(quality, subsampled=True, batch=1):
    return standard_steps(torch.full((batch,), float(quality)), subsampled)


@pytest.mark.parametrize("subsampled", [True, False])
@pytest.mark.parametrize("quality", [10, 50, 90])
def test_colour_is_compressed_as_by_pillow(quality, subsampled):
    clean = picture()
    expected = read_image(jpeg_file(to_uint8(clean[0].numpy()), quality, subsampled=subsampled)).pixels
    error = 255 * np.abs(compressed(clean, at(quality, subsampled))[0].numpy() - expected)
    assert error.mean() < 1  # where a coefficient is near a tie, the two DCTs choose differently
    assert np.quantile(error, 0.95) <= 4


@pytest.mark.parametrize("channels", [1, 3])
def test_an_offset_is_where_a_picture_was_cut_out(channels):
    whole = picture(channels, 96, 112)
    offsets = torch.tensor([[0, 0], [3, 14], [15, 8]])
    batch = torch.cat([whole[..., r : r + 64, c : c + 80] for r, c in offsets.tolist()])
    parts = compressed(batch, at(30, batch=3), offsets)
    expected = compressed(whole, at(30))
    for part, (row, column) in zip(parts, offsets.tolist()):
        # Without the blocks that reach beyond the part, which there go on as its edge.
        inner = part[..., 16:48, 16:64]
        torch.testing.assert_close(inner, expected[0, :, row + 16 : row + 48, column + 16 : column + 64])


def test_a_picture_does_not_depend_on_its_batch():
    steps = draw_steps(3, seeded())
    batch = torch.cat([picture(seed=i) for i in range(3)])
    together = compressed(batch, steps)
    for i in range(3):
        alone = compressed(batch[i : i + 1], Steps(*(x[i : i + 1] for x in steps)))
        torch.testing.assert_close(together[i : i + 1], alone)


def test_steps_are_those_of_libjpeg():
    for quality in (1, 10, 37, 50, 75, 95, 100):
        coding = read_image(jpeg_file(np.zeros((8, 8, 3), np.uint8), quality)).metadata.jpeg
        steps = at(quality)
        assert tuple(steps.luma.int().flatten().tolist()) == coding.luma
        assert tuple(steps.chroma.int().flatten().tolist()) == coding.chroma


def test_a_network_is_told_nothing_of_steps_of_one_and_more_of_larger_ones():
    numbers = told(standard_steps(torch.arange(100.0, 0.0, -1)), 3)
    assert numbers.shape == (100, TOLD)
    assert torch.equal(numbers[0], torch.tensor([0.0, 0, 0, 0, 1]))
    assert (numbers.diff(dim=0) >= 0).all()
    assert numbers[:, 0].unique().numel() > 95  # the mean over frequencies tells qualities apart


def test_a_gray_network_is_told_of_luma_alone():
    gray, colour = told(at(30), 1), told(at(30), 3)
    assert torch.equal(gray[:, :2], colour[:, :2])
    assert (gray[:, 2:] == 0).all()


def test_tables_of_any_shape_are_told_by_their_means():
    flat = Steps(torch.full((1, 8, 8), 16.0), torch.full((1, 8, 8), 30.0), torch.zeros(1))
    expected = torch.tensor([[15, 15, 29, 29, 0]]) / 255
    torch.testing.assert_close(told(flat, 3), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_training_pictures_are_a_function_of_the_generator(channels):
    clean = torch.cat([picture(channels, 40, 48, seed=i) for i in range(6)])
    first, second, other = (compressed_for_training(clean, seeded(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(*pair) for pair in zip(first, second))
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == clean.shape
    assert torch.equal((255 * first[0]).round() / 255, first[0])
    assert first[1].shape == (6, TOLD)


def test_training_pictures_are_of_any_quality_low_ones_more_often():
    steps = draw_steps(4000, seeded())
    means = steps.luma.log().mean((1, 2)).exp()
    low, high = (float(at(quality).luma.log().mean().exp()) for quality in (40, 90))
    assert 0.4 < (means > low).float().mean() < 0.6
    assert 0.1 < (means < high).float().mean() < 0.25
    assert steps.luma.min() == steps.chroma.min() == 1
    assert steps.subsampled.mean() == pytest.approx(jpeg.SUBSAMPLED, abs=0.03)
    shape = (steps.luma.log() - steps.luma.log().mean((1, 2), keepdim=True)).std((1, 2))
    assert (shape < 0.2).any()  # flat tables among them


def test_a_share_is_compressed_twice_and_told_of_either(monkeypatch):
    clean = picture(1).expand(40, -1, -1, -1)
    monkeypatch.setattr(jpeg, "TWICE", 0.0)
    once, told_once = compressed_for_training(clean, seeded())
    monkeypatch.setattr(jpeg, "TWICE", 1.0)
    monkeypatch.setattr(jpeg, "TOLD_COARSER", 0.0)
    twice, told_last = compressed_for_training(clean, seeded())
    monkeypatch.setattr(jpeg, "TOLD_COARSER", 1.0)
    _, told_coarser = compressed_for_training(clean, seeded())
    assert (once != twice).any((1, 2, 3)).float().mean() > 0.8
    assert torch.equal(told_once, told_last)
    assert (told_coarser[:, 0] >= told_last[:, 0]).all()
    assert 0.3 < (told_coarser != told_last).any(1).float().mean() < 0.7


def test_validation_is_aligned_and_told_the_quality():
    clean = picture(3)[0].numpy()
    cases = DEJPEG.degrade_for_validation(clean, None, 0)
    errors = [float((degraded[0] - torch.from_numpy(clean)).square().mean()) for degraded, _ in cases]
    assert errors == sorted(errors, reverse=True)
    assert [t[0].tolist() for _, t in cases] == [QUALITY.told(q, Shown(channels=3)) for q in (10, 20, 40, 80)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_compresses_as_the_processor_does():
    clean = picture()
    there = compressed(clean.cuda(), Steps(*(x.cuda() for x in at(30)))).cpu()
    assert (there - compressed(clean, at(30))).abs().mean() < 1 / 255


def test_a_share_of_training_crops_is_of_pure_colours():
    clean = picture(3, 16, 16).expand(4000, -1, -1, -1)
    crops = vivid_for_training(clean, seeded())
    changed = (crops != clean).flatten(1).any(1)
    assert abs(changed.float().mean() - jpeg.VIVID) < 4 * (jpeg.VIVID / 4000) ** 0.5
    assert crops.min() == 0
    assert crops.max() == 1
    red, green, blue = (crops[changed] - 0.5).sign().unbind(1)
    pure_red = ((red > 0) & (green < 0) & (blue < 0)).flatten(1).float().mean(1)
    pure_green = ((red < 0) & (green > 0) & (blue < 0)).flatten(1).float().mean(1)
    assert ((pure_red > 0.1) & (pure_green > 0.1)).any()


def test_vivid_crops_keep_the_edges_of_their_pictures():
    edge = torch.zeros(200, 3, 8, 8)
    edge[..., 4:] = 1
    crops = vivid_for_training(edge, seeded())
    assert (crops[..., :4] == crops[..., :1]).all()
    assert (crops[..., 4:] == crops[..., -1:]).all()
    assert (crops != edge).any()
