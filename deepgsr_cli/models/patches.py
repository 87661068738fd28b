"""Overlapping patches of periodic feature maps: taken apart, put in windows, averaged back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reflect_to(x: Tensor, height: int, width: int) -> Tensor:
    """Maps (..., height, width): x, (..., H, W), continued below and to the right by reflection.

    The edge pixel is not repeated. Unlike `torch.nn.functional.pad`, the continuation may be longer than x:
    it then goes back and forth, and a single row or column is repeated.
    """
    for dim, target in ((-2, height), (-1, width)):
        size = x.shape[dim]
        if target > size:
            period = max(2 * (size - 1), 1)
            index = torch.arange(target, device=x.device) % period
            x = x.index_select(dim, torch.minimum(index, period - index) if size > 1 else index)
    return x


def extract(x: Tensor, patch: int, stride: int) -> Tensor:
    """All patches of periodic maps, (B, H/stride, W/stride, C * patch**2), of x, (B, C, H, W).

    H and W are multiples of the stride; patches that reach over the lower or right edge go on at the
    opposite one, so no row or column is left out or counted less than another.
    """
    rim = patch - stride
    if rim > 0:
        x = F.pad(x, (0, rim, 0, rim), mode="circular")
    rows = (x.shape[-2] - patch) // stride + 1
    tokens = F.unfold(x, patch, stride=stride).transpose(1, 2)
    return tokens.reshape(x.shape[0], rows, -1, tokens.shape[-1])


def aggregate(patches: Tensor, patch: int, stride: int) -> Tensor:
    """Periodic maps (B, C, H, W) with, at each pixel, the mean of the patches that cover it.

    Args:
        patches: As `extract` returns them, (B, H/stride, W/stride, C * patch**2).
        patch: Side of a patch; at least `stride`.
        stride: Distance of neighbouring patches.
    """
    rows, columns = patches.shape[1:3]
    height, width = rows * stride, columns * stride
    rim = patch - stride
    if torch.onnx.is_in_onnx_export():  # whose fold is of one size only
        maps = patches.permute(0, 3, 1, 2)
        one = torch.eye(maps.shape[1], dtype=maps.dtype).unflatten(1, (-1, patch, patch))
        x = F.conv_transpose2d(maps, one, stride=stride)
    else:
        columns_of = patches.flatten(1, 2).transpose(1, 2)
        x = F.fold(columns_of, (height + rim, width + rim), patch, stride=stride)  # (B, C, H + rim, W + rim)
    if rim > 0:
        # What was folded beyond an edge belongs to the opposite one.
        x = torch.cat((x[..., :rim, :] + x[..., height:, :], x[..., rim:height, :]), dim=-2)
        x = torch.cat((x[..., :rim] + x[..., width:], x[..., rim:width]), dim=-1)
    # A pixel is covered once for each offset in a patch that is congruent to its position.
    offset = torch.arange(stride, dtype=x.dtype, device=x.device)
    cover = ((patch - offset) / stride).ceil()
    weight = 1 / (cover[:, None] * cover[None, :])
    return x * weight.repeat(rows, columns)


def to_windows(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Tokens by window, (B * windows, rows * columns, d), of a token grid (B, R, S, d).

    R and S are multiples of `rows` and `columns`, the sides of a window in tokens.
    """
    batch, grid_rows, grid_columns, dim = tokens.shape
    tokens = tokens.reshape(batch, grid_rows // rows, rows, grid_columns // columns, columns, dim)
    return tokens.transpose(2, 3).reshape(-1, rows * columns, dim)


def from_windows(tokens: Tensor, rows: int, columns: int, grid_rows: int, grid_columns: int) -> Tensor:
    """Token grid (B, grid_rows, grid_columns, d) of tokens by window: the inverse of `to_windows`."""
    dim = tokens.shape[-1]
    tokens = tokens.reshape(-1, grid_rows // rows, grid_columns // columns, rows, columns, dim)
    return tokens.transpose(2, 3).reshape(-1, grid_rows, grid_columns, dim)
