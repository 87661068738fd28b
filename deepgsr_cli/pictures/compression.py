"""How a picture was compressed as JPEG: as its file says, or as its pixels show."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepgsr_cli.compute.levels import to_floats
from deepgsr_cli.errors import OptionError
from deepgsr_cli.pictures.jpeg import Steps, standard_steps, told, ycc_of_rgb

if TYPE_CHECKING:
    from deepgsr_cli.formats.codecs import JpegCoding


@dataclass(frozen=True)
class Compression:
    """What is known of a picture's compression.

    Attributes:
        told: What a network is told, of length `jpeg.TOLD`.
        quality: The quality of libjpeg whose steps for luma are nearest.
        corner: Row and column, 0 to 7, of the first whole block in the picture.
        last: Quality of a later, finer compression that came over this one; None for none.
        luma: Steps of luma, 64 row by row, if they are known for sure, and this compression is the last.
        chroma: Those of chroma, if it has the resolution of luma; else None.
    """

    told: tuple[float, ...]
    quality: int
    corner: tuple[int, int] = (0, 0)
    last: int | None = None
    luma: tuple[float, ...] | None = None
    chroma: tuple[float, ...] | None = None

    @property
    def negligible(self) -> bool:
        """Whether what was lost is hardly more than the rounding of pixels, and such pictures stay as they
        are."""
        return self.quality >= _NEGLIGIBLE


def compression_of(
    pixels: np.ndarray, coding: JpegCoding | None = None, quality: float | None = None
) -> Compression | None:
    """Return what is known of a picture's compression; None where there is no trace of any.

    Of two compressions it is the one that did the harm: where the last is fine and an earlier one, coarser,
    shows in the pixels, the earlier one.

    Args:
        pixels: (C, H, W) on the [0, 1] scale, or uint8 or uint16.
        coding: Quantisation that its file states, if that is a JPEG.
        quality: Quality on libjpeg's scale, 1 to 100, in place of what the file or the pixels say.

    Raises:
        OptionError: There is no such quality.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise OptionError("quality", quality, "give 1 to 100")
    known = found_in(pixels) if coding is None else of_coding(coding, len(pixels))
    if known is not None and known.quality >= _FINE:
        known = _found_before(pixels, known) or known
    if quality is None:
        return known
    given = of_quality(quality, len(pixels))
    if known is None:
        return given
    # Where blocks lie, and whether chroma is subsampled, is as it was.
    return Compression((*given.told[:-1], known.told[-1]), given.quality, known.corner)


def of_coding(coding: JpegCoding, channels: int) -> Compression:
    """Return the compression that a JPEG file states.

    Args:
        coding: Quantisation of the file.
        channels: Channels of its picture, 1 or 3.
    """
    luma, chroma = (
        torch.tensor(table, dtype=torch.float32).clamp(1, 255).view(1, 8, 8)
        for table in (coding.luma, coding.chroma)
    )
    steps = Steps(luma, chroma, torch.tensor([coding.subsampled], dtype=torch.float32))
    quality = _nearest_quality(luma.numpy()[0], np.ones((8, 8)))
    whole = channels == 3 and coding.subsampled == 0
    return Compression(
        _numbers(steps, channels),
        quality,
        coding.corner,
        luma=_row_by_row(torch.tensor(coding.luma).clamp(min=1)),
        chroma=_row_by_row(torch.tensor(coding.chroma).clamp(min=1)) if whole else None,
    )


def of_quality(
    quality: float, channels: int, *, subsampled: bool = True, corner: tuple[int, int] = (0, 0)
) -> Compression:
    """Return the compression of libjpeg at a quality, 1 to 100."""
    steps = standard_steps(torch.tensor([quality], dtype=torch.float32), subsampled)
    return Compression(_numbers(steps, channels), round(quality), corner)


def found_in(pixels: np.ndarray) -> Compression | None:
    """Find the compression that a decoded picture has been through; None where there is no trace of any.

    Quantised coefficients are multiples of their step, up to the rounding of pixels. First comes the grid of
    blocks, on which most coefficients are near 0, then the step of each frequency, by its likelihood, then
    the quality whose tables have such steps. Of several compressions the last one shows. A little noise or a
    change of brightness leaves the traces of large steps; scaling and rotation efface them.

    Args:
        pixels: (C, H, W) on the [0, 1] scale, or uint8 or uint16.

    Source:
        After Fan and de Queiroz, Identification of bitmap compression history: JPEG detection and quantizer
        estimation, IEEE Transactions on Image Processing 12(2), 2003.
    """
    return _found(pixels, _ROUNDING) or _found(pixels, _EDITED)


def _found(pixels: np.ndarray, noise: float) -> Compression | None:
    """As `found_in`, below noise that came over it, of a standard deviation on the 0-255 scale."""
    planes, clipped = _planes(pixels)
    if min(clipped.shape) < _LEAST_SIDE:
        return None
    corner = _corner(planes[0], noise)
    whole = ~_blocks(clipped, corner).any((1, 3)).flatten()
    steps, odds = _steps([_spectra(planes[0], corner)[whole]], noise)
    if np.count_nonzero(steps) < _FEWEST_STEPS:
        return None
    # At half the resolution chroma has no multiples of its steps at the full one.
    subsampled = False
    if len(planes) > 1:
        chroma, _ = _steps([_spectra(plane, corner)[whole] for plane in planes[1:]], noise)
        subsampled = int(np.count_nonzero(chroma.flat[1:])) < _FEWEST_STEPS
    quality = _nearest_quality(steps, odds)
    known = of_quality(quality, len(pixels), subsampled=subsampled, corner=corner)
    tables = standard_steps(torch.tensor([quality], dtype=torch.float32))
    agreeing = float(odds[steps == tables.luma[0].numpy()].sum() / odds.sum())
    if agreeing < _SAME_TABLES or noise > _ROUNDING:
        return known  # of another encoder, or changed since
    chroma_steps = _row_by_row(tables.chroma) if len(pixels) == 3 and not subsampled else None
    return replace(known, luma=_row_by_row(tables.luma), chroma=chroma_steps)


def _found_before(pixels: np.ndarray, last: Compression) -> Compression | None:
    """Find a coarser compression that came before the last one, which is fine; None for none."""
    steps = standard_steps(torch.tensor([last.quality], dtype=torch.float32)).luma
    # Rounding to a step makes an error of a twelfth of its square, or less where the coefficient is small.
    noise = math.sqrt(_ROUNDING**2 + float(steps.square().mean()) / 24)
    found = _found(pixels, noise)
    if found is None or found.quality > last.quality - _COARSER:
        return None
    # Chroma is as the last one left it, and so are the coefficients of luma.
    return replace(found, told=(*found.told[:-1], last.told[-1]), last=last.quality, luma=None, chroma=None)


# From this quality on gray photographs have 48 dB and more, little less than rounding leaves, and a network
# that has not learned for long does more harm than good.
_NEGLIGIBLE = 97
# From this quality on a compression leaves the traces of one before it, which is looked for if it is coarser
# by this much.
_FINE, _COARSER = 85, 15
# Rounding of pixels adds a noise to coefficients whose deviation is 0.29, more where colours are rounded too.
# After that, of a little noise, or of what a change of brightness makes of it.
_ROUNDING, _EDITED = 0.4, 2.0
# Share of coefficients that are anything, as clipping to black and white makes them.
_OUTLIERS = 0.02
# In units of the noise: coefficients beyond this are not what it makes of 0; steps are at least this, and
# small up to this.
_NOT_ZERO, _LEAST_STEP, _SMALL_STEP = 3.75, 5.0, 10.0
# Fewest coefficients that tell a step, and logarithm of the odds from which a step is believed.
_FEWEST_COEFFICIENTS, _LEAST_ODDS = 8, 12.0
# Share of the odds, at least, of steps that are those of libjpeg at a quality, where all are: for photographs
# of qualities 10 to 95 it is 0.94 or more.
_SAME_TABLES = 0.9
# Fewest frequencies of known steps that make a compression.
_FEWEST_STEPS = 3
# Side of what is looked at, in pixels, and coefficients of a frequency: more changes nothing.
_LEAST_SIDE, _EXTENT, _MOST_COEFFICIENTS = 31, 1024, 1000


def _planes(pixels: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Luma, and chroma of colour, (H, W), as whole numbers around 0, of the centre of a picture; and where it
    is clipped to black or white."""
    # At multiples of 8, so that blocks keep their place.
    top, left = (max(0, (size - _EXTENT) // 16 * 8) for size in pixels.shape[1:])
    centre = 255 * to_floats(pixels[:, top : top + _EXTENT, left : left + _EXTENT])
    clipped = np.any((centre < 0.5) | (centre > 254.5), axis=0)
    if len(centre) == 3:
        centre = ycc_of_rgb(torch.from_numpy(centre)[None])[0].numpy()
    planes = np.rint(centre)
    planes[0] -= 128
    return list(planes), clipped


def _blocks(plane: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """A plane's whole blocks, (rows, 8, columns, 8), where the first begins at a corner."""
    plane = plane[corner[0] :, corner[1] :]
    rows, columns = (size // 8 for size in plane.shape)
    return plane[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8)


def _spectra(plane: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """Coefficients of the blocks of a plane, (blocks, 8, 8)."""
    from scipy.fft import dctn

    return dctn(_blocks(plane, corner), axes=(1, 3), norm="ortho").transpose(0, 2, 1, 3).reshape(-1, 8, 8)


def _corner(luma: np.ndarray, noise: float) -> tuple[int, int]:
    """Corner from which most coefficients are near 0; with few blocks, from the centre of the picture."""
    top, left = (max(0, (size - 512) // 16 * 8) for size in luma.shape)
    luma = luma[top : top + 512, left : left + 512]
    corners = [(row, column) for row in range(8) for column in range(8)]
    near = _NOT_ZERO / 2 * noise
    near_zero = [(np.abs(_spectra(luma, corner)) < near).mean() for corner in corners]
    return corners[int(np.argmax(near_zero))]


def _steps(spectra: list[np.ndarray], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Step of each frequency, (8, 8), that coefficients, (blocks, 8, 8) each, are multiples of, and the
    logarithm of its odds; both 0 where it is not known, or too small for the noise."""
    steps, odds = np.zeros((2, 8, 8))
    candidates = np.arange(math.ceil(_LEAST_STEP * noise), 256, dtype=np.float32)
    # Small coefficients are more frequent than large ones, hence nearer the lower end of their cell: small
    # steps are told by the others.
    not_zero = _NOT_ZERO * noise
    least = np.where(candidates <= _SMALL_STEP * noise, 1.5 * candidates, not_zero)
    for row, column in np.ndindex(8, 8):
        values = np.concatenate([x[:, row, column] for x in spectra])
        values = np.abs(values[np.abs(values) > not_zero])
        values = values[:: max(1, len(values) // _MOST_COEFFICIENTS)][:, None]
        if len(values) < _FEWEST_COEFFICIENTS:
            continue
        counted = values > least
        distance = (values - candidates * np.rint(values / candidates)) / noise
        # Of normal noise around a multiple, against any value being as likely.
        density = candidates / (noise * np.sqrt(2 * np.pi)) * np.exp(-0.5 * distance**2)
        found = (counted * np.log((1 - _OUTLIERS) * density + _OUTLIERS)).sum(0)
        best = int(np.argmax(found))
        if found[best] > _LEAST_ODDS:
            steps[row, column], odds[row, column] = candidates[best], found[best]
    return steps, odds


def _nearest_quality(steps: np.ndarray, weights: np.ndarray) -> int:
    """The quality whose steps for luma are nearest some steps, (8, 8); weights say which count."""
    known = weights > 0
    tables = standard_steps(torch.arange(1, 101, dtype=torch.float32)).luma.numpy()[:, known]  # (100, known)
    distance = np.abs(np.log(tables) - np.log(steps[known])) @ weights[known]
    return int(np.argmin(distance)) + 1


def _row_by_row(steps: torch.Tensor) -> tuple[float, ...]:
    return tuple(steps.flatten().double().tolist())


def _numbers(steps: Steps, channels: int) -> tuple[float, ...]:
    return tuple(told(steps, channels)[0].tolist())
