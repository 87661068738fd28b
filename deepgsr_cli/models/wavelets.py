"""Haar wavelet transform of feature maps; PyWavelets is its oracle in the tests."""

from __future__ import annotations

import torch
from torch import Tensor


def dwt2(x: Tensor) -> Tensor:
    """Orthonormal Haar bands LL, LH, HL, HH, (..., 4, H/2, W/2), of maps (..., H, W) with even H and W.

    The order and the signs are those of `pywt.dwt2(x, "haar")`: approximation, horizontal, vertical and
    diagonal detail. The transform keeps the sum of squares, so its adjoint is its inverse, `idwt2`.
    """
    top, bottom = x[..., 0::2, :], x[..., 1::2, :]
    low, high = top + bottom, top - bottom
    bands = [low[..., 0::2] + low[..., 1::2], high[..., 0::2] + high[..., 1::2]]
    bands += [low[..., 0::2] - low[..., 1::2], high[..., 0::2] - high[..., 1::2]]
    return torch.stack(bands, dim=-3) * 0.5


def idwt2(bands: Tensor) -> Tensor:
    """Maps (..., 2H, 2W) whose Haar bands, (..., 4, H, W), are the ones given: the inverse of `dwt2`."""
    ll, lh, hl, hh = (bands * 0.5).unbind(-3)
    low_left, low_right = ll + hl, ll - hl
    high_left, high_right = lh + hh, lh - hh
    top = torch.stack((low_left + high_left, low_right + high_right), dim=-1).flatten(-2)
    bottom = torch.stack((low_left - high_left, low_right - high_right), dim=-1).flatten(-2)
    return torch.stack((top, bottom), dim=-2).flatten(-3, -2)
