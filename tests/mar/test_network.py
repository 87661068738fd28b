import dataclasses

import pytest
import torch

from deepgsr_cli.ct.network import ATTENUATION_SCALE_MM
from deepgsr_cli.mar.network import METAL_PRESETS, MetalReduction, MetalReductionConfig, metal_start
from deepgsr_cli.mar.nmar import linear_interpolation, nmar
from deepgsr_cli.mar.trace import metal_trace, rebuilt
from deepgsr_cli.models import DeepGSRConfig
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION
from deepgsr_cli.tomography.geometry import Geometry
from deepgsr_cli.tomography.radon import Radon
from deepgsr_cli.weights.checkpoint import save_checkpoint
from tests.samples import check_foreign_configuration_is_refused, load_checkpoint

TINY = MetalReductionConfig(
    refinements=2,
    prior=DeepGSRConfig(
        widths=(8, 8),
        encoder=(1, 1),
        decoder=(1,),
        encoder_groups=(0, 1),
        decoder_groups=(0,),
        group_channels=2,
    ),
)
TOLD_MORE = dataclasses.replace(TINY, prior=dataclasses.replace(TINY.prior, conditions=2))


@pytest.fixture(scope="module")
def scan():
    """Operator, sinogram and metal of two slices of 32 x 37 pixels."""
    geometry = Geometry(
        kind="parallel",
        shape=(32, 37),
        pixel_mm=(5.0, 5.0),
        num_bins=60,
        bin_mm=5.0,
        angles_rad=tuple(torch.arange(48).mul(torch.pi / 48).tolist()),
    )
    A = Radon(geometry, engine="csr")
    row, column = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 37), indexing="ij")
    disk, bone = (row**2 + column**2 < 0.6).float(), ((row - 0.4) ** 2 + column**2 < 0.02).float()
    metal = torch.stack(((row + 0.3) ** 2 + column**2 < 0.01, row**2 + (column - 0.3) ** 2 < 0.01))[:, None]
    x = WATER_ATTENUATION * torch.stack((disk, disk + bone))[:, None]
    y = A(torch.where(metal, 0.2, x))
    return A, y - 0.02 * y**2, metal


def randomised(config, seed=0):
    """A network with all parameters away from the values they are initialised with, zeros above all."""
    torch.manual_seed(seed)
    model = MetalReduction(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def test_with_its_initial_weights_it_is_nmar_iterated(scan):
    A, y, metal = scan
    model = MetalReduction(TINY)
    x = nmar(A, y, metal)
    found = model.iterates(A, y, metal_start(A, y, metal))
    assert len(found) == 3
    torch.testing.assert_close(found[0], x, rtol=1e-5, atol=1e-7)
    for image in found[1:]:
        x = A.fbp(rebuilt(A, y, metal_trace(A, metal), x.clamp(min=0)))
        torch.testing.assert_close(image, x, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(model(A, y, metal), x, rtol=1e-5, atol=1e-7)


def test_it_starts_from_the_classical_reconstructions_and_sees_no_metal(scan):
    A, y, metal = scan
    start = metal_start(A, y, metal)
    interpolated = linear_interpolation(A, y, metal)
    assert torch.equal(start.interpolated, interpolated)
    assert torch.equal(start.normalised, nmar(A, y, metal))
    assert torch.equal(start.image[metal], interpolated[metal])
    assert torch.equal(start.image[~metal], A.fbp(y)[~metal])


def test_outside_the_trace_the_completed_sinogram_is_the_measurement(scan):
    A, y, metal = scan
    trace = metal_trace(A, metal)
    with torch.no_grad():
        model = randomised(TINY)
        x, completed = model.completed(A, y, metal_start(A, y, metal))
    assert torch.equal(x, model(A, y, metal))
    assert torch.equal(completed[~trace], y[~trace])
    assert (completed[trace] - y[trace]).abs().max() > 0.1


def test_a_gradient_passes_through_the_cycle(scan):
    """The network's first image alone depends on its stage's bias; the result depends on it by the cycle."""
    A, y, metal = scan
    model = randomised(TINY)
    start = metal_start(A, y, metal)
    gradients = []
    for unrolled in (True, False):
        model.zero_grad()
        model.iterates(A, y, start, unrolled=unrolled)[-1].square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        gradients.append(model.prior.tail.bias.grad.clone())
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3 * gradients[1].abs().max()


def test_the_gradient_of_the_cycle_is_that_of_finite_differences(scan):
    A, y, metal = scan
    model = randomised(dataclasses.replace(TINY, refinements=1))
    start = metal_start(A, y, metal)
    bias = model.prior.tail.bias
    direction = torch.randn(bias.shape, generator=torch.Generator().manual_seed(0))

    def value(step):
        with torch.no_grad():
            bias.add_(step * direction)
            result = model.iterates(A, y, start)[-1].double().square().sum()
            bias.sub_(step * direction)
        return result

    model.iterates(A, y, start)[-1].square().sum().backward()
    difference = (value(0.02) - value(-0.02)) / 0.04
    torch.testing.assert_close((bias.grad * direction).sum().double(), difference, rtol=0.02, atol=0)


def test_a_batch_of_two_equals_two_runs(scan):
    A, y, metal = scan
    model = randomised(TINY)
    together = model(A, y, metal)
    alone = [model(A, y[i : i + 1], metal[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-6)


def test_the_first_pass_is_told_from_the_others_and_each_sees_the_one_before(scan):
    A, y, metal = scan
    model = randomised(TINY)
    start = metal_start(A, y, metal)
    seen = []
    residual = model.prior.residual
    model.prior.residual = lambda x, condition: seen.append((x, condition)) or residual(x, condition)
    with torch.no_grad():
        found = model.iterates(A, y, start)
    assert [float(condition) for _, condition in seen] == [0, 1, 1]
    first, second, third = (x for x, _ in seen)
    scale = ATTENUATION_SCALE_MM
    torch.testing.assert_close(first[:, 1:3] / scale, torch.cat((start.interpolated, start.normalised), 1))
    for x, before in ((second, found[0]), (third, found[1])):
        assert torch.equal(x[:, 0], first[:, 0])
        torch.testing.assert_close(x[:, 1:2] / scale, before)
        assert torch.equal(x[:, 3:], metal.float())


def test_of_two_conditions_the_second_tells_the_sinogram_of_an_image_from_a_measured_one(scan):
    A, y, metal = scan
    model = randomised(TOLD_MORE)
    seen = []
    residual = model.prior.residual
    model.prior.residual = lambda x, condition: seen.append(condition.tolist()) or residual(x, condition)
    with torch.no_grad():
        found = [model(A, y, metal, virtual=virtual) for virtual in (False, True)]
    assert seen == [[[float(k > 0), float(virtual)]] for virtual in (False, True) for k in range(3)]
    assert not torch.equal(*found)


@pytest.mark.parametrize("conditions", [0, 3])
def test_a_prior_of_other_conditions_is_refused(conditions):
    with pytest.raises(ValueError, match=f"has {conditions} conditions; give 1 or 2"):
        MetalReductionConfig(prior=dataclasses.replace(TINY.prior, conditions=conditions))


def test_autocast_leaves_the_operator_exact(scan):
    """With zero networks nothing changes."""
    A, y, metal = scan
    model = MetalReduction(TINY)
    with torch.no_grad():
        exact = model(A, y, metal)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = model(A, y, metal)
    assert torch.equal(narrow, exact)


def test_a_checkpoint_gives_the_same_network_back(scan, tmp_path):
    A, y, metal = scan
    model = randomised(TINY)
    save_checkpoint(tmp_path / "mar.safetensors", model, info={"task": "mar"})
    loaded = load_checkpoint(tmp_path / "mar.safetensors").model
    assert isinstance(loaded, MetalReduction)
    assert loaded.config == TINY
    assert torch.equal(loaded(A, y, metal), model.eval()(A, y, metal))


def test_a_configuration_of_another_version_is_refused(tmp_path):
    check_foreign_configuration_is_refused(MetalReduction(TINY), tmp_path / "foreign", "prior, refinements")


def test_the_shipped_shape_has_less_than_a_million_parameters():
    sizes = [sum(p.numel() for p in MetalReduction(c).parameters()) for c in METAL_PRESETS.values()]
    assert max(sizes) < 1_000_000
