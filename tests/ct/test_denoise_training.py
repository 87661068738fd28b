import dataclasses

import numpy as np
import PIL.Image
import pytest
import torch

from deepgsr_cli.ct.denoise_training import CTDenoise, NoisySlices
from deepgsr_cli.ct.denoising import to_hu
from deepgsr_cli.ct.dose import Kernels
from deepgsr_cli.ct.slices import PNG_OFFSET_HU, read_hu
from deepgsr_cli.errors import OptionError
from deepgsr_cli.models import PRESETS
from deepgsr_cli.tasks import train
from deepgsr_cli.training.config import TrainConfig
from deepgsr_cli.training.task import Draw
from tests.samples import TINY, body_hu, check_resumed_equals_unbroken, saved_slice

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Six steps on four slices."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    monkeypatch.setattr("deepgsr_cli.ct.denoise_training.PRESETS_OF_CT", {"tiny": TINY})
    folder = tmp_path / "slices"
    folder.mkdir()
    for i in range(4):
        saved_slice(folder / f"{i}.dcm", body_hu(3 * i, size=96))
    return TrainConfig(
        data=(folder,), output=tmp_path / "run", task="ct-denoise", preset="tiny", held_out=1, steps=6,
        batch=4, patch=32, validate_every=3, device="cpu", learning_rate=3e-3, warmup=2, loss="psnr",
    )  # fmt: skip


def test_a_batch_is_a_function_of_its_draw(config):
    task, other = CTDenoise(config, CPU), CTDenoise(config, CPU)
    first = task.sample(Draw.of(CPU, 0, 3))
    task.sample(Draw.of(CPU, 0, 4))
    again, next_one = other.sample(Draw.of(CPU, 0, 3)), other.sample(Draw.of(CPU, 0, 5))
    assert first.noisy.shape == first.clean.shape == (4, 1, 32, 32)
    assert first.level.shape == (4, 1)
    assert torch.equal(first.noisy, again.noisy)
    assert torch.equal(first.level, again.level)
    assert not torch.equal(first.noisy, next_one.noisy)


def test_noise_has_the_level_that_the_network_is_told(config):
    task = CTDenoise(dataclasses.replace(config, batch=64), CPU)
    batch = task.sample(Draw.of(CPU, 0, 0))
    in_body = batch.clean > 0.2
    chosen = in_body.sum((1, 2, 3)) > 600
    squares = ((batch.noisy - batch.clean).square() * in_body).sum((1, 2, 3)) / in_body.sum((1, 2, 3))
    ratio = squares[chosen].sqrt() / batch.level[chosen, 0]
    assert chosen.sum() > 10
    assert float(ratio.log().mean().exp()) == pytest.approx(1, abs=0.15)


def test_noise_is_of_one_hu_and_a_kernel_leaves_its_level(config):
    slices = NoisySlices([body_hu(size=96)], 0, seed=0)
    noise, body = slices.noise(0, 0), torch.from_numpy(body_hu(size=96) > -500)
    everything, smooth = (Kernels(*(torch.tensor([x]) for x in values)) for values in (
        (1e3, 4.0, 0.0), (0.15, 2.0, 0.0)
    ))  # fmt: skip
    assert float(noise.image.float()[body].square().mean().sqrt()) == pytest.approx(1, rel=1e-2)
    assert float(noise.level(everything)) == pytest.approx(1, rel=1e-2)
    assert float(noise.level(smooth)) < 0.5
    assert slices.noise(0, 0) is noise


def test_numbers_of_files_are_whole_and_no_lower_than_the_scale(config):
    batch = CTDenoise(config, CPU).sample(Draw.of(CPU, 0, 0))
    hu = to_hu(batch.noisy)
    torch.testing.assert_close(hu, hu.round(), rtol=0, atol=2e-3)
    assert hu.min() >= -1024.01


def test_slices_smaller_than_a_crop_are_filled_up_with_air(config):
    batch = CTDenoise(dataclasses.replace(config, patch=96), CPU).sample(Draw.of(CPU, 0, 0))
    assert batch.noisy.shape == (4, 1, 96, 96)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(config):
    assert check_resumed_equals_unbroken(config, 3).info["task"] == "ct-denoise"


def test_training_takes_noise_of_a_sharp_kernel_away(config, monkeypatch):
    monkeypatch.setattr("deepgsr_cli.ct.denoise_training._VALIDATED", ((10.0, 0.0, 80.0),))
    end = train(dataclasses.replace(config, steps=80, validate_every=40, learning_rate=1e-2))
    assert end.best > end.psnr_given + 1


def test_a_shape_that_looks_for_white_noise_is_refused(config, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(OptionError, match="preset is collaborative: known are small, wide, deep, paper"):
        CTDenoise(dataclasses.replace(config, preset="collaborative"), CPU)


def test_png_keep_what_is_below_air(tmp_path):
    hu = np.array([[-1024, -1010], [-1000, 40]])
    path = tmp_path / "slice.png"
    PIL.Image.fromarray((hu + PNG_OFFSET_HU).astype(np.uint16)).save(path)
    assert (read_hu(path, -1024.0)[0] == hu).all()
    assert (read_hu(path)[0] == hu.clip(min=-1000)).all()
