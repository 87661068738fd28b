import csv
import dataclasses

import pytest
import torch

from deepgsr_cli.errors import OptionError
from deepgsr_cli.models import GROUPSC_PRESETS, NSR_PRESETS
from deepgsr_cli.models.mosaics import mosaic_of
from deepgsr_cli.pictures.mosaics import NOISE_FREE, noisy_mosaics
from deepgsr_cli.tasks import train
from tests.samples import load_checkpoint


def pictures(count=200, side=16):
    return torch.rand(count, 3, side, side, generator=seeded(1))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_about_half_of_the_mosaics_to_train_on_have_no_noise():
    clean = pictures()
    noisy, level = noisy_mosaics(clean, (0, 20), seeded())
    assert noisy.shape == (200, 1, 16, 16)
    assert level.shape == (200, 1)
    free = (level == 0).flatten()
    assert abs(free.float().mean() - NOISE_FREE) < 0.1
    assert torch.equal(noisy[free], mosaic_of(clean)[free])
    error = (noisy - mosaic_of(clean)).flatten(1).std(1)
    torch.testing.assert_close(error, level[:, 0], rtol=0.25, atol=0)


def test_with_a_lowest_level_all_have_noise():
    _, level = noisy_mosaics(pictures(), (5, 20), seeded())
    assert (level >= 5 / 255).all()


@pytest.fixture
def run(config):
    return dataclasses.replace(config, task="demosaick", channels=3, sigma_max=20.0)


@pytest.mark.parametrize("model", ["deepgsr", "groupsc", "nsr"])
def test_a_network_of_each_kind_learns_to_demosaick(run, model, monkeypatch):
    small = {"steps": 2, "atoms": 24} if model == "groupsc" else {"blocks": 2, "width": 16}
    presets = {"groupsc": GROUPSC_PRESETS, "nsr": NSR_PRESETS}.get(model)
    if presets is not None:
        monkeypatch.setitem(presets, "tiny", dataclasses.replace(presets["small"], **small))
    steps = 80 if model == "deepgsr" else 8  # of the others no gain is promised
    run = dataclasses.replace(
        run, model=model, steps=steps, validate_every=steps, loss="psnr", learning_rate=1e-2, ema=0.9,
        without_groups=True,
    )  # fmt: skip
    end = train(run)
    with (run.output / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["validation_psnr_db"]) == pytest.approx(end.best, abs=0.01)
    assert end.given == "the interpolation by Malvar, He and Cutler"
    if model == "deepgsr":
        assert end.best > end.psnr_given + 0.2
    trained = load_checkpoint(run.output / "model.safetensors")
    assert trained.info["task"] == "demosaick"
    assert trained.model.config.mosaic
    mosaic = mosaic_of(pictures(2, 20))
    assert trained.model(mosaic, torch.tensor([[0.02]])).shape == (2, 3, 20, 20)


def test_a_preset_that_cannot_take_mosaics_is_a_sentence(run):
    with pytest.raises(OptionError, match="collaborative: its filter has to know"):
        train(dataclasses.replace(run, preset="collaborative"))
    with pytest.raises(OptionError, match="paper-denoise: demosaick cannot use it: a mosaic has"):
        train(dataclasses.replace(run, model="nsr", preset="paper-denoise"))
