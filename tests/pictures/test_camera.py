from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.pictures import camera
from deepgsr_cli.pictures.camera import (
    Camera,
    Shares,
    developed,
    draw_camera,
    level_of,
    photographed,
    raw_of,
    varied,
    white_equivalent,
)
from deepgsr_cli.pictures.jpeg import jpeg
from deepgsr_cli.pictures.noise import white_part
from deepgsr_cli.pictures.tasks import TASKS
from deepgsr_cli.training.config import TrainConfig
from deepgsr_cli.training.task import Draw


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(batch: int = 6, height: int = 37, width: int = 53) -> Tensor:
    """Smooth colours away from black and white, (B, 3, H, W), 8 bits."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    phase = torch.arange(batch * 3).reshape(batch, 3, 1, 1)
    return ((0.5 + 0.25 * (x * y / 3 + phase).sin()) * 255).round() / 255


def plain(cameras: Camera, *, mosaic: bool, sharpness: float = 0.0) -> Camera:
    """The cameras, all with or all without a mosaic."""
    ones = torch.ones_like(cameras.shot)
    return cameras._replace(mosaic=ones > 1 - mosaic, sharpness=sharpness * ones)


# Noise as the sensor makes it.
SENSOR = Shares(
    clean=0,
    white=0,
    mosaic=0,
    smoothed=0,
    chroma_blurred=0,
    blurred=0,
    sharpened=0,
    compressed=0,
    untouched=0,
    compressed_alone=0,
)
NOISY = Shares(clean=0)


def of_level(monkeypatch: pytest.MonkeyPatch, shot: float) -> None:
    monkeypatch.setattr(camera, "SHOT", (shot, shot))


def test_a_picture_comes_back_from_raw_samples() -> None:
    clean = scenes()
    cameras = plain(draw_camera(len(clean), seeded()), mosaic=False)
    torch.testing.assert_close(developed(raw_of(clean, cameras), cameras), clean, atol=2e-3, rtol=0)


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 1.0])
def test_interpolation_is_exact_for_a_linear_ramp_of_gray_light(sharpness: float) -> None:
    cameras = plain(draw_camera(4, seeded()), mosaic=True, sharpness=sharpness)
    # All four places a mosaic can start at.
    row, column = (torch.tensor(bits)[:, None, None, None] for bits in ([0, 0, 1, 1], [0, 1, 0, 1]))
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(18.0), indexing="ij")
    raw = (0.1 + 0.02 * y + 0.01 * x).expand(4, 3, -1, -1)
    inner = camera._demosaicked(raw, cameras._replace(row=row, column=column))[..., 2:-2, 2:-2]
    torch.testing.assert_close(inner, raw[..., 2:-2, 2:-2])


def test_a_sample_that_was_seen_is_kept() -> None:
    cameras = plain(draw_camera(3, seeded(2)), mosaic=True, sharpness=0.5)
    raw = torch.rand(3, 3, 12, 14, generator=seeded(1))
    found = camera._demosaicked(raw, cameras)
    kept = (found == raw).float().mean((0, 2, 3))
    torch.testing.assert_close(kept, torch.tensor([0.25, 0.5, 0.25]))


def test_variance_of_a_sensors_noise_grows_with_the_light(monkeypatch: pytest.MonkeyPatch) -> None:
    of_level(monkeypatch, 0.001)
    monkeypatch.setattr(camera, "CONTRAST", (0.1, 0.1))
    gray = torch.tensor([0.1, 0.3, 0.6])[:, None, None, None].expand(-1, 3, 128, 128).contiguous()
    cameras = draw_camera(3, seeded(), mosaic=0)
    monkeypatch.setattr(camera, "draw_camera", lambda *arguments: cameras)
    colour = gray.clone()
    colour[:, :, 0, 0] = torch.tensor([0.1, 0.2, 0.3])  # no gray pictures, whose noise is luma
    noise = photographed(colour, seeded(1), SENSOR).pictures - colour
    # What a curve makes of a small step is its slope times the step.
    raw = raw_of(gray, cameras)[..., :1, :1]
    std = (cameras.shot * raw + cameras.read).sqrt()
    step = 1e-3
    from_camera = cameras.matrix.inverse()
    light = torch.einsum("bdc,bchw->bdhw", from_camera, raw * cameras.gains)
    variance = torch.einsum("bdc,bchw->bdhw", from_camera**2, (std * cameras.gains) ** 2)

    def tone(x: Tensor) -> Tensor:
        x = x ** (1 / cameras.gamma)
        return x + cameras.contrast * (3 * x**2 - 2 * x**3 - x)

    slope = (tone(light + step) - tone(light - step)) / (2 * step)
    expected = (variance.sqrt() * slope).flatten(1)
    torch.testing.assert_close(noise.std((2, 3)), expected, rtol=0.15, atol=0.001)


def test_a_mosaic_makes_noise_of_neighbours_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    of_level(monkeypatch, 0.001)

    def correlation(mosaic: int) -> float:
        clean = scenes(4, 64, 64)
        noise = photographed(clean, seeded(), replace(SENSOR, mosaic=mosaic)).pictures - clean
        noise = noise - noise.mean((2, 3), keepdim=True)
        return float((noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean())

    assert abs(correlation(0)) < 0.05
    assert correlation(1) > 0.15


def test_smoothing_and_blur_weaken_noise_and_sharpening_strengthens_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_level(monkeypatch, 0.001)
    clean = scenes(4, 64, 64)

    def level(**shares: float) -> float:
        return float(photographed(clean, seeded(), replace(SENSOR, **shares)).sigma.mean())

    assert level(smoothed=1) < 0.8 * level()
    assert level(blurred=1) < 0.9 * level()
    assert level(sharpened=1) > 1.2 * level()


def test_blurred_colours_leave_luma_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    of_level(monkeypatch, 0.001)
    clean = scenes(4, 64, 64)
    sharp, soft = (
        photographed(clean, seeded(), replace(SENSOR, white=1, chroma_blurred=share)).pictures - clean
        for share in (0, 1)
    )
    torch.testing.assert_close(camera._luma(soft), camera._luma(sharp), atol=0.01, rtol=0)
    colour = [(x - camera._luma(x)).std() for x in (sharp, soft)]
    assert colour[1] < 0.6 * colour[0]


def test_blurred_colours_leave_coarse_noise_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    of_level(monkeypatch, 0.001)
    clean = scenes(4, 64, 64)

    def coarse_share(share: float) -> float:
        """Part of the energy of the noise of red against green that is in means over 4 x 4 pixels."""
        noise = photographed(clean, seeded(), replace(SENSOR, chroma_blurred=share)).pictures - clean
        difference = noise[:, :1] - noise[:, 1:2]
        return float(F.avg_pool2d(difference, 4).square().mean() / difference.square().mean())

    assert coarse_share(0) < 0.1
    assert coarse_share(1) > 0.14


def test_white_noise_may_be_left_untouched() -> None:
    done = {"smoothed": 1, "chroma_blurred": 1, "blurred": 1, "sharpened": 1, "compressed": 1, "untouched": 1}
    white, camera = (photographed(scenes(), seeded(), Shares(0, share, **done)) for share in (1, 0))
    assert not white.correlated.any()
    assert camera.correlated.all()


def test_white_noise_may_be_changed_by_jpeg_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "WHITE_SIGMA", (10, 10))
    monkeypatch.setattr(camera, "QUALITY", (50, 50))
    clean = scenes(4, 64, 64)
    done = {"white": 1, "smoothed": 1, "chroma_blurred": 1, "blurred": 1, "sharpened": 1, "compressed": 0}
    found = photographed(clean, seeded(), replace(SENSOR, **done, compressed_alone=1))
    assert found.correlated.all()
    torch.testing.assert_close(found.sigma, torch.full((len(clean), 3), 10 / 255), rtol=0.1, atol=0)
    # JPEG takes most of the finest detail, which makes up all of white noise.
    noise = found.pictures - clean
    finest = noise[..., ::2, ::2] - noise[..., 1::2, ::2] - noise[..., ::2, 1::2] + noise[..., 1::2, 1::2]
    assert float(finest.square().mean().sqrt()) / 2 < 5 / 255


def test_a_smooth_picture_passes_the_smoothing() -> None:
    clean = scenes()
    same = camera._smoothed(clean, torch.zeros(len(clean), 1, 1, 1))
    torch.testing.assert_close(same, clean, atol=2e-2, rtol=0)


def test_white_noise_has_its_level_even_where_it_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "WHITE_SIGMA", (10, 10))
    clean = torch.cat((scenes(2, 128, 128), torch.zeros(1, 3, 128, 128)))
    clean[2, 0, 0, 0] = 1  # of colour
    found = photographed(clean, seeded(), replace(SENSOR, white=1))
    torch.testing.assert_close(found.sigma, torch.full((3, 3), 10 / 255), rtol=0.02, atol=0)
    levels = level_of(found.pictures, clean)[:, 0] * 255
    torch.testing.assert_close(levels, torch.tensor([10, 10, 10 / 2**0.5]), rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("shares", "correlated", "dependent"),
    [
        ({"white": 1}, False, False),
        ({"white": 1, "mosaic": 1}, False, False),
        ({}, False, True),
        ({"mosaic": 1}, True, True),
        ({"white": 1, "blurred": 1}, True, False),
        ({"white": 1, "chroma_blurred": 1}, True, False),
        ({"white": 1, "compressed": 1}, True, False),
        ({"clean": 1, "compressed": 1, "mosaic": 1}, False, False),
    ],
)
def test_noise_is_told_as_it_was_made(shares: dict[str, float], correlated: bool, dependent: bool) -> None:
    found = photographed(scenes(2), seeded(), replace(SENSOR, **shares))
    assert found.correlated.tolist() == [correlated] * 2
    assert found.dependent.tolist() == [dependent] * 2


def test_blocks_of_jpeg_begin_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "QUALITY", (50, 50))
    clean = torch.randint(0, 256, (9, 3, 40, 40), generator=seeded(1)) / 255
    only_jpeg = replace(SENSOR, clean=1, compressed=1)

    def starts(moved: float) -> set[bool]:
        """Whether blocks begin at the pictures' corners."""
        monkeypatch.setattr(camera, "MOVED", moved)
        photos = photographed(clean, seeded(), only_jpeg).pictures
        at_zero = jpeg(clean, torch.full((9,), 50.0), subsampled=torch.ones(9, dtype=torch.bool))
        whole = jpeg(clean, torch.full((9,), 50.0), subsampled=torch.zeros(9, dtype=torch.bool))
        same = (photos == at_zero).flatten(1).all(1) | (photos == whole).flatten(1).all(1)
        return set(same.tolist())

    assert starts(0) == {True}
    assert False in starts(1)


def test_rolling_there_and_back_changes_nothing() -> None:
    x = torch.rand(3, 3, 11, 13, generator=seeded())
    pixels = torch.tensor([[0, 0], [3, 5], [7, 1]])[..., None]
    torch.testing.assert_close(camera._rolled(x, pixels)[1], x[1].roll((-3, -5), (-2, -1)))
    assert torch.equal(camera._rolled(camera._rolled(x, pixels), -pixels), x)


def test_clean_pictures_come_back() -> None:
    clean = scenes()
    found = photographed(clean, seeded(), replace(SENSOR, clean=1, sharpened=1, mosaic=1))
    assert torch.equal(found.pictures, clean)
    assert not found.sigma.any()


def test_gray_pictures_stay_gray() -> None:
    gray = scenes(8)[:, :1].expand(-1, 3, -1, -1).contiguous()
    photos = photographed(gray, seeded(), NOISY).pictures
    assert torch.equal(photos, photos[:, :1].expand_as(photos))
    assert float(level_of(photos, gray).min()) > 0


def test_photographs_are_8_bit_finite_and_a_function_of_the_seed() -> None:
    clean = torch.randint(0, 256, (9, 3, 37, 53), generator=seeded(1)) / 255
    first, again, other = (photographed(clean, seeded(seed)).pictures for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == clean.shape
    assert first.dtype == torch.float32
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    torch.testing.assert_close(first * 255, (first * 255).round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_pictures_stay_finite(value: float) -> None:
    photos = photographed(torch.full((8, 3, 16, 16), value), seeded()).pictures
    assert bool(photos.isfinite().all())


def test_varied_pictures_are_soft_gray_or_as_they_were() -> None:
    clean = torch.randint(0, 256, (40, 3, 32, 32), generator=seeded(1)) / 255
    found = varied(clean, seeded())
    same = (found == clean).flatten(1).all(1)
    gray = (found.amax(1) == found.amin(1)).flatten(1).all(1)
    soft = found.std((1, 2, 3)) < 0.9 * clean.std((1, 2, 3))
    assert same.any()
    assert gray.any()
    assert (soft & ~gray).any()
    assert bool((same | gray | soft).all())


def config(**values: object) -> TrainConfig:
    return TrainConfig(data=("photos",), output="run", task="photo", channels=3, **values)  # type: ignore[arg-type]


def test_the_network_is_told_about_the_white_noise_that_is_as_hard_to_remove() -> None:
    clean = scenes(200, 16, 16)
    photos, told = TASKS["photo"].degrade(clean, config(), Draw(seeded(), seeded(1), 0))
    level = level_of(photos, clean)
    exact = white_equivalent(level, torch.minimum(white_part(photos - clean)[:, None], level))
    exact, said = exact.clamp(max=75 / 255), told[:, :1]
    assert bool((told[:, 1] == 1).all())
    there = level[:, 0] > 1e-4
    assert 0.1 < float((said[there] / exact[there]).log().std()) < 0.3
    assert float(said.max()) < 75.01 / 255


def test_white_noise_is_white_and_coarse_noise_is_not() -> None:
    noise = 0.1 * torch.randn(2, 3, 128, 128, generator=seeded())
    noise[1] = noise[1, :, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2)
    white, coarse = white_part(noise).tolist()
    assert white == pytest.approx(0.1, rel=0.03)
    assert coarse < 0.05
    assert white_equivalent(0.1, 0.1) == 0.1
    assert white_equivalent(0.1, coarse) > 0.15


def test_pictures_to_validate_on_are_noisy_and_the_same_at_each_call() -> None:
    clean = np.asarray(scenes(1)[0])
    first, again = (TASKS["photo"].degrade_for_validation(clean, config(), 3) for _ in range(2))
    for (noisy, told), (noisy_again, told_again) in zip(first, again):
        assert torch.equal(noisy, noisy_again)
        assert torch.equal(told, told_again)
        assert not torch.equal(noisy, torch.from_numpy(clean)[None])
    assert all(told[0, 1] == 1 and 0 < told[0, 0] <= 75 / 255 for _, told in first)
