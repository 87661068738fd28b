import dataclasses

import pytest
import torch
from torch import nn

from deepgsr_cli.errors import UsageError
from deepgsr_cli.models import PRESETS, DeepGSR
from deepgsr_cli.tasks import train
from deepgsr_cli.training.optimizers import Muon, optimizer, orthogonal
from tests.samples import check_resumed_equals_unbroken


@pytest.mark.parametrize("shape", [(3, 16, 144), (2, 40, 12)])
def test_orthogonal_keeps_the_singular_vectors(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    found = u.mT @ orthogonal(x) @ v.mT
    values = found.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert (found - torch.diag_embed(values)).abs().max() < 1e-3


def test_every_parameter_has_one_optimiser_and_hidden_kernels_have_muon():
    model = DeepGSR(PRESETS["small"])
    adamw, muon = optimizer("muon", model, 1e-3, 1e-4)
    lists = [[id(p) for g in part.param_groups for p in g["params"]] for part in (adamw, muon)]
    assert sorted(lists[0] + lists[1]) == sorted(id(p) for p in model.parameters())
    assert id(model.head.weight) in lists[0]
    assert id(model.encoder[1][0].feed_forward.layers[0].weight) in lists[1]


def test_a_step_has_the_size_that_the_learning_rate_says():
    kernel = nn.Parameter(torch.zeros(16, 16, 3, 3))
    kernel.grad = torch.randn(16, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    Muon([kernel], lr=1e-2).step()
    assert float(kernel.detach().square().mean().sqrt()) == pytest.approx(2e-3, rel=0.3)


def test_a_run_with_muon_resumes_bit_for_bit(config):
    check_resumed_equals_unbroken(dataclasses.replace(config, optimizer="muon"), 3)


def test_muon_lowers_the_error(config):
    end = train(dataclasses.replace(config, optimizer="muon", steps=60, validate_every=30, batch=4))
    assert end.best > 20


def test_an_unknown_optimiser_is_named(config):
    with pytest.raises(UsageError, match="optimizer is lion: known are adamw, muon"):
        dataclasses.replace(config, optimizer="lion")
