"""Arrays and numbers of whatever callers of Python have."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from torch import Tensor

from deepgsr_cli.errors import OptionError, ShapeError, first_line

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def as_numpy(values: ArrayLike | Tensor) -> np.ndarray:
    """Values in their own dtype; those of bfloat16, which numpy does not have, in float32.

    A tensor may be on any device, and may require its gradient, which is not followed.

    Raises:
        ShapeError: They are no array, as a list of parts of several shapes, None or a generator, a masked
            one, or a tensor without memory of its own, as a sparse one.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise ShapeError("a masked array, whose mask would be lost; fill it first, as by numpy.ma.filled")
    if not isinstance(values, Tensor):
        try:
            array = np.asarray(values)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ShapeError(
                f"a {type(values).__name__} that is no array ({first_line(error)}); give an array, or what"
                " differs in shape one by one"
            ) from error
        if array.ndim == 0 and array.dtype.kind in "OSU":
            raise ShapeError(f"a {type(values).__name__} that is no array; give an array")
        return array
    if values.layout != torch.strided or values.is_meta or values.is_quantized:
        kind = "meta" if values.is_meta else "quantized" if values.is_quantized else "sparse"
        raise ShapeError(f"a {kind} tensor; give a dense one, of numbers")
    there = values.detach().cpu().resolve_conj().resolve_neg()
    return (there.float() if there.dtype == torch.bfloat16 else there).numpy()


@overload
def as_number(option: str, value: object) -> float: ...
@overload
def as_number(option: str, value: object, *, or_none: bool) -> float | None: ...
def as_number(option: str, value: object, *, or_none: bool = False) -> float | None:
    """A number of Python, numpy or torch, or the one in an array; with `or_none`, None may take its place.

    Raises:
        OptionError: The argument of this name is none.
    """
    if value is None and or_none:
        return None
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, np.ndarray | np.generic | Tensor):
        array = as_numpy(value)
        if array.size == 1 and array.dtype.kind in "biuf":
            return float(array.reshape(()))
    raise OptionError(option, value, f"its type is {type(value).__name__}; give a number")


def as_whole(option: str, value: object) -> int:
    """A whole number of whatever `as_number` takes.

    Raises:
        OptionError: The argument of this name is none.
    """
    if isinstance(value, int):
        return value
    number = as_number(option, value)
    if not math.isfinite(number) or not number.is_integer():
        raise OptionError(option, number, "give a whole number")
    return int(number)


def settle_whole(record: object, field: str, least: int) -> None:
    """Make a field of a frozen record a whole number; None stays.

    Args:
        record: The record, in its making.
        field: Name of the field, which is that of the argument.
        least: What it is at least.

    Raises:
        OptionError: It is no whole number, or less.
    """
    value = getattr(record, field)
    if value is None:
        return
    number = as_whole(field, value)
    if number < least:
        raise OptionError(field, number, f"give {least} or more")
    object.__setattr__(record, field, number)
