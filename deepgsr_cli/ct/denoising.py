"""Noise removed from CT slices in HU: by a network that is told its level, which can be estimated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from deepgsr_cli.compute.device import select_device
from deepgsr_cli.compute.tiling import apply_tiled
from deepgsr_cli.ct import MOST_LEVEL_HU
from deepgsr_cli.errors import OptionError

if TYPE_CHECKING:
    from deepgsr_cli.models import Prior
    from deepgsr_cli.pictures.restorer import RunOptions
    from deepgsr_cli.weights.load import Loaded

TASK = "ct-denoise"
# What the network sees of the HU scale; what lies beyond keeps its values.
LOWEST_HU, HIGHEST_HU = -1024.0, 3071.0
# HU that are 1 for the network.
SCALE_HU = 1000.0
# Level below which there is nothing to remove.
LEAST_LEVEL_HU = 2.0

Values = TypeVar("Values", np.ndarray, Tensor)


def to_network(hu: Values) -> Values:
    """HU as the network sees them: water is 0.5, which it takes for the middle, and air is -0.5.

    The numbers of soft tissue are then the finest that half precision has.
    """
    return 0.5 + hu / SCALE_HU


def to_hu(x: Values) -> Values:
    """HU of what the network gives: the inverse of `to_network`."""
    return (x - 0.5) * SCALE_HU


def check_level(level_hu: float | None) -> None:
    """Raise an OptionError unless the network knows the level; None is to be estimated."""
    if level_hu is not None and not 0 <= level_hu <= MOST_LEVEL_HU:
        raise OptionError(
            "sigma", level_hu, f"of CT, give the level in HU, 0 to {MOST_LEVEL_HU:g}, or auto to estimate it"
        )


# Standard deviations in pixels of the Gaussians between which bands lie, and of the one that tells tissue.
_GAUSSIANS_PX, _TISSUE_PX = (0.7, 1.4), 2.8
# Side of a cell in pixels, the part of the cells, from the quietest on, that has less noise than the one that
# is taken, and the fewest cells of soft tissue: in fewer, edges are taken for noise.
_CELL_PX, _QUIETEST, _FEWEST_CELLS = 8, 0.2, 40
# Soft tissue in HU.
_TISSUE_HU = -180.0, 250.0
# Logarithm of the level over the root of both bands' energy, by powers of the logarithm of the second band
# over the first: a tenth off for noise alone (benchmarks/tune_ct_level.py, on training slices).
_LEVEL_OF_BANDS = (0.868, 0.806, 0.362)


def estimate_level(hu: np.ndarray) -> float | None:
    """Standard deviation in HU of the noise in the body of a slice, (H, W), whatever the kernel; None where
    there is too little soft tissue to tell.

    Kernels correlate noise, so its finest band alone does not tell its level: that of smooth kernels is many
    times as strong in coarser bands. Two fine bands tell both, how strong noise is and how smooth. They are
    taken where soft tissue is quietest, which structure disturbs least, and what noise has there is brought
    to the mean of the body as it is on the average of slices.
    """
    cells = tissue_cells(hu)
    if cells.sum() < _FEWEST_CELLS:
        return None
    first, second = energies(np.asarray(hu, np.float32).clip(LOWEST_HU, SCALE_HU), cells)
    if min(first, second) <= 0:
        return 0.0
    slope = 0.5 * np.log(second / first)
    correction = sum(factor * slope**power for power, factor in enumerate(_LEVEL_OF_BANDS))
    return float(np.sqrt(first + second) * np.exp(correction))


def tissue_cells(hu: np.ndarray) -> np.ndarray:
    """Cells of a slice, (H, W), that are soft tissue throughout, bool, (H / 8, W / 8)."""
    x = np.asarray(hu, np.float32).clip(LOWEST_HU, SCALE_HU)
    smooth = ndimage.gaussian_filter(x, _TISSUE_PX, mode="nearest", truncate=3.0)
    return _cells((smooth > _TISSUE_HU[0]) & (smooth < _TISSUE_HU[1])) == 1


def energies(x: np.ndarray, cells: np.ndarray) -> tuple[float, float]:
    """Mean squares of two bands of an image, (H, W), the finer one first, in the quiet ones of cells."""
    smoother = [ndimage.gaussian_filter(x, width, mode="nearest", truncate=3.0) for width in _GAUSSIANS_PX]
    first, second = (
        float(np.quantile(_cells((finer - coarser) ** 2)[cells], _QUIETEST))
        for finer, coarser in zip((x, *smoother), smoother)
    )
    return first, second


def _cells(values: np.ndarray) -> np.ndarray:
    """Means, (H / 8, W / 8), of whole cells of an array, (H, W)."""
    height, width = (size // _CELL_PX * _CELL_PX for size in values.shape)
    cells = values[:height, :width].reshape(height // _CELL_PX, _CELL_PX, width // _CELL_PX, _CELL_PX)
    return np.asarray(cells.mean((1, 3), dtype=np.float64))


@dataclass(frozen=True)
class Level:
    """Level of the noise in a slice.

    Attributes:
        hu: Standard deviation in HU that the network is told; 0 where nothing is to be removed.
        note: What there is to know of it, in words.
    """

    hu: float
    note: str = ""


def level_of(hu: np.ndarray, given_hu: float | None) -> Level:
    """Level of a slice, (H, W), as given, or estimated if that is None."""
    if given_hu is not None:
        return Level(given_hu)
    found = estimate_level(hu)
    if found is None:
        return Level(0.0, f"too little soft tissue to tell the noise, unchanged; {_GIVE_IT}")
    if found < LEAST_LEVEL_HU:
        return Level(0.0, "no noise found, unchanged")
    if found > MOST_LEVEL_HU:
        known = f"the network knows {MOST_LEVEL_HU:g} HU, and leaves the rest"
        return Level(MOST_LEVEL_HU, f"noise of {found:.0f} HU found; {known}")
    return Level(found)


# What to do where the level cannot be told.
_GIVE_IT = "give --sigma to have it removed"


def load_network(weights: str | None, device: str, *, offline: bool) -> Loaded[Prior]:
    """Network for low-dose CT with its weights; errors as of `weights.load.load`.

    Args:
        weights: NAME, FILE or hf:// address; None for the default.
        device: "auto", "cpu", "cuda", ...
        offline: Do not use the network for weights.
    """
    from deepgsr_cli.models import PRIORS
    from deepgsr_cli.weights.load import load

    return load(
        TASK,
        weights,
        PRIORS,
        device=device,
        offline=offline,
        otherwise="; for CT slices, give weights for ct-denoise",
    )


def denoised(
    model: Prior,
    hu: np.ndarray,
    level_hu: float,
    options: RunOptions,
    *,
    strength: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Slice in HU, (H, W), float32, without its noise; what is beyond the network's scale is as it was.

    Args:
        model: The network, on the options' device.
        hu: The slice, (H, W), float32.
        level_hu: Standard deviation of the noise; 0 returns the slice as it is.
        options: How the model runs.
        strength: Share of the correction that is applied, 0 to 1.
        progress: Called with finished and total pixels.
    """
    if level_hu == 0 or strength == 0:
        return hu
    device = select_device(options.device)
    x = to_network(torch.from_numpy(hu.clip(LOWEST_HU, HIGHEST_HU)))[None]
    condition = torch.tensor([[level_hu / SCALE_HU]], dtype=torch.float32, device=device)
    height, width = hu.shape
    restored = apply_tiled(
        lambda tiles: model(tiles, condition),
        x,
        options.tiles((height, width), 1, model.tile_needs, model.bytes_per_pixel, device),
        device=device,
        precision=options.precision,
        progress=progress,
    )
    change_hu = (strength * SCALE_HU) * (restored - x)[0].numpy()
    beyond = (hu < LOWEST_HU) | (hu > HIGHEST_HU)
    return np.where(beyond, hu, hu + change_hu)
