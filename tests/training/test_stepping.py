import copy
import dataclasses

import pytest
import torch

import deepgsr_cli.training.stepping
from deepgsr_cli.pictures.training import PictureTraining
from deepgsr_cli.tasks import train
from deepgsr_cli.training.optimizers import optimizer
from deepgsr_cli.training.stepping import Descent, Gradients
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


@pytest.mark.gpu
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


def _descents(device, name):
    """Two equal models, each with its average and its descent."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Conv2d(16, 8, 3)).to(device)
        average = copy.deepcopy(model)
        found.append((model, average, Descent(model, average, optimizer(name, model, 1e-2, 0.1, True), 1.0)))
    return found


def _descend(model, average, descent):
    generator = torch.Generator().manual_seed(1)
    for step in range(8):
        for p in model.parameters():
            gradient = torch.randn(p.shape, generator=generator).to(p.device)
            p.grad = gradient if p.grad is None else p.grad.copy_(gradient)
        descent(0.01 * (step + 1), 0.1 * step)
    return [p.detach() for p in (*model.parameters(), *average.parameters())]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_average_takes_its_share_of_the_weights(name):
    (model, average, descent), _ = _descents("cpu", name)
    before, first = copy.deepcopy(model), copy.deepcopy(average)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    descent(0.01, 0.75)
    for old, a, b, c in zip(
        before.parameters(), first.parameters(), model.parameters(), average.parameters()
    ):
        assert not torch.equal(old, b)
        torch.testing.assert_close(c, 0.75 * a + 0.25 * b)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_recorded_descent_equals_a_plain_one(name):
    plain, recorded = _descents("cuda", name)
    recorded[2].prepare(pytest.fail)
    expected = _descend(*plain)
    found = _descend(*recorded)
    assert recorded[2].graph is not None
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
