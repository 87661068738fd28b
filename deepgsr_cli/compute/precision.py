"""The arithmetic that networks run in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar, get_args

import torch

from deepgsr_cli.errors import OptionError

P = ParamSpec("P")
R = TypeVar("R")

Precision = Literal["fp32", "bf16", "fp16"]
# What may be asked for: of "auto", `settled` says what it is.
AskedPrecision = Literal["auto", "fp32", "bf16", "fp16"]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Of the first CUDA devices with matrix units for bfloat16, those of Ampere.
_BF16_CAPABILITY = (8, 0)


def check_precision(precision: object) -> None:
    """Raise an OptionError unless this is a precision that may be asked for."""
    if precision not in get_args(AskedPrecision):
        raise OptionError("precision", precision, f"known are {', '.join(get_args(AskedPrecision))}")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Context in which a network on the device computes in a precision, as far as it is safe."""
    return torch.autocast(device.type, dtype=_HALF.get(precision), enabled=precision in _HALF)


def with_own_defaults(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function compute as ever where its caller has autocast on, or another default device.

    Both are for the caller's own networks.
    """

    @functools.wraps(function)
    def exact(*arguments: P.args, **options: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            if torch.get_default_device().type == "cpu":
                return function(*arguments, **options)
            with torch.device("cpu"):
                return function(*arguments, **options)

    return exact


def settled(asked: AskedPrecision, device: torch.device) -> Precision:
    """Precision that is asked for; of "auto" bf16 where there are units for it, and fp32 on all else.

    With such units of a CPU a picture takes half the time of a network, and loses less than 0.01 dB. Those
    of CUDA round and add alike; they were not measured. Without units bf16 takes longer than fp32.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        units = torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY
    else:
        units = device.type == "cpu" and has_bf16_units()
    return "bf16" if units else "fp32"


@functools.cache
def has_bf16_units() -> bool:
    """Whether this processor has matrix units for bfloat16 that torch knows of: Intel's AMX.

    The vector instructions for it, AVX-512 BF16, do not suffice: with them, bf16 takes 1.3 times as long as
    fp32.
    """
    if not hasattr(torch.cpu, "get_capabilities"):  # in an older release of torch
        return False
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
