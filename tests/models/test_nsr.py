import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from deepgsr_cli.models import NSR, NSR_PRESETS, PRIORS, NSRConfig
from deepgsr_cli.models.mosaics import bilinear
from deepgsr_cli.models.nsr import SparseConv2d, restore_in_patches
from deepgsr_cli.weights.checkpoint import build

TINY = NSRConfig(channels=1, conditions=2, width=8, blocks=2, hidden=12, groups=3, cardinality=4, cell=8)
SHAPES = {
    "sparse": TINY,
    "whole": dataclasses.replace(TINY, cell=0),
    "plain": dataclasses.replace(TINY, channels=3, groups=0, shuffle=2),
    "upscale": dataclasses.replace(TINY, channels=3, conditions=0, scales=(2, 3)),
    "mosaic": dataclasses.replace(TINY, channels=3, conditions=1, mosaic=True, shuffle=2),
}
each_shape = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def randomised(module, seed=0):
    """The module in float64 with all its parameters random, the gains and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return module


def inputs(config, *size, batch=2):
    """Images, or mosaics, and conditions, or None, for a network."""
    x = random(batch, 1 if config.mosaic else config.channels, *size)
    return x, random(batch, config.conditions, seed=1) / 4 if config.conditions else None


def literal(conv, x):
    """The definition (eq. 10): all k convolutions, then for each image and output channel their mean."""
    kernels = conv.weight / conv.weight.flatten(1).norm(dim=1)[:, None, None, None]
    answers = F.conv2d(x, kernels * conv.gain[:, None, None, None], conv.bias, padding=conv.pad)
    answers = answers.unflatten(1, (conv.groups, conv.cardinality, -1))  # (B, k, d, o / d, H, W)
    logits = F.linear(x.mean((-2, -1)), conv.gate.weight, conv.gate.bias)
    shares = torch.softmax(logits.unflatten(1, (conv.groups, conv.cardinality)), dim=1)
    return (shares[..., None, None, None] * answers).sum(1).flatten(1, 2)


@torch.no_grad()
def test_one_convolution_by_image_equals_the_mean_of_all():
    conv = randomised(SparseConv2d(6, 8, groups=3, cardinality=4))
    x = random(2, 6, 37, 53)
    torch.testing.assert_close(conv(x), literal(conv, x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_cells_are_pooled_by_themselves_and_read_their_neighbours():
    conv = randomised(SparseConv2d(6, 8, groups=3, cardinality=4, cell=16))
    x = random(2, 6, 37, 53)
    y = conv(x)
    kernels = conv.kernels().flatten(0, 1)
    answers = F.conv2d(x, kernels, conv.bias, padding=1).unflatten(1, (3, 8))
    for top in range(0, 37, 16):
        for left in range(0, 53, 16):
            cell = (..., slice(top, top + 16), slice(left, left + 16))
            shares = conv.mixture(x[cell].mean((-2, -1)))
            expected = (shares[..., None, None] * answers[cell]).sum(1)
            torch.testing.assert_close(y[cell], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_cell_as_large_as_the_picture_is_the_whole():
    conv = randomised(SparseConv2d(6, 8, groups=3, cardinality=4, cell=53))
    x = random(2, 6, 37, 53)
    torch.testing.assert_close(conv(x), literal(conv, x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_one_kernel_is_an_ordinary_convolution_of_normalised_weights():
    conv = randomised(SparseConv2d(3, 8, size=5))
    plain = torch.nn.Conv2d(3, 8, 5, padding=2).double()
    plain.weight.copy_(F.normalize(conv.weight.flatten(1), dim=1).view_as(conv.weight))
    plain.weight.mul_(conv.gain[:, None, None, None])
    plain.bias.copy_(conv.bias)
    x = random(2, 3, 37, 53)
    torch.testing.assert_close(conv(x), plain(x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_periodic_shift_by_a_cell_shifts_the_output_inside():
    conv = randomised(SparseConv2d(6, 8, groups=3, cardinality=4, cell=8))
    x = random(1, 6, 32, 40)
    moved, still = conv(x.roll((8, 16), (-2, -1))), conv(x).roll((8, 16), (-2, -1))
    inside = (..., slice(9, 31), slice(17, 39))
    torch.testing.assert_close(moved[inside], still[inside], rtol=0, atol=1e-12)
    half = conv(x.roll(4, -1))[..., 9:31, 9:31] - conv(x).roll(4, -1)[..., 9:31, 9:31]
    assert half.abs().max() > 1e-4


@each_shape
def test_a_gradient_reaches_every_parameter(config):
    model = randomised(NSR(config))
    y = model(*inputs(config, 37, 53))
    (y * random(*y.shape, seed=2)).sum().backward()
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    without = [name for name, p in learned if p.grad is None or not (p.grad != 0).any()]
    assert without == []


@each_shape
@pytest.mark.parametrize("size", [(37, 53), (1, 3), (1, 1)])
@torch.no_grad()
def test_any_size_comes_back_in_that_size_times_the_scale(config, size):
    model, (x, told) = randomised(NSR(config)), inputs(config, *size)
    for scale in config.scales:
        y = model.enlarge(x, scale, told)
        assert y.shape == (2, config.channels, scale * size[0], scale * size[1])
        assert y.isfinite().all()


@each_shape
@torch.no_grad()
def test_a_batch_of_two_equals_two_runs(config):
    model = randomised(NSR(config))
    x, told = inputs(config, 18, 21)
    singly = [model(x[i : i + 1], None if told is None else told[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(model(x, told), torch.cat(singly), rtol=0, atol=1e-12)


@torch.no_grad()
def test_before_training_it_is_an_interpolation():
    x = random(1, 3, 20, 22, dtype=torch.float32)
    inside = (..., slice(6, -6), slice(6, -6))
    for scale in (2, 3, 4):
        y = NSR(NSRConfig(scales=(2, 3, 4), width=8, blocks=1)).enlarge(x, scale)
        # Keys' cubic with a = -1/2, which PyTorch has with antialiasing alone
        cubic = F.interpolate(x, scale_factor=scale, mode="bicubic", antialias=True)
        crop = (..., slice(4 * scale, -4 * scale), slice(4 * scale, -4 * scale))
        torch.testing.assert_close(y[crop], cubic[crop], rtol=0, atol=1e-5)
    mosaic = NSR(NSRConfig(mosaic=True, shuffle=2, width=8, blocks=1))(x[:, :1])
    torch.testing.assert_close(mosaic[inside], bilinear(x[:, :1])[inside], rtol=0, atol=1e-6)
    plain = NSR(NSRConfig(shuffle=2, width=8, blocks=1))(x)
    torch.testing.assert_close(plain, x, rtol=0, atol=1e-6)


@torch.no_grad()
def test_one_scale_by_itself_is_what_all_scales_together_give():
    model = randomised(NSR(SHAPES["upscale"]))
    x, _ = inputs(SHAPES["upscale"], 11, 13)
    planes = model(x)
    assert planes.shape == (2, 3 * (4 + 9), 11, 13)
    for scale in (2, 3):
        torch.testing.assert_close(model.shuffled(planes, scale), model.enlarge(x, scale), rtol=0, atol=1e-12)
    torch.testing.assert_close(model.shuffled(planes, 3), F.pixel_shuffle(planes[:, 12:], 3), rtol=0, atol=0)


@torch.no_grad()
def test_the_halo_of_plain_convolutions_is_exact():
    config = SHAPES["plain"]
    model, needs = randomised(NSR(config)), NSR(config).tile_needs
    x, told = inputs(config, 20, 60, batch=1)
    start, width = 4 * needs.grid, 40
    difference = (
        model(x[..., start : start + width], told) - model(x, told)[..., start : start + width]
    ).abs()
    assert difference[..., needs.halo : width - needs.halo].max() < 1e-12
    assert difference[..., [needs.halo - 2, needs.halo - 1]].max() > 1e-9


@torch.no_grad()
def test_patches_are_averaged_and_a_picture_smaller_than_one_is_done_whole():
    config = dataclasses.replace(SHAPES["upscale"], scales=(2,), cell=0, blocks=1)
    model = randomised(NSR(config))
    x = random(1, 3, 12, 30)
    y = restore_in_patches(model, x, 2, patch=16, rim=2, step=8)
    framed = F.pad(x, (2, 2, 2, 2), mode="reflect")
    own = [model.enlarge(framed[..., left : left + 16], 2)[..., 4:-4, 4:-4] for left in (0, 8, 16, 18)]
    assert y.shape == (1, 3, 24, 60)
    torch.testing.assert_close(y[..., :16], own[0][..., :16], rtol=0, atol=1e-12)
    torch.testing.assert_close(y[..., 20:22], (own[0][..., 20:22] + own[1][..., 4:6]) / 2, rtol=0, atol=1e-12)
    torch.testing.assert_close(y[..., 56:], own[3][..., 20:], rtol=0, atol=1e-12)
    small = x[..., :11]
    assert torch.equal(restore_in_patches(model, small, 2, patch=16, rim=2, step=8), model.enlarge(small, 2))


@each_shape
@torch.no_grad()
def test_bfloat16_is_close_to_float32(config):
    torch.manual_seed(0)
    model = NSR(config)
    torch.nn.init.constant_(model.tail.gain, 1.0)
    x, told = (None if z is None else z.float() for z in inputs(config, 37, 53))
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, told)
    assert half.dtype == torch.float32
    exact = model(x, told)
    assert (half - exact).abs().max() < 0.02 * (exact - exact.mean()).abs().max()


@pytest.mark.parametrize(("scale", "published"), [(2, 4_877_812), (3, 4_887_637), (4, 4_901_392)])
def test_paper_is_of_the_published_size(scale, published):
    model = NSR(dataclasses.replace(NSR_PRESETS["paper"], scales=(scale,)))
    assert sum(p.numel() for p in model.parameters()) == published


@pytest.mark.parametrize(
    ("change", "published"), [({"groups": 0}, 0.59e6), ({"hidden": 32}, 0.6e6), ({}, 1.2e6)]
)
def test_networks_for_noise_are_of_the_published_size(change, published):
    shape = dataclasses.replace(NSR_PRESETS["paper-denoise"], channels=1, **change)
    assert sum(p.numel() for p in NSR(shape).parameters()) == pytest.approx(published, rel=0.05)


def test_without_groups_the_convolutions_are_plain():
    model = NSR(NSR_PRESETS["sparse"].without_groups())
    assert model.config == NSR_PRESETS["small"]
    assert all(layer.gate is None for layer in model.modules() if isinstance(layer, SparseConv2d))


def test_a_configuration_survives_its_dictionary():
    for shape in (*NSR_PRESETS.values(), *SHAPES.values()):
        fields = json.loads(json.dumps(NSR(shape).config_dict()))
        assert fields.pop("model") == "nsr"
        assert NSRConfig.from_dict(fields) == shape
    model = build(json.loads(json.dumps(NSR(TINY).config_dict())), PRIORS)
    assert isinstance(model, NSR)
    model.load_state_dict(NSR(TINY).state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atoms": 3}, "unknown configuration atoms"),
        ({"scales": [2, 5]}, "1 to 4 are possible"),
        ({"scales": [2], "shuffle": 2}, "1 alone with a shuffle"),
        ({"mosaic": True}, "a mosaic has"),
        ({"blocks": 0}, "at least 1"),
        ({"cell": -1}, "at least 0"),
        ({"groups": 4, "cardinality": 5}, "cardinality is 5"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build({"model": "nsr", **change}, PRIORS)


def test_tiles_lie_on_cells_and_on_shuffled_pixels():
    assert NSR(TINY).tile_needs.grid == 8
    assert NSR(SHAPES["mosaic"]).tile_needs.grid == 16
    assert NSR(SHAPES["plain"]).tile_needs.grid == 2
    assert NSR(NSR_PRESETS["small"]).bytes_per_pixel < NSR(NSR_PRESETS["paper"]).bytes_per_pixel
