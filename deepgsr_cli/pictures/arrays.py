"""Pictures as callers of Python have them, files, arrays and tensors, to and from pixels for models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgsr_cli.compute.arrays import as_number, as_numpy
from deepgsr_cli.errors import OptionError, ShapeError
from deepgsr_cli.formats.image import (
    HIGHEST,
    LOWEST,
    MOST_BEYOND,
    Image,
    are_shifted,
    has_areas_below_black,
    read_image,
)

# What a restored array comes of.
NumpyPicture: TypeAlias = np.ndarray | str | Path

# Pillow's modes whose samples are light and alpha, or of a type that is refused as such.
_LIGHT = {"1", "L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
# Value of white by dtype; 1 for floating point.
_WHITE = {"uint8": 255.0, "uint16": 65535.0}

# Least side of what counts as an area of one colour: twice that of a block of JPEG, and one.
FLAT_SIDE = 17


def as_array(picture: NumpyPicture | Tensor) -> np.ndarray:
    """Samples of a picture, (H, W), (H, W, S) or (N, H, W, S), in their own dtype; of bfloat16, as float32.

    Raises:
        ShapeError: Another shape, a dtype other than uint8, uint16 or floating point, or a picture of Pillow
            whose samples are no light, as those of a palette.
        InputError: The file cannot be read.
    """
    mode = getattr(picture, "mode", "") if hasattr(picture, "getbands") else ""  # of a picture of Pillow
    if mode and mode not in _LIGHT:
        raise ShapeError(f"a picture of Pillow's mode {mode}: give picture.convert('RGB')")
    array = samples_of(read_image(Path(picture))) if isinstance(picture, str | Path) else as_numpy(picture)
    _check_shape(array.shape)
    if array.dtype.name not in _WHITE and array.dtype.kind != "f":
        raise ShapeError(
            f"a picture of {array.dtype}: give uint8, uint16 or floating point; as floating point, with"
            " white= the value that stands for white"
        )
    return array


def samples_of(image: Image) -> np.ndarray:
    """Samples of a picture as its file has them, (H, W) or (H, W, S), upright."""
    white = np.float32(_WHITE.get(image.depth, 1.0))
    colour = image.pixels.transpose(1, 2, 0) * white
    colour = (np.rint(colour) if image.depth in _WHITE else colour).astype(image.depth)
    if image.alpha is not None:
        return np.concatenate((colour, image.alpha[..., None]), axis=2)
    return colour[..., 0] if colour.shape[2] == 1 else colour


def _check_shape(shape: tuple[int, ...]) -> None:
    if 0 not in shape and (len(shape) == 2 or (len(shape) in (3, 4) and shape[-1] in (1, 2, 3, 4))):
        return
    way_out = "give (H, W), (H, W, S) or a batch, (N, H, W, S), of 1 to 4 samples S a pixel"
    if len(shape) in (3, 4) and shape[-3] in (1, 2, 3, 4):
        order = "1, 2, 0" if len(shape) == 3 else "0, 2, 3, 1"
        way_out = f"channels come last; give numpy.transpose(picture, ({order})), or permute a tensor so"
    elif len(shape) == 3:
        way_out += "; a batch of gray pictures is picture[..., None]"
    raise ShapeError(f"an array of shape {tuple(shape)} is no picture; {way_out}")


def white_of(dtype: np.dtype, white: float | None) -> float:
    """Value that stands for white in samples of a dtype: the one given, or that of the dtype.

    Raises:
        UsageError: It is not above 0 and finite, or the dtype has no such value.
    """
    white = as_number("white", white, or_none=True)
    if white is None:
        return _WHITE.get(dtype.name, 1.0)
    most = _WHITE.get(dtype.name, math.inf)
    if not 0 < white <= most or white == math.inf:
        bound = "" if most == math.inf else f", at most {most:g} for {dtype}"
        raise OptionError("white", white, f"give the value of white, above 0{bound}")
    return white


def to_pixels(samples: np.ndarray, white: float) -> np.ndarray:
    """Pixels, (C, H, W), float32 on the [0, 1] scale, of samples, (H, W, S), without their alpha.

    Raises:
        ShapeError: The samples are on another scale than that of `white`.
    """
    channels = _colours(samples)
    colour = samples[..., :channels].transpose(2, 0, 1)
    pixels = np.ascontiguousarray(colour, dtype=np.float32) / np.float32(white)
    if are_shifted(pixels):
        raise ShapeError(
            f"the picture goes from {-white:g} to {white:g}, and black is 0; give (picture + {white:g}) / 2"
        )
    beyond = np.count_nonzero((pixels < LOWEST) | (pixels > HIGHEST))
    low, high = float(samples[..., :channels].min()), float(samples[..., :channels].max())
    if beyond > MOST_BEYOND * pixels.size:
        raise ShapeError(
            f"the picture goes from {low:g} to {high:g}, but white is {white:g}; give white=255, or the value"
            " that stands for white in it, and shift it first so that black is 0"
        )
    if has_areas_below_black(pixels):
        raise ShapeError(
            f"the picture goes from {low:g} to {high:g}, and whole areas are below 0, which is black;"
            " add what makes black 0 first"
        )
    return pixels


def with_pixels(samples: np.ndarray, pixels: np.ndarray, white: float) -> np.ndarray:
    """Samples like those given, (H, W, S), with other pixels, (C, H, W), and the same alpha.

    Integers are rounded, and clipped to 0 and white.
    """
    if samples.dtype.kind == "f":
        colour = pixels * np.float32(white)
    else:
        colour = np.clip(np.rint(pixels * np.float32(white)), 0, white)
    result = samples.copy()
    result[..., : len(pixels)] = colour.transpose(1, 2, 0)
    return result


def _colours(samples: np.ndarray) -> int:
    """Channels, 1 or 3, of samples, (H, W, S); the last of 2 or 4 samples is alpha."""
    return 1 if samples.shape[-1] <= 2 else 3


def is_flat(pixels: np.ndarray) -> bool:
    """Whether a picture, (C, H, W), is one colour throughout."""
    return all(float(channel.min()) == float(channel.max()) for channel in pixels)


def flat_areas(x: Tensor) -> Tensor:
    """Where pictures, (B, C, H, W), have squares of `FLAT_SIDE` pixels of one colour, (B, 1, H, W).

    Noise leaves no such squares, but where it is clipped, and a network need not keep their colour.
    """
    side = FLAT_SIDE - 1
    # To ask another device would make the host wait for it.
    if min(x.shape[2:]) <= side or (x.device.type == "cpu" and not _may_be_flat(x)):
        return torch.zeros_like(x[:, :1], dtype=torch.bool)
    right, down = x[..., 1:] == x[..., :-1], x[:, :, 1:] == x[:, :, :-1]
    right, down = right.all(1), down.all(1)
    same = right[:, 1:] & right[:, :-1] & down[..., 1:] & down[..., :-1]  # squares of two, by their first
    broken = (~same).float()[:, None]
    for size in ((1, side), (side, 1)):
        broken = F.max_pool2d(broken, size, stride=1)
    whole = F.pad(1 - broken, (side, side, side, side))
    for size in ((1, FLAT_SIDE), (FLAT_SIDE, 1)):
        whole = F.max_pool2d(whole, size, stride=1)
    return whole > 0


def _may_be_flat(x: Tensor) -> bool:
    """Whether one of the rows, of which a flat square has one at least, has as many equal pixels in line."""
    rows = x[:, :, ::FLAT_SIDE]
    equal = (rows[..., 1:] == rows[..., :-1]).all(1)
    length = 1
    while length < FLAT_SIDE - 1:
        step = min(length, FLAT_SIDE - 1 - length)
        equal, length = equal[..., step:] & equal[..., :-step], length + step
    return bool(equal.any())


def is_clipped(pixels: np.ndarray, dtype: str) -> bool:
    """Whether noise beyond black and white was cut off: always in integers, and in floats that end there.

    Args:
        pixels: (C, H, W) on the [0, 1] scale.
        dtype: Of the samples as a file or a caller has them.
    """
    return dtype.startswith("uint") or {float(pixels.min()), float(pixels.max())} <= {0, 1}
