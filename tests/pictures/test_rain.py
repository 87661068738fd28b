from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from deepgsr_cli.pictures import rain
from deepgsr_cli.pictures.jpeg import jpeg
from deepgsr_cli.pictures.rain import (
    DRY,
    STYLES,
    THRESHOLD,
    VEIL_LIGHT,
    Layers,
    draw_layers,
    rainy,
    streak_spectrum,
    streaks,
    veiled,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int) -> Tensor:
    """Random 8-bit pictures."""
    return torch.randint(0, 256, shape, generator=seeded(1)) / 255


def scene(height: int, width: int) -> Tensor:
    """Smooth colours with edges and a little noise, (1, 3, H, W), 8 bits: what JPEG is made for."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    red, green, blue = (x * y).sin(), (x - y).cos(), ((x * 2).sin() * y > 0.5).float()
    noise = 0.02 * torch.randn(1, 3, height, width, generator=seeded(1))
    return ((0.5 + 0.3 * torch.stack((red, green, blue)) + noise).clamp(0, 1) * 255).round() / 255


def layer(angle_deg: float = 0, *, length: float = 20, sigma: float = 0.7, density: float = 0.01) -> Layers:
    """One layer that sums its streaks, opaque up to 1."""
    values = (np.deg2rad(angle_deg), length, sigma, 0.3, density, 0, 1, 1)
    return Layers(*(torch.tensor([value], dtype=torch.float32) for value in values))


def with_constants(monkeypatch: pytest.MonkeyPatch, **constants: object) -> None:
    """Let the model have these constants."""
    for name, value in constants.items():
        monkeypatch.setattr(rain, name, value)


def without_veils(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = rain.draw_layers
    monkeypatch.setattr(rain, "draw_layers", lambda *arguments: (draw(*arguments)[0], torch.zeros(1)))


def direction_deg(picture: Tensor) -> float:
    """Direction of least change, from downwards towards the right, of a periodic picture.

    That of the structure tensor's smaller eigenvalue, with exact derivatives from the spectrum.
    """
    power = torch.fft.fft2(picture.double()).abs() ** 2
    fy, fx = (torch.fft.fftfreq(side, dtype=torch.float64) for side in picture.shape)
    fy = fy[:, None]
    gradients = 0.5 * torch.atan2((2 * power * fx * fy).sum(), (power * (fx**2 - fy**2)).sum())
    return float(-gradients.rad2deg())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(37, 53), (128, 128), (5, 7), (1, 1), (200, 17)])
def test_rain_keeps_the_shape_and_has_the_levels_of_8_bits(channels: int, size: tuple[int, int]) -> None:
    rained = rainy(pictures(8, channels, *size), seeded())
    assert rained.shape == (8, channels, *size)
    assert rained.dtype == torch.float32
    levels = rained * 255
    assert levels.min() >= 0
    assert levels.max() <= 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


def test_rain_is_a_function_of_the_generator() -> None:
    clean = pictures(4, 3, 64, 48)
    torch.manual_seed(0)
    first = rainy(clean, seeded(5))
    torch.manual_seed(1)
    assert torch.equal(first, rainy(clean, seeded(5)))
    assert not torch.equal(first, rainy(clean, seeded(6)))


def test_the_clean_pictures_stay_as_they_are() -> None:
    clean = pictures(8, 3, 64, 48)
    before = clean.clone()
    rainy(clean, seeded())
    assert torch.equal(clean, before)


def test_every_picture_of_a_batch_has_its_own_rain(monkeypatch: pytest.MonkeyPatch) -> None:
    with_constants(monkeypatch, DRY=0, COMPRESSED=0, SCREENED=0)
    without_veils(monkeypatch)
    first, *others = rainy(torch.full((6, 1, 64, 64), 0.25), seeded())
    assert all(not torch.equal(first, other) for other in others)


def test_a_share_of_the_pictures_comes_back_exactly() -> None:
    clean = pictures(400, 1, 16, 16)
    same = (rainy(clean, seeded()) == clean).flatten(1).all(1).float().mean()
    assert DRY - 0.04 < same < DRY + 0.12  # and some rain misses so small a picture


def test_dry_pictures_are_neither_veiled_nor_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    with_constants(monkeypatch, DRY=1, COMPRESSED=1)
    clean = pictures(20, 3, 37, 53)
    assert torch.equal(rainy(clean, seeded()), clean)


def test_compressed_rain_is_the_jpeg_of_the_same_rain(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = pictures(4, 3, 37, 53)
    with_constants(monkeypatch, DRY=0, COMPRESSED=0, JPEG_QUALITY=(50, 50))
    uncompressed = rainy(clean, seeded())
    with_constants(monkeypatch, COMPRESSED=1)
    assert torch.equal(rainy(clean, seeded()), jpeg(uncompressed, torch.full((4,), 50.0)))


@pytest.mark.parametrize("screened", [0, 1])
def test_streaks_only_brighten(monkeypatch: pytest.MonkeyPatch, screened: int) -> None:
    with_constants(monkeypatch, DRY=0, COMPRESSED=0, SCREENED=screened)
    without_veils(monkeypatch)
    clean = pictures(20, 3, 64, 64)
    rained = rainy(clean, seeded())
    assert (rained >= clean).all()
    assert (rained > clean).any()


def test_added_rain_is_gray_and_the_same_on_every_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    with_constants(monkeypatch, DRY=0, COMPRESSED=0, SCREENED=0)
    without_veils(monkeypatch)
    dark, less = torch.zeros(8, 3, 64, 64), torch.full((8, 3, 64, 64), 51 / 255)
    on_dark, on_less = rainy(dark, seeded()), rainy(less, seeded())
    assert torch.equal(on_dark, on_dark[:, :1].expand_as(on_dark))
    torch.testing.assert_close(on_less, (on_dark + less).clamp(max=1), rtol=0, atol=1.01 / 255)


def test_screened_rain_multiplies_the_darkness(monkeypatch: pytest.MonkeyPatch) -> None:
    with_constants(monkeypatch, DRY=0, COMPRESSED=0, SCREENED=1)
    without_veils(monkeypatch)
    clean = pictures(8, 3, 64, 64)
    on_dark = rainy(torch.zeros_like(clean), seeded())
    expected = 1 - (1 - clean) * (1 - on_dark)
    torch.testing.assert_close(rainy(clean, seeded()), expected, rtol=0, atol=1.01 / 255)


def test_a_veil_draws_every_level_towards_one_gray() -> None:
    clean = torch.cat((torch.zeros(4, 3, 32, 32), torch.ones(4, 3, 32, 32)), dim=-1)
    shown = veiled(clean, torch.tensor([1.0, 1, 1, 0])[:, None, None, None], seeded())
    dark, bright = shown.chunk(2, dim=-1)
    low, high = VEIL_LIGHT
    assert (dark[:3] < low + (high - low)).all()
    assert ((dark[:3] > 0) & (bright[:3] < 1)).all()
    assert (dark[:3].amax((1, 2, 3)) < bright[:3].amin((1, 2, 3))).all()
    assert torch.equal(shown[3], clean[3])


@pytest.mark.parametrize("angle_deg", [-60, -25, 0, 10, 40])
def test_streaks_fall_along_their_angle(angle_deg: float) -> None:
    [shown] = streaks(layer(angle_deg, length=30, density=1e-3), (256, 256), seeded())
    assert direction_deg(shown) == pytest.approx(angle_deg, abs=2)


def test_streaks_stay_between_zero_and_the_opacity() -> None:
    layers, _ = draw_layers(40, seeded())
    flat = Layers(*(values.flatten() for values in layers))
    shown = streaks(flat, (64, 48), seeded())
    assert (shown >= 0).all()
    assert (shown <= flat.opacity[:, None, None] + 1e-6).all()


def test_a_single_streak_has_its_length_width_and_brightness() -> None:
    given = Layers(*(values[:, None, None] for values in layer(length=21, sigma=0.9)))
    [streak] = torch.fft.fftshift(torch.fft.irfft2(streak_spectrum(given, (96, 64))), dim=(-2, -1))
    assert streak.max() == pytest.approx(1, abs=0.01)
    assert int((streak[:, 32] > 0.5).sum()) == 21
    row = streak[48]
    variance = float((row * (torch.arange(64) - 32) ** 2).sum() / row.sum())
    assert variance == pytest.approx(0.9**2, rel=0.02)
    assert streak.min() > -0.02


def test_a_streak_ends_softly_over_its_taper() -> None:
    given = layer(length=40, sigma=0.7)._replace(taper=torch.tensor([0.5]))
    given = Layers(*(values[:, None, None] for values in given))
    [streak] = torch.fft.fftshift(torch.fft.irfft2(streak_spectrum(given, (96, 64))), dim=(-2, -1))
    offsets = torch.arange(96) - 48
    trapezoid = ((30 - offsets.abs()) / 20).clamp(0, 1)
    torch.testing.assert_close(streak[:, 32], trapezoid, rtol=0, atol=0.05)


def test_the_number_of_drops_follows_the_density() -> None:
    point = {"length": 1e-3, "sigma": 0.55}  # so short that a streak is a dot with a known integral
    dots = [
        streaks(layer(density=density, **point), (512, 512), seeded()).mean() for density in (0.001, 0.004)
    ]
    assert dots[1] / dots[0] == pytest.approx(4, rel=0.15)


def test_thresholds_lie_at_the_predicted_deviations(monkeypatch: pytest.MonkeyPatch) -> None:
    with_constants(monkeypatch, STYLES=STYLES[2:], GUSTS=(0, 0))
    layers, _ = draw_layers(12, seeded())
    layers = Layers(*(values[:, 0] for values in layers))
    raw = layers._replace(offset=torch.zeros(12), gain=torch.full((12,), 1e-3), opacity=torch.ones(12))
    summed = streaks(raw, (256, 256), seeded()) * 1e3
    std, mean = torch.std_mean(summed, dim=(-2, -1))
    above = (layers.offset - mean) / std
    low, high = THRESHOLD
    assert ((above > low - 0.15) & (above < high + 0.15)).all()


def test_layers_number_between_the_bounds_of_their_style(monkeypatch: pytest.MonkeyPatch) -> None:
    for style in STYLES:
        with_constants(monkeypatch, STYLES=(style,))
        count = (draw_layers(200, seeded())[0].opacity > 0).sum(1)
        assert (int(count.min()), int(count.max())) == style.layers


def test_shares_of_styles_sum_to_one() -> None:
    assert sum(style.share for style in STYLES) == pytest.approx(1)


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("size", [(64, 96), (37, 53)])
def test_jpeg_is_that_of_pillow(quality: int, size: tuple[int, int]) -> None:
    clean = scene(*size)
    for picture in (clean, clean[:, :1]):
        pixels = (picture[0] * 255).round().byte().permute(1, 2, 0).numpy().squeeze()
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        expected = np.asarray(PIL.Image.open(file)).astype(np.float64).reshape(*size, -1)
        decoded = (jpeg(picture, torch.tensor([float(quality)]))[0] * 255).permute(1, 2, 0).double().numpy()
        error = np.abs(decoded - expected)
        assert error.mean() < 1  # where a coefficient is near a tie, the two DCTs choose differently
        assert np.quantile(error, 0.95) <= 4


def test_jpeg_with_whole_chroma_is_that_of_pillow() -> None:
    picture = scene(37, 53)
    file = io.BytesIO()
    pixels = (picture[0] * 255).round().byte().permute(1, 2, 0).numpy()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=80, subsampling="4:4:4")
    whole, half = jpeg(
        picture.expand(2, -1, -1, -1), torch.tensor([80.0, 80.0]), subsampled=torch.tensor([False, True])
    )
    error = (whole * 255 - torch.from_numpy(np.array(PIL.Image.open(file))).permute(2, 0, 1)).abs()
    assert error.mean() < 1
    assert torch.equal(half, jpeg(picture, torch.tensor([80.0]))[0])


def test_jpeg_compresses_each_picture_at_its_own_quality() -> None:
    clean = scene(48, 64).repeat(2, 1, 1, 1)
    both = jpeg(clean, torch.tensor([30.0, 90.0]))
    for index, quality in enumerate((30.0, 90.0)):
        assert torch.equal(both[index], jpeg(clean[:1], torch.tensor([quality]))[0])
    error = (both - clean).square().mean((1, 2, 3))
    assert error[0] > 2 * error[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_rain_on_a_gpu_is_a_function_of_its_generator() -> None:
    clean = pictures(4, 3, 37, 53).cuda()
    first, second = (rainy(clean, torch.Generator("cuda").manual_seed(0)) for _ in range(2))
    assert first.device == clean.device
    assert torch.equal(first, second)
