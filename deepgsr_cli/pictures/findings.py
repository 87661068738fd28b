"""What is wrong with a picture: noise, found by a small network, and rain, by what one for rain takes off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.compute.levels import to_floats
from deepgsr_cli.models.noise_estimator import CELL, NoiseEstimator
from deepgsr_cli.pictures.noise import estimate_sigma

if TYPE_CHECKING:
    from deepgsr_cli.weights.load import Loaded

Kind = Literal["none", "white", "camera", "unknown"]

# Least side, in pixels, of a picture whose noise can be told from what it shows.
SMALLEST_SIDE = 16
# Probability from which there is noise, and below which there is none; between them nobody can tell. A clean
# picture that is denoised loses more than a noisy one that is not.
_NOISY, _CLEAN = 0.72, 0.3
# Probability from which noise is correlated, or grows with the light. On pictures to train on that of white
# noise is 0.63 at most, of a camera's noise mostly over 0.9.
_SURELY = 0.8
# Below this level, on the 0-255 scale, there is nothing to remove: rounding to 8 bits alone leaves 0.29.
_LEAST_LEVEL = 0.8
# Median estimate of white noise, on the 0-255 scale, above which texture hardly raises it, and clipping
# misleads the network. Below, the lower of both is nearer: on 66 pictures to train on within 7 % at level 5.
_STRONG = 20
# Share of neighbours that are alike, outside cells of one colour, from which a picture is drawn: in
# photographs whose noise has a level of 1 it is 0.23 at most, in drawn pictures mostly over 0.6.
_ALIKE = 0.5
# Or so few colours, which are less than this share of all there are between the darkest and the brightest.
_FEW_COLOURS, _SPARSE = 32, 0.5
# Blocks that a picture is cut into to see how widely rain is spread: their side in pixels.
_BLOCK = 32
# Least side, in pixels, of a picture whose rain can be told. Of crops without rain of 8 to 48 pixels the
# network takes off what counts as rain in every second, of 64 in 2 of 24, and of 96 in none.
SMALLEST_RAINY_SIDE = 64
# Of what a network for rain takes off a picture: how upright and how spread it has to be, and the least
# product of its level and its spread. Of 152 pictures to train on, colour and gray, 3 are taken to have rain
# that have none, and of as many in generated rain 14 not to have any, which costs 0.06 dB in the mean.
_UPRIGHT, _SPREAD, _LEAST_RAIN = 0.2, 0.08, 0.45
# The least product where someone says that there is rain: of the same pictures 22 are then taken to have rain
# that have none, and 5 not to have any, which costs nothing.
_LEAST_EXPECTED = 0.1
# Windows that are looked at of a large picture, on each side, and their sides in pixels: a megapixel in all.
_WINDOWS, _SIDE = 4, 256


@dataclass(frozen=True)
class NoiseFinding:
    """What noise a picture has.

    Attributes:
        kind: "white", or "camera" where it is correlated or grows with the light, as a camera and JPEG leave
            it, in gray pictures only where it grows with the light; "none"; or "unknown": the picture is too
            small, or shows what may be texture or noise.
        sigmas: Standard deviation by channel, before clipping, on the 0-255 scale; what there would be, if
            there was any.
        level: Root mean square of all that differs from the clean picture, on the 0-255 scale.
        correlated: Whether it is another at each frequency.
        dependent: Whether it grows with the light.
        noisy: Probability that there is noise at all.
    """

    kind: Kind
    sigmas: tuple[float, ...]
    level: float
    correlated: bool
    dependent: bool
    noisy: float

    @property
    def sigma(self) -> float:
        """One level for all channels, on the 0-255 scale: their root mean square."""
        return math.sqrt(sum(sigma**2 for sigma in self.sigmas) / len(self.sigmas))

    @property
    def words(self) -> str:
        """The finding, as the begin of a sentence."""
        if self.kind == "none":
            return "no noise found"
        if self.kind == "unknown":
            return "what may be noise may be texture" if self.sigmas else "too small to tell its noise"
        if self.kind == "white":
            return f"white noise found, sigma {', '.join(f'{sigma:.1f}' for sigma in self.sigmas)}"
        features = [("correlated", self.correlated), ("stronger in the light", self.dependent)]
        named = ", ".join(name for name, there in features if there)
        return f"noise of a camera or JPEG found, level {self.level:.1f} ({named})"


def load_noise_estimator() -> Loaded[NoiseEstimator]:
    """Load the network that tells what noise is in a picture; it is small, and runs on the CPU.

    Raises:
        WeightsError: Its file is missing or damaged.
    """
    from deepgsr_cli.weights.load import load

    return load("noise", None, {"noise-estimator": NoiseEstimator}, channels=3, device="cpu", offline=True)


def noise_of(pixels: np.ndarray, estimator: NoiseEstimator) -> NoiseFinding:
    """Find out what noise is in a picture.

    Args:
        pixels: (C, H, W), float32 on the [0, 1] scale, or uint8 or uint16; C 1 or 3.
        estimator: Network on the CPU, in evaluation mode.
    """
    if min(pixels.shape[1:]) < SMALLEST_SIDE:
        return NoiseFinding("unknown", (), 0.0, False, False, 0.5)
    if is_drawn(pixels):
        return NoiseFinding("none", (0.0,) * len(pixels), 0.0, False, False, 0.0)
    with torch.inference_mode():
        cells = [estimator.cells(window).flatten(2) for window in windows_of(pixels)]
        estimate = estimator.judged(torch.cat(cells, dim=-1))
    noisy, level = float(estimate.noisy.sigmoid()), float(estimate.level)
    correlated, dependent = (
        float(logit.sigmoid()) > _SURELY for logit in (estimate.correlated, estimate.dependent)
    )
    # In one channel the network takes white noise for correlated noise too often.
    in_colour = not all(np.array_equal(pixels[0], channel) for channel in pixels[1:])
    kind: Kind = "camera" if dependent or (in_colour and correlated) else "white"
    if noisy < _CLEAN or level < _LEAST_LEVEL:
        kind = "none"
    elif noisy < _NOISY:
        kind = "unknown"
    sigmas = estimate.sigma[0, : len(pixels)].tolist()
    if kind == "white":
        medians = estimate_sigma(pixels)  # 0 where it finds nowhere to measure, too low of correlated noise
        sigmas = [m if m > _STRONG else s if correlated else min(m or s, s) for m, s in zip(medians, sigmas)]
    return NoiseFinding(kind, tuple(sigmas), level, correlated, dependent, noisy)


def is_drawn(pixels: np.ndarray) -> bool:
    """Whether a picture is drawn, as screens, line art, text and pixel art are, or one colour.

    There neighbours are mostly exactly alike, or there are few colours. Neither noise nor rain leaves that.

    Args:
        pixels: (C, H, W), float32 on the [0, 1] scale, or uint8 or uint16.
    """
    codes = np.concatenate([_codes(window[0].numpy()) for window in windows_of(pixels)])  # (rows, W)
    # Of most pictures the first rows have too many colours already.
    if len(np.unique(codes[:CELL])) <= _FEW_COLOURS:
        low, high = to_floats(np.array([pixels.min(), pixels.max()], pixels.dtype))
        span = 255 * float(high - low)
        if len(np.unique(codes)) <= max(1, min(_FEW_COLOURS, _SPARSE * span)):
            return True
    rows, columns = (side // CELL for side in codes.shape)
    cells = codes[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL).swapaxes(1, 2)
    right, down = cells[..., 1:] == cells[..., :-1], cells[:, :, 1:] == cells[:, :, :-1]
    alike = (right.mean((2, 3)) + down.mean((2, 3))) / 2
    varied = alike[alike < 1]
    return not varied.size or float(varied.mean()) > _ALIKE


def _codes(window: np.ndarray) -> np.ndarray:
    """A number for each pixel of a window, (3, h, w), the same where all channels are the same, (h, w)."""
    levels = np.rint(window * np.float32(65535)).astype(np.int64)
    return (levels[0] << 32) | (levels[1] << 16) | levels[2]


def windows_of(pixels: np.ndarray) -> list[Tensor]:
    """The picture, or windows spread evenly over a large one, (1, 3, h, w), on the grid of its cells.

    A side that is shorter than a cell is whole.
    """
    height, width = (size // CELL * CELL or size for size in pixels.shape[1:])

    def cut(top: int, left: int, rows: int, columns: int) -> Tensor:
        part = pixels[:, top : top + rows, left : left + columns]
        return torch.from_numpy(to_floats(part)).expand(3, -1, -1)[None]

    if height * width <= (_WINDOWS * _SIDE) ** 2:
        return [cut(0, 0, height, width)]
    tops, lefts = (
        sorted({round(k * max(0, size - _SIDE) / (_WINDOWS - 1) / CELL) * CELL for k in range(_WINDOWS)})
        for size in (height, width)
    )
    return [cut(top, left, min(_SIDE, height), min(_SIDE, width)) for top in tops for left in lefts]


class RainFinding(NamedTuple):
    """Whether a picture has rain, and what a network for rain takes off it.

    Attributes:
        there: Whether there is rain.
        level: Root mean square of what is taken off, on the 0-255 scale.
        upright: How much it runs from top to bottom: 1 upright, 0 in no direction, -1 level.
        spread: Share of the blocks of the picture that hold half of its energy.
        told: Whether the picture is large enough to tell.
    """

    there: bool
    level: float
    upright: float
    spread: float
    told: bool = True

    @property
    def words(self) -> str:
        """The finding, as the begin of a sentence."""
        if not self.told:
            return "too small to tell its rain"
        return "rain found" if self.there else "no rain found"


# Of a picture where nothing had to be taken off to see that there is none.
DRY = RainFinding(False, 0.0, 0.0, 0.0)
# Of a picture that has a side below `SMALLEST_RAINY_SIDE`.
TOO_SMALL = DRY._replace(told=False)


def rain_of(
    given: Sequence[np.ndarray], derained: Sequence[np.ndarray], *, expected: bool = False
) -> RainFinding:
    """Find out whether a picture has rain, by what a network for rain takes off windows of it.

    Rain falls all over a picture, and its streaks run from top to bottom. Of a picture without rain the
    network takes off little, in few places.

    Args:
        given: Windows, (C, H, W) on the [0, 1] scale.
        derained: The same without rain.
        expected: Whether someone says that there is rain: then less is enough.
    """
    energies, tensor = [], np.zeros(2)
    for before, after in zip(given, derained):
        rain = (before - after.clip(0, 1)).mean(0)
        tensor += [np.square(np.diff(rain, axis=axis)).mean(dtype=np.float64) for axis in (1, 0)]
        rows, columns = (max(1, side // _BLOCK) for side in rain.shape)
        blocks = [part for row in np.array_split(rain, rows) for part in np.array_split(row, columns, axis=1)]
        energies += [np.square(block).mean(dtype=np.float64) for block in blocks]
    most = np.sort(energies)[::-1].cumsum()
    level = 255 * math.sqrt(most[-1] / len(most))
    upright = float((tensor[0] - tensor[1]) / max(tensor.sum(), 1e-12))
    spread = (int(np.searchsorted(most, most[-1] / 2)) + 1) / len(most)
    if expected:
        there = upright > _UPRIGHT and level * spread > _LEAST_EXPECTED
    else:
        there = upright > _UPRIGHT and spread > _SPREAD and level * spread > _LEAST_RAIN
    return RainFinding(there, level, upright, spread)
