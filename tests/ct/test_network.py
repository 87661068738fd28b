import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from deepgsr_cli.ct.network import INITIAL_STEP, UNROLLED_PRESETS, Unrolled, UnrolledConfig, ct_condition
from deepgsr_cli.models import DeepGSRConfig
from deepgsr_cli.tomography.attenuation import WATER_ATTENUATION
from deepgsr_cli.tomography.geometry import sparse_view
from deepgsr_cli.tomography.radon import Radon
from deepgsr_cli.weights.checkpoint import save_checkpoint
from tests.samples import check_foreign_configuration_is_refused, load_checkpoint
from tests.waiting import NoWaiting

TINY = UnrolledConfig(
    stages=2,
    prior=DeepGSRConfig(
        widths=(8, 8),
        encoder=(1, 1),
        decoder=(1,),
        encoder_groups=(0, 1),
        decoder_groups=(0,),
        group_channels=2,
    ),
)
LEAST = DeepGSRConfig(
    widths=(4,), encoder=(1,), decoder=(), encoder_groups=(0,), decoder_groups=(), group_channels=1
)
SHARED = dataclasses.replace(TINY, shared=True)


@pytest.fixture(scope="module")
def scan():
    """Operator and sinogram of two slices of 32 x 37 pixels."""
    A = Radon(sparse_view((32, 37), (10.0, 9.0), 24), engine="csr")
    row, column = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 37), indexing="ij")
    disk, rod = (row**2 + column**2 < 0.6).float(), ((row - 0.2) ** 2 + column**2 < 0.02).float()
    x = WATER_ATTENUATION * torch.stack((disk, disk + rod))[:, None]
    return A, A(x)


def randomised(config, seed=0):
    """A network with all parameters away from the values they are initialised with, zeros above all."""
    torch.manual_seed(seed)
    model = Unrolled(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("config", [TINY, SHARED])
def test_with_its_initial_weights_it_is_the_iteration_of_filtered_backprojection(scan, config):
    A, y = scan
    condition = ct_condition(24, None, 37)
    x, step = A.fbp(y), INITIAL_STEP * (1 - condition[0, 0])
    for _ in range(config.stages + 1):
        x = x + step * A.fbp(y - A(x))
    torch.testing.assert_close(Unrolled(config)(A, y, condition), x, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_views", [4, 8, 24])
def test_more_stages_come_closer_to_the_data(scan, num_views):
    """With zero networks, whatever their shape, the iteration converges, also for views as few as 60 of
    512 x 512 pixels."""
    A = Radon(sparse_view((32, 37), (10.0, 9.0), num_views), engine="csr")
    y = A(scan[0].fbp(scan[1]))
    model = Unrolled(UnrolledConfig(stages=60, prior=LEAST))
    with torch.no_grad():
        iterates = model.iterates(A, y, ct_condition(num_views, None, 37))
    misfits = [float((A(x) - y).norm() / y.norm()) for x in iterates]
    assert all(after < before for before, after in itertools.pairwise(misfits))
    assert misfits[-1] < misfits[0] / 3


@pytest.mark.parametrize("config", [TINY, SHARED])
def test_a_gradient_reaches_every_parameter(scan, config):
    A, y = scan
    model = randomised(config)
    model(A, y, ct_condition(24, 1e5)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", [TINY, SHARED])
def test_a_batch_of_two_equals_two_runs(scan, config):
    A, y = scan
    model = randomised(config)
    conditions = torch.cat((ct_condition(24, 1e5), ct_condition(24, None)))
    together = model(A, y, conditions)
    alone = [model(A, y[i : i + 1], conditions[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-6)


def test_no_stage_waits_for_the_device(scan, on_meta):
    A = Radon(scan[0].geometry, engine="torch")
    model, y = Unrolled(TINY).to(on_meta), scan[1].to(on_meta)
    condition = torch.empty(2, 2, device=on_meta)
    with torch.no_grad():
        model(A, y, condition)  # tables are copied at their first use
        with NoWaiting():
            assert model(A, y, condition).shape == (2, 1, 32, 37)


def bodies(count: int, generator: torch.Generator) -> torch.Tensor:
    """Attenuation of bodies with five organs each, (count, 1, 32, 37)."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 37), indexing="ij")
    y, x, size, contrast = torch.rand(count, 5, 4, 1, 1, generator=generator).unbind(2)
    organs = (row - y + 0.5) ** 2 + (column - x + 0.5) ** 2 < (0.05 + 0.3 * size) ** 2
    body = (row**2 + column**2 < 0.8) * (1 + (organs * (contrast - 0.5)).sum(1))
    return WATER_ATTENUATION * body.clamp(min=0)[:, None]


def test_training_improves_on_the_iteration_it_starts_from(scan):
    """By 3 to 5 dB on bodies that were not trained on, whatever the seed."""
    A, _ = scan
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model, condition = Unrolled(TINY), ct_condition(24, None, 37)
    unseen = bodies(8, generator)

    def error(x: torch.Tensor) -> torch.Tensor:
        return model(A, A(x), condition.expand(len(x), -1)) - x

    with torch.no_grad():
        before = error(unseen).square().mean()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        (50 * error(bodies(4, generator))).abs().mean().backward()
        optimiser.step()
    with torch.no_grad():
        after = error(unseen).square().mean()
    assert 10 * math.log10(before / after) > 2


def test_stages_that_share_a_network_are_told_apart(scan):
    A, y = scan
    model = randomised(SHARED)
    images = torch.cat((A.fbp(y), A.fbp(y)), dim=1)
    first, second = (model._prior(stage, images, ct_condition(24, None)) for stage in (0, 1))
    assert (first - second).abs().max() > 0


def test_autocast_leaves_the_operator_exact(scan):
    """The filtered residuals are those of float32: with zero networks nothing changes."""
    A, y = scan
    model = Unrolled(TINY)
    exact = model(A, y, ct_condition(24, None)).detach()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        narrow = model(A, y, ct_condition(24, None))
    assert narrow.dtype == torch.float32
    # The steps themselves are rounded, to 8 bits.
    torch.testing.assert_close(narrow, exact, rtol=0, atol=0.005 * float(exact.max()))


@pytest.mark.parametrize("config", [TINY, SHARED])
def test_a_checkpoint_gives_the_same_network_back(scan, config, tmp_path):
    A, y = scan
    model = randomised(config)
    save_checkpoint(tmp_path / "ct.safetensors", model, info={"task": "ct-recon"})
    loaded = load_checkpoint(tmp_path / "ct.safetensors").model
    assert isinstance(loaded, Unrolled)
    assert loaded.config == config
    condition = ct_condition(24, 1e5)
    assert torch.equal(loaded(A, y, condition), model.eval()(A, y, condition))


def test_a_configuration_of_another_version_is_refused(tmp_path):
    check_foreign_configuration_is_refused(Unrolled(TINY), tmp_path / "foreign", "prior, shared, stages")


def test_the_condition_is_bounded_and_monotone():
    photons = [1, 1e3, 1e5, 1e7, 1e12, math.inf, None]
    rows = torch.cat([ct_condition(views, n) for views in range(1, 2000, 50) for n in photons])
    assert rows.shape == (40 * 7, 2)
    assert rows.min() >= 0
    assert rows.max() <= 1
    grid = rows.unflatten(0, (40, 7))
    assert (grid[1:, :, 0] < grid[:-1, :, 0]).all()
    assert (grid[:, 1:5, 1] < grid[:, :4, 1]).all()
    # No noise is the limit of many photons.
    np.testing.assert_array_equal(grid[:, 5:, 1], 0)


def test_the_condition_is_of_the_views_per_pixel_and_of_the_noise_of_a_pixel():
    torch.testing.assert_close(ct_condition(15, 1e5 / 4, 128), ct_condition(60, 1e5))


def test_the_shipped_shape_has_less_than_a_million_parameters():
    sizes = [sum(p.numel() for p in Unrolled(config).parameters()) for config in UNROLLED_PRESETS.values()]
    assert max(sizes) < 1_000_000
