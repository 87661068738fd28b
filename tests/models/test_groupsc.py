import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from deepgsr_cli.models import GROUPSC_PRESETS, PRIORS, GroupSC, GroupSCConfig
from deepgsr_cli.models.groupsc import overcomplete_dct
from deepgsr_cli.models.mosaics import bayer_mask, bilinear
from deepgsr_cli.weights.checkpoint import build

TINY = GroupSCConfig(patch=5, stride=2, atoms=20, steps=6, radius=2, levels=(0.0, 20.0, 50.0))
COLOUR = dataclasses.replace(TINY, channels=3, patch=3, stride=1, atoms=30)
MOSAIC = dataclasses.replace(COLOUR, mosaic=True, stride=2)
TOLD = torch.tensor([[10 / 255], [35 / 255]], dtype=torch.float64)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def randomised(config, seed=0):
    """Network in float64 whose parameters differ from those it starts with, and from each other."""
    generator = torch.Generator().manual_seed(seed)
    model = GroupSC(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(1 + 0.3 * noise)
    model.block = 4
    return model


def literal(model, x, sigma):
    """The definition for one image (C, H, W): loops over patches, and the matrix of all similarities."""
    config, side = model.config, model.patch
    edge = side // 2 // config.stride * config.stride
    mask = bayer_mask(x)[0] if config.mosaic else torch.ones_like(x)
    x = bilinear(x[None])[0] if config.mosaic else x

    def framed(z):
        rests = [-(n + 2 * edge - side) % config.stride for n in z.shape[1:]]
        pads = [(0, 0), *((edge, edge + rest) for rest in rests)]
        return torch.from_numpy(np.pad(z.numpy(), pads, mode="reflect"))

    size = framed(x).shape
    places = [
        (i, j)
        for i in range(0, size[1] - side + 1, config.stride)
        for j in range(0, size[2] - side + 1, config.stride)
    ]

    def cut(z):
        return torch.stack([z[:, i : i + side, j : j + side].flatten() for i, j in places], dim=1)  # (m, N)

    def average(patches):
        total, count = torch.zeros(size, dtype=x.dtype), torch.zeros(size, dtype=x.dtype)
        for (i, j), patch in zip(places, patches.T):
            total[:, i : i + side, j : j + side] += patch.view(-1, side, side)
            count[:, i : i + side, j : j + side] += 1
        return total / count

    def compare(patches):
        difference = model.kappa[:, None, None] * (patches[:, :, None] - patches[:, None])
        reach = config.radius * config.stride
        near = [[max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= reach for b in places] for a in places]
        return torch.exp(-difference.square().sum(0)) * torch.tensor(near)

    def thresholds(k):
        levels = np.array(config.levels)
        values = model.thresholds[:, k].detach().numpy()
        found = [np.interp(255 * sigma, levels, column) for column in values.T]
        return torch.tensor(np.array(found))[:, None].abs()

    patches, observed = cut(framed(x)), cut(framed(mask))
    mean = patches.mean(0, keepdim=True)
    y = patches - mean
    similarity = compare(y) if config.radius else torch.eye(len(places), dtype=x.dtype)
    code, updates = torch.zeros(model.D.shape[1], len(places), dtype=x.dtype), 0
    for k in range(config.steps):
        if config.radius and k > 1 and (k - 1) % config.interval == 0:
            share = torch.sigmoid(model.nu[updates])
            updates += 1
            new = compare(cut(average(model.W @ code + mean)) - mean)
            similarity = (1 - share) * similarity + share * new
        b = code + model.C.T @ (observed * (y - model.D @ code))
        lam = thresholds(k)
        for i in range(len(places)):
            norm = (b * similarity[i].sqrt()).norm(dim=1, keepdim=True)
            shrink = 1 - lam * similarity[i].sum().sqrt() / norm
            code[:, i : i + 1] = shrink.clamp(min=0) * b[:, i : i + 1]
    restored = average(model.W @ code + mean)
    return restored[:, edge : edge + x.shape[1], edge : edge + x.shape[2]]


@pytest.mark.parametrize(
    "config",
    [TINY, TINY.without_groups(), COLOUR, MOSAIC, MOSAIC.without_groups()],
    ids=["gray", "sc", "colour", "mosaic", "mosaic-sc"],
)
@torch.no_grad()
def test_blocks_equal_the_literal_form(config):
    model = randomised(config)
    x = random(2, 1 if config.mosaic else config.channels, 13, 16)
    expected = torch.stack([literal(model, *pair) for pair in zip(x, TOLD[:, 0].tolist())])
    torch.testing.assert_close(model(x, TOLD), expected, rtol=0, atol=1e-7)
    single = model.float()(x.float(), TOLD.float())
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_side_of_blocks_makes_no_difference():
    model = randomised(TINY)
    x = random(1, 1, 37, 53)
    cut = model(x, TOLD[:1])
    model.block = 64
    torch.testing.assert_close(model(x, TOLD[:1]), cut, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [TINY, COLOUR, dataclasses.replace(MOSAIC, stride=1)],
    ids=["gray", "colour", "mosaic"],
)
def test_a_gradient_reaches_every_parameter_and_is_finite(config):
    model = randomised(config)
    x = random(2, 1 if config.mosaic else config.channels, 23, 29)
    (model(x, TOLD) * random(2, config.channels, 23, 29, seed=1)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        rows = parameter.grad.abs() if name != "thresholds" else parameter.grad.abs().mean(-1)
        assert (rows > 0).float().mean() > 0.9, name


@pytest.mark.parametrize("size", [(37, 53), (1, 3), (5, 4), (1, 1)])
@pytest.mark.parametrize("config", [TINY, COLOUR, MOSAIC], ids=["gray", "colour", "mosaic"])
@torch.no_grad()
def test_any_size_comes_back_in_that_size(config, size):
    x = random(1, 1 if config.mosaic else config.channels, *size)
    y = randomised(config)(x, TOLD[:1])
    assert y.shape == (1, config.channels, *size)
    assert y.isfinite().all()


@torch.no_grad()
def test_a_batch_of_two_equals_two_runs():
    model = randomised(COLOUR)
    x = random(2, 3, 21, 18)
    singly = torch.cat([model(image[None], told[None]) for image, told in zip(x, TOLD)])
    torch.testing.assert_close(model(x, TOLD), singly, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(x, TOLD[:1])[0], singly[0], rtol=0, atol=1e-12)


@torch.no_grad()
def test_thresholds_are_linear_between_levels_constant_beyond_and_never_negative():
    model = randomised(TINY)
    model.thresholds[1, 0, 0] = -0.5
    own = model.thresholds.abs()
    at = {level: model._thresholds(torch.tensor([[level / 255, 1.0]]))[0] for level in (0, 30, 50, 80)}
    torch.testing.assert_close(at[0], own[0])
    torch.testing.assert_close(at[30][:, 1:], (2 * own[1] + own[2])[:, 1:] / 3)
    torch.testing.assert_close(at[50], own[2])
    torch.testing.assert_close(at[80], own[2])
    assert all((values >= 0).all() for values in at.values())


@torch.no_grad()
def test_only_the_first_condition_is_looked_at_and_it_makes_a_difference():
    model = randomised(TINY)
    x = random(1, 1, 20, 20)
    told = model(x, TOLD[:1])
    assert torch.equal(model(x, torch.cat((TOLD[:1], torch.ones(1, 1)), dim=1)), told)
    assert (model(x, TOLD[1:]) - told).abs().max() > 1e-3


@torch.no_grad()
def test_a_shift_by_the_stride_shifts_the_output_of_sc():
    model = randomised(TINY.without_groups())
    x = random(1, 1, 40, 44)
    reach = model.tile_needs.halo
    moved = model(x[..., 2:, 4:], TOLD[:1])[..., reach:-reach, reach:-reach]
    whole = model(x, TOLD[:1])[..., 2 + reach : -reach, 4 + reach : -reach]
    torch.testing.assert_close(moved, whole, rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_halo_of_sc_is_exact():
    for config in (TINY, MOSAIC):
        model = randomised(config.without_groups())
        needs = model.tile_needs
        x = random(1, 1, 30, 48)
        start, width = 2 * needs.grid, 30
        tile = model(x[..., start : start + width], TOLD[:1])
        inner = slice(needs.halo, width - needs.halo)
        whole = model(x, TOLD[:1])[..., start : start + width]
        torch.testing.assert_close(tile[..., inner], whole[..., inner], rtol=0, atol=1e-12)
        cut = (tile - whole).abs()[..., [needs.halo - 1, width - needs.halo]]
        assert config.mosaic or cut.max() > 1e-6


@torch.no_grad()
def test_without_thresholds_and_with_a_basis_the_picture_comes_back():
    """One atom for each pixel of a patch codes anything exactly."""
    model = GroupSC(dataclasses.replace(TINY, atoms=25)).double()
    model.thresholds.zero_()
    for parameter in (model.D, model.C, model.W):
        parameter.copy_(torch.eye(25))
    x = random(2, 1, 19, 22)
    torch.testing.assert_close(model(x, TOLD), x, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_flat_picture_comes_back():
    x = torch.full((1, 3, 15, 18), 0.4, dtype=torch.float64)
    torch.testing.assert_close(randomised(COLOUR)(x, TOLD[:1]), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "atoms"), [(1, 256), (3, 192), (1, 8)])
def test_the_first_atoms_have_norm_one_and_mean_zero(channels, atoms):
    dictionary = overcomplete_dct(7, channels, atoms).double()
    assert dictionary.shape == (49 * channels, atoms)
    torch.testing.assert_close(dictionary.norm(dim=0), torch.ones(atoms).double(), rtol=0, atol=1e-5)
    assert dictionary.mean(0).abs().max() < 1e-6
    assert torch.linalg.matrix_rank(dictionary, rtol=1e-6) == min(atoms, 49 * channels - 1)


@torch.no_grad()
def test_bfloat16_is_close_to_float32():
    model = randomised(COLOUR).float()
    x, told = random(2, 3, 37, 53, dtype=torch.float32), TOLD.float()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, told)
    assert half.dtype == torch.float32
    assert (half - model(x, told)).abs().max() < 0.02


@pytest.mark.parametrize(("channels", "published"), [(1, 68_352), (3, 119_040)])
def test_paper_is_of_the_published_size(channels, published):
    paper = dataclasses.replace(GROUPSC_PRESETS["paper"], channels=channels, conditions=0, levels=(25.0,))
    assert sum(p.numel() for p in GroupSC(paper.without_groups()).parameters()) == published
    # kappa, and the weight of each of three updates
    entries = 81 if channels == 1 else 147
    assert sum(p.numel() for p in GroupSC(paper).parameters()) == published + entries + 3


def test_small_takes_less_than_400_thousand_multiply_adds_a_pixel():
    model = GroupSC(GROUPSC_PRESETS["small"])
    counted = 0

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal counted
            result = function(*args, **(kwargs or {}))
            if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.baddbmm):
                counted += result.numel() * args[-1].shape[-2]
            return result

    with torch.no_grad(), Count():
        model(torch.rand(1, 1, 88, 88), torch.tensor([[0.1]]))
    assert 1e5 < counted / 88**2 < 4e5


def test_no_matrix_of_all_pairs_is_formed():
    largest = 0
    model = GroupSC(dataclasses.replace(TINY, stride=1))
    model.block = 8

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            largest = max(largest, result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    with torch.no_grad(), Watch():
        model(torch.rand(1, 1, 96, 96), torch.tensor([[0.1]]))
    positions = 96**2
    assert largest < positions * 250 < positions**2 / 30


def test_a_configuration_survives_its_dictionary():
    for shape in (*GROUPSC_PRESETS.values(), MOSAIC):
        fields = json.loads(json.dumps(GroupSC(shape).config_dict()))
        assert fields.pop("model") == "groupsc"
        assert GroupSCConfig.from_dict(fields) == shape
    model = build(json.loads(json.dumps(GroupSC(TINY).config_dict())), PRIORS)
    assert isinstance(model, GroupSC)
    model.load_state_dict(GroupSC(TINY).state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": [3]}, "unknown configuration widths"),
        ({"channels": 2}, "channels is 2"),
        ({"channels": 1, "mosaic": True}, "3 alone for a mosaic"),
        ({"stride": 10}, "stride is 10"),
        ({"steps": 0}, "steps and interval"),
        ({"atoms": 3}, "atoms 0 or from 8"),
        ({"levels": [5, 0]}, "levels rise"),
        ({"levels": [25]}, "1 without"),
        ({"conditions": 0}, "1 without"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build({"model": "groupsc", **change}, PRIORS)


def test_tiles_and_memory_of_the_presets():
    for preset in GROUPSC_PRESETS.values():
        model = GroupSC(preset)
        assert model.tile_needs.grid == preset.stride
        assert model.tile_needs.halo == 8 + preset.radius * preset.stride
        assert math.isfinite(model.bytes_per_pixel)
    mosaic = GroupSC(dataclasses.replace(GROUPSC_PRESETS["paper"], channels=3, mosaic=True))
    assert mosaic.tile_needs.grid == 2
