"""PSNR, SSIM and luma as the denoising and deraining papers define them."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def rounded8(pixels: Array) -> Array:
    """Pixels clipped to [0, 1] and rounded to the 256 levels of an 8-bit file, in float64."""
    return np.rint(np.clip(pixels.astype(np.float64), 0, 1) * 255) / 255


def psnr(estimate: Array, reference: Array, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB over all channels; infinite for equal arrays.

    Args:
        estimate: (..., H, W), on the scale of `peak`.
        reference: The same shape.
        peak: Largest possible value.
    """
    error = np.mean((estimate.astype(np.float64) - reference.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def psnr_b(estimate: Array, reference: Array, *, peak: float = 1.0) -> float:
    """PSNR in dB with a penalty for the edges of blocks of 8 x 8 pixels, the mean over channels.

    The mean squared error is raised by what squared differences across the edges have above those within
    blocks.

    Args:
        estimate: (C, H, W), on the scale of `peak`; blocks begin at its corner.
        reference: The same shape.
        peak: Largest possible value.

    Source:
        Yim and Bovik, Quality assessment of deblocked images, IEEE Transactions on Image Processing 20(1),
        2011.
    """
    values = []
    for x, y in zip(estimate.astype(np.float64), reference.astype(np.float64)):
        edges, others = [], []
        for differences in (np.diff(x, axis=0), np.diff(x, axis=1).T):
            across = np.arange(len(differences)) % 8 == 7
            edges.append(differences[across].ravel() ** 2)
            others.append(differences[~across].ravel() ** 2)
        edge, other = (np.mean(all_) if (all_ := np.concatenate(p)).size else 0.0 for p in (edges, others))
        effect = max(0.0, edge - other) * np.log2(8) / np.log2(max(8, min(x.shape)))
        error = np.mean((x - y) ** 2) + effect
        values.append(float("inf") if error == 0 else 10 * np.log10(peak**2 / error))
    return float(np.mean(values))


def ssim(estimate: Array, reference: Array, *, peak: float = 1.0) -> float:
    """Structural similarity, the mean over pixels and channels.

    Gaussian window of 11 x 11 pixels with sigma 1.5, K1 0.01, K2 0.03, and only windows that lie within the
    image; smaller images take all windows, reflected at the edges.

    Args:
        estimate: (C, H, W), on the scale of `peak`.
        reference: The same shape.
        peak: Largest possible value.

    Source:
        Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13(4), 2004.
    """
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = []
    for x, y in zip(estimate.astype(np.float64), reference.astype(np.float64)):
        mean_x, mean_y = _filter(x, window), _filter(y, window)
        var_x = _filter(x * x, window) - mean_x**2
        var_y = _filter(y * y, window) - mean_y**2
        cov = _filter(x * y, window) - mean_x * mean_y
        values.append(
            np.mean(
                ((2 * mean_x * mean_y + c1) * (2 * cov + c2))
                / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
            )
        )
    return float(np.mean(values))


def _filter(x: Array, window: Array) -> Array:
    """x, (H, W), filtered along both axes; cut to where the window fits if it fits anywhere."""
    for axis in (0, 1):
        if x.shape[axis] < len(window):
            rim = len(window) // 2
            x = np.pad(x, [(rim, rim) if i == axis else (0, 0) for i in (0, 1)], mode="symmetric")
        size = x.shape[axis] - len(window) + 1
        parts = [w * np.take(x, range(i, i + size), axis) for i, w in enumerate(window)]
        x = np.sum(parts, axis=0)
    return x


def luma_y(pixels: Array) -> Array:
    """Y channel, (1, H, W), of RGB, (3, H, W) on the [0, 1] scale, as MATLAB's rgb2ycbcr has it: ITU-R BT.601
    with values from 16/255 to 235/255, not rounded. Deraining is compared on it."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return np.tensordot(weights, pixels.astype(np.float64), 1)[None] + 16 / 255


def luma_inside(pixels: Array, border: int) -> Array:
    """Y of RGB, (3, H, W), without a border, as super-resolution is compared by it.

    The pixels are rounded to 8 bits first, and Y is that of `luma_y`.
    """
    return luma_y(rounded8(pixels))[:, border:-border, border:-border]
