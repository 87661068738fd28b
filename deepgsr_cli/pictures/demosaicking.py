"""Demosaicking: the colours of Bayer mosaics, by a network or by interpolation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.compute.arrays import as_number
from deepgsr_cli.compute.device import select_device
from deepgsr_cli.compute.precision import with_own_defaults
from deepgsr_cli.compute.tiling import TileNeeds, apply_tiled
from deepgsr_cli.errors import OptionError, ShapeError, check_text
from deepgsr_cli.formats.mosaics import Mosaic, check_even, check_levels, check_pattern, read_mosaic, scaled
from deepgsr_cli.models.mosaics import MALVAR_REACH, bilinear, malvar
from deepgsr_cli.pictures.arrays import NumpyPicture, as_array, is_flat, white_of
from deepgsr_cli.pictures.mosaics import balance, developed, turned
from deepgsr_cli.pictures.restorer import Restorer, RunOptions
from deepgsr_cli.pictures.tasks import DEMOSAICK

# Of a mosaic that begins with R G, G B, (B, 1, H, W), colours, (B, 3, H, W).
Function = Callable[[Tensor], Tensor]

# The methods beside the network, which remove no noise.
INTERPOLATIONS: dict[str, Function] = {"bilinear": bilinear, "malvar": malvar}
METHODS = ("deepgsr", *INTERPOLATIONS)
_INTERPOLATION_NEEDS = TileNeeds(grid=2, halo=MALVAR_REACH)
# Float32 maps of the size of the mosaic that `malvar` has at its peak.
_INTERPOLATION_MAPS = 24


@dataclass
class Demosaicker:
    """Demosaicking of one mosaic after another, by a model that is loaded once.

    Attributes:
        weights: NAME, FILE or hf:// address; None for the default.
        options: How the model runs.
        notify: Called with sentences a user should read.
        method: Of `METHODS`.
        restorer: Loads the model, and keeps it.

    Raises:
        OptionError: There is no such method.
    """

    weights: str | None = None
    options: RunOptions = field(default_factory=RunOptions)
    notify: Callable[[str], None] | None = None
    method: str = "deepgsr"
    restorer: Restorer = field(init=False)

    def __post_init__(self) -> None:
        check_text("method", self.method, f"known are {', '.join(METHODS)}")
        if self.method not in METHODS:
            raise OptionError("method", self.method, f"known are {', '.join(METHODS)}")
        self.restorer = Restorer(self.weights, self.options, self.notify, DEMOSAICK.name)

    def load(self) -> None:
        """Load the model, if the method has one and it has not been loaded yet; errors as `Restorer.load`."""
        if self.method not in INTERPOLATIONS:
            self.restorer.load(3)

    def level(self, mosaic: np.ndarray, pattern: str) -> float:
        """Noise level on the 0-255 scale, estimated from a mosaic, (H, W); at most what the weights know."""
        assert DEMOSAICK.level is not None
        sigma = DEMOSAICK.level.estimate(turned(mosaic, pattern)[None])
        return 0.0 if self.method in INTERPOLATIONS else min(sigma, self.restorer.sigma_limit(3))

    def __call__(
        self,
        mosaic: np.ndarray,
        pattern: str = "RGGB",
        sigma: float = 0.0,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Find the colours of a mosaic; return them, (3, H, W), float32, not clipped.

        Args:
            mosaic: (H, W), float32, H and W even; 0 is black and 1 is white.
            pattern: Of `formats.mosaics.PATTERNS`.
            sigma: Standard deviation of the noise, on the 0-255 scale, which is then removed as well. With 0
                the colours that were measured stay as they are.
            progress: Called with finished and total pixels.

        Raises:
            OptionError: A noise level that the weights or the method do not know.
            ShapeError: Odd sides, or NaN.
            UsageError: As `Restorer.load`.
            WeightsError: As `Restorer.load`.
        """
        check_even(mosaic.shape)
        if not np.isfinite(mosaic.sum(dtype=np.float64)):
            raise ShapeError("the mosaic has NaN or infinite pixels; replace them first")
        upright = np.ascontiguousarray(turned(mosaic, pattern)[None], np.float32)
        sites = [upright[:, row::2, column::2] for row, column in ((0, 0), (0, 1), (1, 0), (1, 1))]
        if all(is_flat(site) for site in sites) and np.array_equal(sites[1], sites[2]):
            colours = np.array([site[0, 0, 0] for site in (sites[0], sites[1], sites[3])])
            return np.broadcast_to(colours[:, None, None], (3, *mosaic.shape)).copy()
        options, device = self.options, select_device(self.options.device)
        function, needs, bytes_per_pixel = self._function(sigma, device)
        height, width = mosaic.shape
        pixels = apply_tiled(
            (lambda x: _ensemble(function, x)) if options.ensemble else function,
            torch.from_numpy(upright),
            options.tiles((height, width), 3, needs, bytes_per_pixel, device),
            device=device,
            precision=options.precision,
            progress=progress,
            notify=self.notify,
        ).numpy()
        return turned(pixels, pattern)

    def _function(self, sigma: float, device: torch.device) -> tuple[Function, TileNeeds, float]:
        """What is done to tiles, what it needs of them, and its memory for a pixel in bytes."""
        if self.method in INTERPOLATIONS:
            if sigma != 0:
                raise OptionError(
                    "sigma", float(sigma), f"{self.method} removes no noise; give 0, or --method deepgsr"
                )
            return INTERPOLATIONS[self.method], _INTERPOLATION_NEEDS, 4.0 * _INTERPOLATION_MAPS
        loaded = self.restorer.load(3)
        if not 0 <= sigma <= loaded.sigma_max:
            advice = f"these weights know 0 to {loaded.sigma_max:g}; give a level within"
            raise OptionError("sigma", float(sigma), advice)
        model = loaded.model
        condition = torch.tensor([[sigma / 255]], dtype=torch.float32, device=device)
        return (lambda x: model(x, condition)), model.tile_needs, model.bytes_per_pixel


def _ensemble(function: Function, mosaics: Tensor) -> Tensor:
    """Mean over eight orientations of what a function makes of mosaics, turned back.

    A mosaic that is turned over begins with another pattern; a border of one reflected pixel restores it.
    """
    total = mosaics.new_zeros(())
    for transposed in (False, True):
        x = mosaics.mT if transposed else mosaics  # R G, G B either way
        for axes in ((), (-1,), (-2,), (-2, -1)):
            above, left = (int(axis in axes) for axis in (-2, -1))
            framed = F.pad(x.flip(axes), (left, left, above, above), mode="reflect")
            y = function(framed.contiguous())
            y = y[..., above : y.shape[-2] - above, left : y.shape[-1] - left].flip(axes)
            total = total + (y.mT if transposed else y)
    return total / 8


@overload
def demosaick(
    mosaic: Tensor,
    pattern: str | None = None,
    sigma: float | None = 0.0,
    *,
    method: str = "deepgsr",
    black: float | None = None,
    white: float | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> Tensor: ...
@overload
def demosaick(
    mosaic: NumpyPicture,
    pattern: str | None = None,
    sigma: float | None = 0.0,
    *,
    method: str = "deepgsr",
    black: float | None = None,
    white: float | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> np.ndarray: ...
@with_own_defaults
def demosaick(
    mosaic: Tensor | NumpyPicture,
    pattern: str | None = None,
    sigma: float | None = 0.0,
    *,
    method: str = "deepgsr",
    black: float | None = None,
    white: float | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> Tensor | np.ndarray:
    """Find the colours of a Bayer mosaic; return them, (H, W, 3), in the mosaic's dtype over its whole range.

    Args:
        mosaic: A file, or an array or tensor of (H, W), H and W even; uint8, uint16 or floating point.
            What is made of a file is upright; of a raw file, sRGB in uint16 with the camera's white balance.
        pattern: Colours of the first 2 x 2 pixels as they are stored, row by row: RGGB, GRBG, GBRG or BGGR;
            None for what a raw file says, and RGGB of others.
        sigma: Standard deviation of the noise, on a scale where black is 0 and white 255, which is removed,
            too; None to estimate it.
        method: "deepgsr", "bilinear" or "malvar".
        black: Value that stands for black; None for what a raw file says, and 0 of others.
        white: Value that stands for white; None for what a file says, and 255, 65535 or 1, by the dtype.
        weights: NAME, FILE or hf:// address; None for the shipped ones.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps". A tensor comes back on its own device.

    Raises:
        ShapeError: Another shape or dtype, odd sides, or NaN.
        UsageError: A value is out of range, or the weights do not fit.
        InputError: The file cannot be read, or is no mosaic.
        WeightsError: As `Restorer.load`.
    """
    sigma = as_number("sigma", sigma, or_none=True)
    black, white = as_number("black", black, or_none=True), as_number("white", white, or_none=True)
    demosaicker = Demosaicker(weights, RunOptions(device, "auto"), method=method)
    if isinstance(mosaic, str | Path):
        taken = read_mosaic(Path(mosaic), black=black, white=white)
    else:
        array = as_array(mosaic)
        if array.ndim != 2:
            raise ShapeError(
                f"an array of shape {array.shape} is no mosaic; give (H, W) of one value a pixel"
            )
        check_even(array.shape)
        top = white_of(array.dtype, white)
        check_levels(black or 0.0, top)
        taken = Mosaic(scaled(array, black or 0.0, top), array.dtype.name, "PNG")
    pattern = check_pattern((taken.pattern or "RGGB") if pattern is None else pattern)
    balance(taken, pattern)
    level = demosaicker.level(taken.values, pattern) if sigma is None else sigma
    pixels = developed(demosaicker(taken.values, pattern, level), taken).transpose(1, 2, 0)
    if taken.depth.startswith("uint"):
        full = np.iinfo(taken.depth).max
        pixels = np.clip(np.rint(pixels * np.float32(full)), 0, full)
    colours = np.ascontiguousarray(pixels, taken.depth)
    return torch.from_numpy(colours).to(mosaic) if isinstance(mosaic, Tensor) else colours
