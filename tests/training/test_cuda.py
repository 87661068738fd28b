"""Training on a GPU: all of it needs one."""

import dataclasses

import pytest
import torch

from deepgsr_cli.pictures.training import PictureTraining
from deepgsr_cli.tasks import train
from deepgsr_cli.training.task import Draw
from tests.samples import weights_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def _interrupt(config, step):
    """Train up to a step, as somebody who then presses Ctrl-C."""

    def stop(progress):
        if progress.step >= step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, report=stop)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_compiled_run_that_is_resumed_equals_a_plain_one(config, optimizer):
    plain = dataclasses.replace(config, device="cuda", optimizer=optimizer, steps=10)
    train(plain)
    compiled = dataclasses.replace(plain, compile=True, output=config.output / "compiled")
    _interrupt(compiled, 6)
    train(compiled, resume=True)
    for name, value in weights_of(compiled).items():
        torch.testing.assert_close(value, weights_of(plain)[name], rtol=1e-2, atol=1e-3)


def test_a_run_begun_on_a_gpu_is_resumed_on_the_cpu(config):
    begun = dataclasses.replace(config, device="cuda", compile=True)
    _interrupt(begun, 6)
    assert train(dataclasses.replace(begun, device="cpu", compile=False), resume=True).step == 8


@pytest.mark.parametrize("preset", ["small", "wide"])
def test_the_loss_in_bfloat16_is_within_a_hundredth(config, preset):
    device = torch.device("cuda")
    losses = []
    for precision in ("fp32", "bf16"):
        task = PictureTraining(
            dataclasses.replace(config, preset=preset, precision=precision, loss="mse"), device
        )
        torch.manual_seed(0)
        model = task.network().to(device)
        torch.nn.init.normal_(model.tail.weight, std=0.01)
        losses.append(float(task.loss(model, task.sample(Draw.of(device, 0, 0)))))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
