"""The unrolled network for phase retrieval, its training data and its task."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.image import Image, write_image
from deepgsr_cli.models import DeepGSRConfig
from deepgsr_cli.phase.diffraction import Diffraction, coded_masks
from deepgsr_cli.phase.network import (
    UNROLLED_PHASE_PRESETS,
    UnrolledPhase,
    UnrolledPhaseConfig,
    expected_patterns,
    phase_condition,
)
from deepgsr_cli.phase.noise import PhaseNoise
from deepgsr_cli.phase.training import Phase, measure, random_noise, random_operator
from deepgsr_cli.tasks import train
from deepgsr_cli.training.config import TrainConfig
from deepgsr_cli.weights.checkpoint import save_checkpoint
from tests.samples import (
    check_foreign_configuration_is_refused,
    check_resumed_equals_unbroken,
    load_checkpoint,
    smooth_picture,
)

TINY = UnrolledPhaseConfig(
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


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, height, width):
    return torch.stack([torch.from_numpy(smooth_picture(1, height, width, seed=i)) for i in range(count)])


def randomised(config=TINY, seed=0):
    """A network with all parameters away from the values they are initialised with, zeros above all."""
    torch.manual_seed(seed)
    model = UnrolledPhase(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def measured():
    """Operator, magnitudes, conditions and truth of two pictures of 37 x 53 pixels behind three masks."""
    x = pictures(2, 37, 53)
    A = Diffraction(coded_masks("uniform", 3, (37, 53), seeded()))
    y, condition = measure(A, x, [PhaseNoise(alpha=9.0), PhaseNoise(snr_db=20.0)], seeded(1))
    return A, y, condition, x


@pytest.mark.parametrize("mean", [0.1, 1.0, 4.0])
def test_expected_patterns_are_those_of_importance_sampling(mean):
    variance, y, deviation = 0.5, 1.7, 0.2
    p = torch.full((1, 1, 1, 1), mean * np.exp(0.7j), dtype=torch.complex128)
    drawn = p.flatten() + math.sqrt(variance) * torch.randn(10**6, dtype=torch.complex128, generator=seeded())
    weight = torch.softmax(-((drawn.abs() - y) / deviation).square() / 2, 0)
    expected = (weight * drawn).sum()
    full = [torch.full((1, 1, 1, 1), value).double() for value in (variance, y, deviation)]
    found = expected_patterns(p, *full).squeeze()
    assert abs(found - expected) < 0.08 * abs(expected)


def test_expected_patterns_have_the_measured_magnitudes_if_the_phase_is_certain_and_the_noise_small():
    p = torch.randn(1, 2, 5, 6, dtype=torch.complex128, generator=seeded())
    y = p.abs() + 0.01
    certain = expected_patterns(p, torch.tensor(1e-9).double(), y, torch.zeros_like(y))
    torch.testing.assert_close(certain, y * torch.sgn(p))
    useless = expected_patterns(p, torch.tensor(1e-9).double(), y, torch.full_like(y, 1e3))
    torch.testing.assert_close(useless, p)


def test_before_training_its_stages_come_closer_to_the_picture():
    x = pictures(1, 48, 48)
    A = Diffraction(coded_masks("uniform", 4, (48, 48), seeded()))
    y, condition = measure(A, x, [PhaseNoise(alpha=0.1)], seeded(1))
    with torch.no_grad():
        iterates = UnrolledPhase(dataclasses.replace(TINY, stages=8)).iterates(A, y, condition)
    errors = [float((iterate - x).norm() / x.norm()) for iterate in iterates]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3


def test_a_gradient_reaches_every_parameter(measured):
    A, y, condition, x = measured
    model = randomised()
    (model(A, y, condition) - x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_gradients_are_finite_where_patterns_are_0():
    A = Diffraction(coded_masks("uniform", 1, (8, 8), seeded()))
    model = randomised()
    y = torch.zeros(1, 1, 8, 8)
    y[..., 0] = 1
    model(A, y, phase_condition(0.1, 0.0, 1)).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_a_batch_of_two_equals_two_runs(measured):
    A, y, condition, _ = measured
    model = randomised()
    alone = [model(A, y[i : i + 1], condition[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(model(A, y, condition), torch.cat(alone), rtol=1e-4, atol=1e-6)


def test_autocast_leaves_the_operator_exact(measured):
    A, y, condition, _ = measured
    model = UnrolledPhase(TINY)
    with torch.no_grad():
        exact = model(A, y, condition)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = model(A, y, condition)
    assert narrow.dtype == torch.float32
    # Zero networks; the steps and spreads alone are rounded, to 8 bits.
    torch.testing.assert_close(narrow, exact, rtol=0, atol=0.02)


def test_a_checkpoint_gives_the_same_network_back(measured, tmp_path):
    A, y, condition, _ = measured
    model = randomised()
    save_checkpoint(tmp_path / "phase.safetensors", model, info={"task": "phase"})
    loaded = load_checkpoint(tmp_path / "phase.safetensors").model
    assert isinstance(loaded, UnrolledPhase)
    assert loaded.config == TINY
    assert torch.equal(loaded(A, y, condition), model.eval()(A, y, condition))


def test_a_configuration_of_another_version_is_refused(tmp_path):
    check_foreign_configuration_is_refused(UnrolledPhase(TINY), tmp_path / "foreign", "prior, stages")


def test_the_shipped_shape_has_less_than_600_000_parameters():
    for config in UNROLLED_PHASE_PRESETS.values():
        assert sum(p.numel() for p in UnrolledPhase(config).parameters()) < 600_000


def test_the_condition_is_the_noise_there_is():
    x = pictures(1, 200, 200).repeat(2, 1, 1, 1)
    A = Diffraction(coded_masks("quaternary", 2, (200, 200), seeded()))
    y, condition = measure(A, x, [PhaseNoise(alpha=3.0), PhaseNoise(snr_db=10.0)], seeded(1))
    assert condition[0, 0] == pytest.approx(3 / 255)
    z = A(x)
    error = y.square() - z.abs().square()
    assert condition[0, 0] == pytest.approx(float((error[0] / z[0].abs()).std()), rel=0.05)
    # Half of the white noise, where there is no signal, was clipped.
    bright = z[1].abs() > 2 * condition[1, 1]
    assert condition[1, 1] ** 2 == pytest.approx(float(error[1][bright].std()), rel=0.05)
    assert condition[:, 2].tolist() == [0.5, 0.5]
    assert condition[0, 1] == condition[1, 0] == 0


def test_random_measurements_have_all_counts_kinds_and_noises():
    generator = seeded()
    counts = set()
    for _ in range(60):
        masks = random_operator(16, generator).masks
        kind = {2: "binary", 4: "quaternary"}.get(len(set(masks.flatten().tolist())), "uniform")
        counts.add((kind, len(masks)))
    assert counts == {
        (kind, count)
        for kind in ("uniform", "quaternary", "binary")
        for count in (1, 2, 3, 4)
        if (kind, count) != ("binary", 1)
    }
    noises = [random_noise(generator) for _ in range(200)]
    alphas = [noise.alpha for noise in noises if noise.alpha is not None]
    ratios = [noise.snr_db for noise in noises if noise.alpha is None]
    assert 70 < len(alphas) < 130
    assert 3 <= min(alphas) < 6
    assert 60 < max(alphas) <= 120
    assert 5 <= min(ratios) < 8
    assert 32 < max(ratios) <= 35


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Six steps of a tiny network."""
    monkeypatch.setitem(UNROLLED_PHASE_PRESETS, "tiny", TINY)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        write_image(folder / f"{i}.png", Image(smooth_picture(3, 70, 81, seed=i), "uint8", "PNG"))
    return TrainConfig(
        data=(folder,), output=tmp_path / "run", task="phase", preset="tiny", held_out=1, steps=6, batch=2,
        patch=32, validate_every=3, device="cpu", learning_rate=3e-3, warmup=2,
    )  # fmt: skip


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(config):
    checkpoint = check_resumed_equals_unbroken(config, 3)
    assert isinstance(checkpoint.model, UnrolledPhase)
    assert checkpoint.info["task"] == "phase"


def test_training_lowers_the_error_on_held_out_pictures(config):
    end = train(dataclasses.replace(config, steps=40, validate_every=20, batch=4, learning_rate=1e-2))
    untrained = UnrolledPhase(TINY)
    task = Phase(config, torch.device("cpu"))
    with torch.no_grad():
        before = np.mean([task.psnr(untrained, sample) for sample in task.validation()])
    assert end.best > before + 1
    info = load_checkpoint(config.output / "model.safetensors").info
    assert info["task"] == "phase"
    assert info["training_data"].startswith("2 pictures, fingerprint ")


def test_pictures_too_small_to_validate_on_are_refused(config):
    with pytest.raises(InputError, match="81 x 70 pixels, less than 128; give a smaller patch"):
        Phase(dataclasses.replace(config, patch=64), torch.device("cpu")).validation()
