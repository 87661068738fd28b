import dataclasses

import pytest
import torch

from deepgsr_cli.models import PRESETS, PRIORS, DeepGSR, DeepGSRConfig
from deepgsr_cli.models.deepgsr import (
    GroupBlock,
    LowRankGroupShrinkage,
    _analyse,
    _synthesise,
    skip_new_blocks,
)
from deepgsr_cli.models.mosaics import bayer_mask, malvar, mosaic_of
from deepgsr_cli.models.patches import reflect_to
from deepgsr_cli.models.wavelets import dwt2, idwt2
from deepgsr_cli.weights.checkpoint import build

SMALL = DeepGSRConfig(
    widths=(8, 12),
    encoder=(2, 1),
    decoder=(2,),
    encoder_groups=(1, 1),
    decoder_groups=(1,),
    group_channels=4,
    window=4,
    matches=5,
    embedding=6,
    rank=3,
    prompts=4,
)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def randomise(module, seed=0):
    """All parameters away from the values they are initialised with, zeros above all."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5
            )
    return module


def gathered(layer: LowRankGroupShrinkage, tokens):
    """The definition: every group formed, its members scaled, then attention from the reference."""
    scores = layer.match_query(tokens) @ layer.match_key(tokens).mT / layer.query.out_features**0.5
    order = scores.sort(dim=-1, descending=True, stable=True).indices[..., : layer.matches]
    batch = torch.arange(len(tokens))[:, None, None]
    members = tokens[batch, order]  # (B, N, k, d)
    group = torch.cat((tokens[:, :, None], members), dim=2)  # (B, N, k + 1, d)
    code = layer.reduce(group.mean(-1))
    attention = torch.softmax(code @ layer.prompt.mT / code.shape[-1] ** 0.5, dim=-1)
    gates = torch.sigmoid(layer.expand(attention @ layer.prompt))
    group = group * gates[..., None]
    query, keys = layer.query(group[:, :, :1]), layer.key(group[:, :, 1:])
    logits = (query * keys).sum(-1) / keys.shape[-1] ** 0.5 + scores.gather(-1, order)
    return layer.out((torch.softmax(logits, dim=-1)[..., None] * group[:, :, 1:]).sum(2))


@pytest.mark.parametrize(("tokens", "matches", "dim"), [(196, 100, 108), (64, 16, 72), (7, 7, 5)])
def test_score_space_equals_the_gathered_form(tokens, matches, dim):
    layer = randomise(LowRankGroupShrinkage(dim, matches, 32, 8, 16))
    x = random(2, tokens, dim)
    torch.testing.assert_close(layer(x), gathered(layer, x), rtol=1e-5, atol=1e-5)


def test_score_space_has_the_gradients_of_the_gathered_form():
    layer = randomise(LowRankGroupShrinkage(10, 6, 8, 3, 4)).double()
    x = random(2, 20, 10, dtype=torch.float64).requires_grad_()
    weight = random(2, 20, 10, seed=1, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    ours = torch.autograd.grad((layer(x) * weight).sum(), inputs)
    theirs = torch.autograd.grad((gathered(layer, x) * weight).sum(), inputs)
    torch.testing.assert_close(ours, theirs)


def test_fault_1_the_prompt_has_several_entries_and_gates_depend_on_the_group():
    with pytest.raises(ValueError, match="prompts is 1"):
        dataclasses.replace(SMALL, prompts=1)
    layer = randomise(LowRankGroupShrinkage(10, 6, 8, 3, 4))
    gates = layer.gate(random(1, 5, 7))
    assert (gates.std(dim=1) > 1e-4).all()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("axis", [-2, -1])
def test_fault_2_a_periodic_shift_by_one_window_shifts_the_output(shifted, axis):
    block = randomise(GroupBlock(8, SMALL, shifted=shifted))
    window = 2 * SMALL.stride * SMALL.window
    x = random(2, 8, 3 * window, 2 * window)
    torch.testing.assert_close(block(x.roll(window, axis)), block(x).roll(window, axis))
    # Not so for half a window: it is windows that tokens are matched in.
    assert (block(x.roll(window // 2, axis)) - block(x).roll(window // 2, axis)).abs().max() > 1e-3


def test_fault_2_tokens_are_matched_within_their_window_only():
    block = randomise(GroupBlock(8, SMALL, shifted=False))
    window = 2 * SMALL.stride * SMALL.window
    x = random(1, 8, window, 3 * window)
    changed = x.clone()
    changed[..., window + 8 : 2 * window - 8] += 1
    difference = (block(changed) - block(x)).abs().amax((0, 1, 2))
    # Patches reach into the next window by patch - stride coefficients, two pixels each.
    reach = 2 * (SMALL.patch - SMALL.stride)
    assert difference[reach : window - reach].max() == 0
    assert difference[2 * window + reach :].max() == 0


def test_fault_3_shrinkage_that_keeps_the_tokens_keeps_every_pixel():
    block = GroupBlock(4, SMALL, shifted=True)
    block.shrink = torch.nn.Identity()
    x = random(2, 4, 32, 48)
    torch.testing.assert_close(block(x), 2 * x)


def test_fault_4_a_gradient_reaches_every_parameter():
    model = randomise(DeepGSR(SMALL))
    output = model(random(2, 1, 37, 53), torch.tensor([[0.1], [0.2]]))
    (output * random(2, 1, 37, 53, seed=1)).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_fault_5_matches_are_in_the_order_of_similarity():
    layer = randomise(LowRankGroupShrinkage(10, 6, 8, 3, 4))
    x = random(2, 20, 10)
    scores, index = layer.match(x)
    assert (scores.diff(dim=-1) <= 0).all()
    full = layer.match_query(x) @ layer.match_key(x).mT / 8**0.5
    torch.testing.assert_close(full.gather(-1, index), scores)
    assert (full.sort(dim=-1, descending=True).values[..., :6] == scores).all()


def test_fault_6_no_group_is_gathered():
    """No intermediate of the size windows * N * k * d, or a tenth of it."""
    tokens, matches, dim = 196, 100, 108
    layer = LowRankGroupShrinkage(dim, matches, dim, 16, 16)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for value in result if isinstance(result, tuple | list) else (result,):
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.untyped_storage().nbytes())
            return result

    with torch.no_grad(), Watch():
        layer(random(2, tokens, dim))
    assert largest <= 2 * tokens * tokens * 8  # int64 indices and scores of pairs


def test_a_level_down_and_up_is_the_haar_transform_and_a_linear_map_of_its_bands():
    x = random(2, 3, 6, 10, dtype=torch.float64)
    down = randomise(torch.nn.Conv2d(12, 5, 1)).double()
    torch.testing.assert_close(_analyse(down, x), down(dwt2(x).flatten(1, 2)))
    up = randomise(torch.nn.Conv2d(3, 20, 1)).double()
    torch.testing.assert_close(_synthesise(up, x), idwt2(up(x).unflatten(1, (-1, 4))))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (37, 53), (64, 16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_comes_back_in_that_size(size, channels):
    model = randomise(DeepGSR(dataclasses.replace(SMALL, channels=channels)))
    x = random(2, channels, *size)
    output = model(x, torch.tensor([[0.1]]))
    assert output.shape == x.shape
    assert output.isfinite().all()
    assert not torch.equal(output, x)


def test_a_batch_of_two_equals_two_runs():
    model = randomise(DeepGSR(SMALL)).double()
    x = random(2, 1, 37, 53, dtype=torch.float64)
    level = torch.tensor([[0.05], [0.2]], dtype=torch.float64)
    both = model(x, level)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], model(x[i : i + 1], level[i : i + 1]))


def test_a_picture_said_to_be_clean_comes_back_exactly():
    model = randomise(DeepGSR(SMALL))
    x = random(2, 1, 37, 53)
    assert torch.equal(model(x, torch.zeros(1, 1)), x)
    assert not torch.equal(model(x, torch.full((1, 1), 0.1)), x)


def test_padding_is_reflection_to_the_next_multiple_and_no_more():
    model = randomise(DeepGSR(SMALL))
    x = random(1, 1, 37, 53)
    level = torch.tensor([[0.1]])
    torch.testing.assert_close(model(x, level), model(reflect_to(x, 40, 56), level)[..., :37, :53])


def test_successive_group_blocks_alternate_their_shift():
    for config in (SMALL, PRESETS["paper"], PRESETS["small"]):
        model = DeepGSR(config)
        shifts: list[bool] = []
        for block in model.modules():
            if isinstance(block, GroupBlock):
                block.register_forward_pre_hook(
                    lambda module, _, shifts=shifts: shifts.append(module.shifted)
                )
        model(torch.zeros(1, config.channels, 16, 16), torch.zeros(1, 1))
        assert len(shifts) >= 2
        assert shifts == [i % 2 == 1 for i in range(len(shifts))]


def test_small_is_small_and_paper_is_of_the_published_size():
    def count(name):
        return sum(p.numel() for p in DeepGSR(PRESETS[name]).parameters())

    assert count("small") < 1_500_000
    assert 6_000_000 < count("paper") < 7_500_000  # published: 6,753,547


def test_small_takes_fewer_than_60_thousand_multiply_adds_a_pixel():
    from torch.utils.flop_counter import FlopCounterMode

    for channels in (1, 3):
        model = DeepGSR(dataclasses.replace(PRESETS["small"], channels=channels))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, channels, 256, 256), torch.zeros(1, 1))
        assert 0 < counter.get_total_flops() / 2 / 256**2 < 60_000


def test_base_is_five_times_small():
    from torch.utils.flop_counter import FlopCounterMode

    model = DeepGSR(PRESETS["base"])
    assert 2_000_000 < sum(p.numel() for p in model.parameters()) < 4_000_000
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1))
    assert 150_000 < counter.get_total_flops() / 2 / 64**2 < 250_000


def test_a_configuration_survives_its_dictionary():
    model = DeepGSR(SMALL)
    assert build(model.config_dict(), PRIORS).config == SMALL
    with pytest.raises(ValueError, match="unknown configuration depth"):
        build({**model.config_dict(), "depth": 3}, PRIORS)
    with pytest.raises(ValueError, match="model 'unet' is unknown"):
        build({**model.config_dict(), "model": "unet"}, PRIORS)


MOSAIC = dataclasses.replace(SMALL.without_groups(), channels=3, mosaic=True)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (37, 54), (64, 64)])
def test_a_mosaic_of_any_size_becomes_a_picture_of_it(size):
    model = randomise(DeepGSR(MOSAIC))
    x, told = random(2, 1, *size), torch.tensor([[0.1], [0.0]])
    y = model(x, told)
    assert y.shape == (2, 3, *size)
    for number in range(2):
        one = slice(number, number + 1)
        torch.testing.assert_close(model(x[one], told[one]), y[one], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_is_measured_without_noise_comes_back_and_the_rest_is_corrected():
    model, x = randomise(DeepGSR(MOSAIC)), random(1, 1, 32, 38)
    y = model(x, torch.zeros(1, 1))
    assert torch.equal(mosaic_of(y), x)
    others = 1 - bayer_mask(x)
    assert ((y - malvar(x)).abs() * others).mean() > 0.01
    assert not torch.equal(mosaic_of(model(x, torch.full((1, 1), 0.1))), x)


@torch.no_grad()
def test_before_training_a_mosaic_is_interpolated():
    x = random(1, 1, 20, 21)
    torch.testing.assert_close(DeepGSR(MOSAIC)(x, torch.full((1, 1), 0.1)), malvar(x))


def test_tiles_of_a_mosaic_start_where_its_pattern_does():
    flat = DeepGSRConfig(
        3, stem=0, widths=(8,), encoder=(1,), decoder=(), encoder_groups=(0,), decoder_groups=()
    )
    assert DeepGSR(dataclasses.replace(flat, mosaic=True)).tile_needs.grid == 2
    assert DeepGSR(flat).tile_needs.grid == 1


@pytest.mark.parametrize("change", [{"channels": 1}, {"search": 8}, {"outputs": 6}])
def test_a_mosaic_has_three_channels_and_no_search(change):
    with pytest.raises(ValueError, match="a mosaic has 3 channels"):
        dataclasses.replace(MOSAIC, **change)


def test_a_network_with_more_blocks_starts_where_a_smaller_one_has_ended():
    small = randomise(DeepGSR(SMALL.without_groups()))
    config = dataclasses.replace(SMALL, encoder=(3, 2), decoder=(4,)).without_groups()
    large = randomise(DeepGSR(config), seed=1)
    x, sigma = random(1, 1, 16, 24), torch.tensor([[0.2]])
    known = small.state_dict()
    large.load_state_dict(large.state_dict() | known)
    assert (large(x, sigma) - small(x, sigma)).abs().max() > 1e-3
    skip_new_blocks(large, known)
    torch.testing.assert_close(large(x, sigma), small(x, sigma))


def test_digits_that_half_precision_lacks_are_seen_by_the_first_layer():
    model = randomise(DeepGSR(SMALL))
    with torch.no_grad():  # which sees differences alone
        model.head.weight -= model.head.weight.mean((2, 3), keepdim=True)
        model.head.bias.zero_()
        x = 0.9 + 0.001 * random(1, 1, 16, 16)  # bfloat16 has steps of 0.004 there
        maps = model._enter(x, None, None)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = model._enter(x, None, None)
    assert narrow.dtype == torch.bfloat16
    assert (narrow - maps)[..., 1:-1, 1:-1].abs().max() < 0.01 * maps[..., 1:-1, 1:-1].abs().max()
