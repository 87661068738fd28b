"""Losses of training, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def _charbonnier(error: Tensor) -> Tensor:
    return (error.square() + 1e-6).sqrt().mean((1, 2, 3))


def _mse(error: Tensor) -> Tensor:
    return error.square().mean((1, 2, 3))


def _log_mse(error: Tensor) -> Tensor:
    """Minus the PSNR, in nepers (Chen et al., HINet, CVPRW 2021): a crop that is easy, or hardly damaged,
    counts as much as any other."""
    return 0.5 * (_mse(error) + LOG_FLOOR).log()


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"charbonnier": _charbonnier, "mse": _mse, "psnr": _log_mse}

# Mean squared error below which the logarithm stops rewarding: 50 dB.
LOG_FLOOR = 1e-5

# Of all stages' mean error, beside the result's.
STAGES_WEIGHT = 0.3
