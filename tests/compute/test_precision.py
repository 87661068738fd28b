"""Which arithmetic "auto" stands for."""

import pytest
import torch

from deepgsr_cli.compute import precision
from deepgsr_cli.compute.precision import settled

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# Bound here, before the fixture of all tests puts another in its place.
has_bf16_units = precision.has_bf16_units.__wrapped__


@pytest.fixture(params=[False, True], ids=["without units", "with units"])
def units(request, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16_units", lambda: request.param)
    return request.param


@pytest.mark.parametrize("asked", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_what_is_asked_for_is_taken(asked, device, units):
    assert settled(asked, device) == asked


def test_auto_is_bf16_on_a_cpu_with_units_for_it(units):
    assert settled("auto", CPU) == ("bf16" if units else "fp32")
    assert settled("auto", torch.device("mps")) == "fp32"


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((8, 9), "bf16"), ((10, 0), "bf16")]
)
def test_auto_is_bf16_on_a_gpu_with_units_for_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert settled("auto", CUDA) == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, False), ({"amx_bf16": False}, False)],
)
def test_units_are_those_for_matrices(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bf16_units() is expected


def test_a_torch_that_does_not_say_has_none(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bf16_units()
