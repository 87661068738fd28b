import csv
import dataclasses

import numpy as np
import pytest
import torch

from deepgsr_cli.errors import OptionError
from deepgsr_cli.evaluation.metrics import luma_inside, psnr
from deepgsr_cli.formats.image import Image, write_image
from deepgsr_cli.models import NSR_PRESETS, NSRConfig
from deepgsr_cli.pictures.resampling import RIM, reduced, resized
from deepgsr_cli.pictures.upscaling import UpscaleTraining
from deepgsr_cli.tasks import train
from deepgsr_cli.training.losses import LOSSES
from deepgsr_cli.training.task import Draw
from tests.samples import check_resumed_equals_unbroken, load_checkpoint, short_run

CPU = torch.device("cpu")


@pytest.fixture
def config(pictures, tmp_path, monkeypatch):
    """Eight steps of a tiny network."""
    monkeypatch.setitem(NSR_PRESETS, "tiny", NSRConfig(scales=(2, 3, 4), width=16, blocks=1))
    run = short_run(pictures, tmp_path / "run")
    return dataclasses.replace(run, task="upscale", model="nsr", channels=3, batch=6, patch=40)


def test_a_batch_has_an_equal_part_for_each_scale(config):
    sample = UpscaleTraining(config, CPU).sample(Draw.of(CPU, 0, 0))
    assert sample.degraded.shape == (6, 3, 6, 6)
    assert sample.clean.shape == (6, 3, 40, 40)
    for first, scale in ((0, 2), (2, 3), (4, 4)):
        crops = sample.clean[first : first + 2, :, : 10 * scale, : 10 * scale]
        small = reduced(crops, scale)[..., RIM:-RIM, RIM:-RIM]
        torch.testing.assert_close(sample.degraded[first : first + 2], small, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_loss_is_the_mean_over_the_crops_of_each_at_its_scale(config):
    task = UpscaleTraining(config, CPU)
    sample, model = task.sample(Draw.of(CPU, 0, 0)), task.network()
    torch.nn.init.constant_(model.tail.gain, 1.0)
    losses = []
    for i, scale in enumerate((2, 2, 3, 3, 4, 4)):
        clean = sample.clean[i : i + 1, :, 2 * scale : 8 * scale, 2 * scale : 8 * scale]
        losses.append(LOSSES[config.loss](model.enlarge(sample.degraded[i : i + 1], scale) - clean))
    torch.testing.assert_close(task.loss(model, sample), torch.cat(losses).mean(), rtol=0, atol=1e-6)


@torch.no_grad()
def test_validation_is_each_picture_at_each_scale_and_bicubic_what_is_given(config):
    task = UpscaleTraining(config, CPU)
    samples = task.validation()
    assert [sample.degraded.shape[2:] for sample in samples] == [(35, 40), (23, 27), (17, 20)]
    for sample, scale in zip(samples, (2, 3, 4)):
        height, width = (scale * length for length in sample.degraded.shape[2:])
        bicubic = resized(sample.degraded, height, width)[0].numpy()
        true = sample.clean[0, :, :height, :width].numpy()
        expected = psnr(luma_inside(bicubic, scale), luma_inside(true, scale))
        assert task.psnr_given(sample) == pytest.approx(expected, abs=1e-9)
        assert task.psnr(task.network(), sample) == pytest.approx(expected, abs=0.5)  # apart from the edges


def test_training_beats_bicubic_on_a_held_out_picture(config, tmp_path):
    generator = np.random.default_rng(0)
    for i in range(4):
        squares = generator.uniform(0.1, 0.9, (3, 6, 7)).repeat(12, 1).repeat(12, 2)
        write_image(tmp_path / f"{i}.png", Image(squares.astype(np.float32), "uint8", "PNG"))
    run = dataclasses.replace(
        config,
        data=(tmp_path,),
        steps=150,
        validate_every=150,
        learning_rate=2e-2,
        optimizer="muon",
        loss="psnr",
    )
    end = train(run)
    assert end.given == "bicubic interpolation"
    assert end.best > end.psnr_given + 0.5
    with (run.output / "log.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["validation_psnr_db"]) == pytest.approx(end.psnr)
    model = load_checkpoint(run.output / "model.safetensors").model
    kernel = UpscaleTraining(config, CPU).network().skip.kernels()
    torch.testing.assert_close(model.skip.kernels(), kernel, rtol=0, atol=0)


def test_a_resumed_run_equals_an_unbroken_one(config):
    check_resumed_equals_unbroken(config, 3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch": 2}, "--batch 2: give 3 or more, one for each scale"),
        ({"patch": 19}, "--patch 19: give 20 or more"),
        (
            {"preset": "small"},
            "--preset small: it does not enlarge, and upscale enlarges 2 or 3 or 4 times; give",
        ),
        ({"model": "deepgsr", "preset": "small"}, "--model deepgsr: it does not enlarge; give nsr"),
    ],
)
def test_what_cannot_be_is_said(config, change, sentence):
    with pytest.raises(OptionError) as caught:
        train(dataclasses.replace(config, **change))
    assert caught.value.for_command_line().startswith(sentence)
