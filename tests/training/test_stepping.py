import dataclasses

import pytest
import torch

import deepgsr_cli.training.stepping
from deepgsr_cli.pictures.training import PictureTraining
from deepgsr_cli.tasks import train
from deepgsr_cli.training.stepping import Gradients
from deepgsr_cli.training.task import Draw
from tests.samples import weights_of


@pytest.fixture
def plain(config, trained):
    """Weights of a run that is not compiled, and the same run yet to be made, compiled."""
    return weights_of(trained), dataclasses.replace(config, compile=True)


def test_a_compiled_run_equals_a_plain_one(plain, monkeypatch):
    weights, config = plain
    monkeypatch.setattr(deepgsr_cli.training.stepping, "_BACKEND", "aot_eager")
    train(config)
    for name, value in weights_of(config).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-5)


def test_what_does_not_compile_is_trained_as_before(plain, monkeypatch):
    weights, config = plain

    def broken(graph, inputs):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(deepgsr_cli.training.stepping, "_BACKEND", broken)
    with pytest.warns(UserWarning, match="goes on without a compiled network"):
        train(config)
    for name, value in weights_of(config).items():
        assert torch.equal(value, weights[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_recorded_step_equals_a_plain_one(config):
    device = torch.device("cuda")
    task = PictureTraining(config, device)
    model = task.network().to(device)
    torch.nn.init.normal_(model.tail.weight, std=0.01)
    gradients, recorded = Gradients(task, model), Gradients(task, model)
    samples = [task.sample(Draw.of(device, 0, step)) for step in range(3)]
    recorded._record(samples[0])
    for sample in samples[1:]:
        loss = recorded(sample)
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        kept = [p.grad for p in model.parameters()]
        torch.testing.assert_close(gradients(sample), loss)
        expected = [p.grad for p in model.parameters() if p.grad is not None]
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        for p, grad in zip(model.parameters(), kept):  # the graph writes where it wrote before
            p.grad = grad
