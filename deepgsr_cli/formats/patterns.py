"""Measured diffraction patterns in files: intensities, and what is needed to make a picture of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepgsr_cli.errors import InputError, ShapeError, UsageError, UserError
from deepgsr_cli.files import atomic_write, check_readable
from deepgsr_cli.formats.matlab import read_matlab

SUFFIXES = (".npz", ".npy", ".h5", ".hdf5", ".cxi", ".mat", ".tif", ".tiff")
# Where CXI files have the intensities, the first that is there.
_CXI = ("entry_1/data_1/data", "entry_1/instrument_1/detector_1/data")
MODELS = ("fourier", "cdp")

Array = np.ndarray


@dataclass(frozen=True)
class Measurement:
    """Intensities of diffraction patterns; in .npz and .h5 files the fields are the names of the arrays.

    Attributes:
        intensity: |z|² with its noise, (J, M, N), real, not negative.
        model: "fourier" (one pattern of a zero-padded picture) or "cdp" (a pattern for each mask).
        masks: For "cdp", (J, H, W), real or complex.
        oversampling: For "fourier", samples a pixel in each direction.
        support: For "fourier", where the object may be, (H, W), not 0; None for everywhere.
        scaling: Scaling of the transform, see `diffraction`: "prdeep" or "unitary".
        peak: Largest value the picture can have, in the unit of the square root of the intensities.
        alpha: Noise level as `phase.noise.alpha_noise` has it, in the same unit; None if not known.
        snr_db: Noise level as `phase.noise.snr_noise` has it, in dB; None if not known.
    """

    intensity: Array
    model: str | None = None
    masks: Array | None = None
    oversampling: float = 2.0
    support: Array | None = None
    scaling: str = "prdeep"
    peak: float = 255.0
    alpha: float | None = None
    snr_db: float | None = None


def read_measurement(path: Path, **given: Any) -> Measurement:
    """Read a measurement, with what `given` says (and is not None) in place of what the file says.

    .npz, .h5 and .mat hold arrays named as the fields of `Measurement`; .npy and .tif hold the intensities
    alone, (M, N) or (J, M, N), and so do the data of a CXI file. MATLAB files have patterns last, (M, N, J),
    or first; see `_patterns_last`.

    Raises:
        InputError: The file cannot be read, or holds no intensities.
        ShapeError: The intensities are complex, negative, not finite, all 0, or of another shape.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: a measurement is {', '.join(SUFFIXES)}, not '{path.suffix}'")
    check_readable(path)
    try:
        fields = dict(reader(path))
    except UserError:
        raise
    except Exception as error:  # each reader has its own kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as {path.suffix}: {reason}") from error
    if "intensity" not in fields:
        raise InputError(
            f"{path}: has no array 'intensity' (it has {', '.join(map(repr, fields)) or 'none'}); name it so"
        )
    fields["intensity"] = _intensity(path, fields["intensity"])
    values = {name: convert(path, name, fields[name]) for name, convert in _FIELDS.items() if name in fields}
    return replace(
        Measurement(fields["intensity"], **values), **{k: v for k, v in given.items() if v is not None}
    )


def write_measurement(path: Path, measurement: Measurement) -> None:
    """Write a measurement as .npz, replacing the file.

    Raises:
        UsageError: The name ends in something else.
        OutputError: The file cannot be written.
    """
    if path.suffix.lower() != ".npz":
        raise UsageError(f"{path}: a measurement is written as .npz; give such a name")
    fields: dict[str, Any] = {k: v for k, v in vars(measurement).items() if v is not None}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **fields)


def read_masks(path: Path) -> Array:
    """Read masks, (J, H, W), of a .npy file; (H, W) is one mask.

    Raises:
        InputError: The file cannot be read, or holds no numbers of that shape.
    """
    check_readable(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as .npy; give masks, (J, H, W), saved by numpy") from error
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or array.dtype.kind not in "biufc":
        raise InputError(f"{path}: holds no numbers of shape (J, H, W); give masks, or a support, so")
    return array[None] if array.ndim == 2 else array


def _intensity(path: Path, array: Any) -> Array:
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[None]
    if array.dtype.kind == "c":
        raise ShapeError(f"{path}: the intensities are complex; give real ones, |z|²")
    if array.dtype.kind not in "biuf" or array.ndim != 3 or 0 in array.shape:
        raise ShapeError(
            f"{path}: intensities of {array.dtype} and shape {array.shape}; give numbers, (J, M, N)"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        count = np.count_nonzero(~np.isfinite(array))
        raise ShapeError(f"{path}: {count} intensities are NaN or infinite; replace them first")
    if array.min() < 0:
        count = np.count_nonzero(array < 0)
        raise ShapeError(
            f"{path}: {count} intensities are negative, down to {array.min():g}; clip what is noise to 0"
        )
    if not array.any():
        raise ShapeError(f"{path}: all intensities are 0; there is nothing to make a picture of")
    return array


def _read_npz(path: Path) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_npy(path: Path) -> Mapping[str, Any]:
    return {"intensity": np.load(path, allow_pickle=False)}


def _read_tiff(path: Path) -> Mapping[str, Any]:
    import tifffile

    return {"intensity": tifffile.imread(path)}


def _read_hdf5(path: Path) -> Mapping[str, Any]:
    import h5py

    with h5py.File(path, "r") as file:
        fields = {name: item[()] for name, item in file.items() if isinstance(item, h5py.Dataset)}
        if "intensity" not in fields and (names := [name for name in _CXI if name in file]):
            fields["intensity"] = np.squeeze(file[names[0]][()])
        return fields


# The fields that are a picture for each pattern.
_STACKS = ("intensity", "masks")


def _read_matlab(path: Path) -> Mapping[str, Any]:
    fields = read_matlab(path)
    stacks = {name: np.asarray(fields[name]) for name in _STACKS if np.ndim(fields.get(name, 0)) == 3}
    if stacks and _patterns_last([stack.shape for stack in stacks.values()]):
        moved = {name: np.ascontiguousarray(np.moveaxis(stack, -1, 0)) for name, stack in stacks.items()}
        fields = {**fields, **moved}
    return fields


def _patterns_last(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether stacks that go together are (M, N, J), as MATLAB has them, and not (J, M, N), as others write.

    The number of patterns is that of masks, whose other sides may be shorter. Where that does not tell, they
    are last, unless patterns would then be more than twice as oblong as the other way.
    """
    first_agrees, last_agrees = (len({shape[axis] for shape in shapes}) == 1 for axis in (0, -1))
    if first_agrees != last_agrees:
        return last_agrees
    first, middle, last = shapes[0]
    return _oblongness(first, middle) <= 2 * _oblongness(middle, last)


def _oblongness(height: int, width: int) -> float:
    """Longer side by the shorter one."""
    return max(height, width) / max(min(height, width), 1)


def _number(path: Path, name: str, value: Any) -> float:
    try:
        return float(np.asarray(value).item())
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: '{name}' is not one number; store it as such") from error


def _text(path: Path, name: str, value: Any) -> str:
    value = np.asarray(value).item() if np.asarray(value).size == 1 else value
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise InputError(f"{path}: '{name}' is not a text; store it as such")
    return text


def _array(path: Path, name: str, value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise InputError(f"{path}: '{name}' holds {array.dtype}, not numbers; store it as such")
    return array


def _masks(path: Path, name: str, value: Any) -> Array:
    array = _array(path, name, value)
    return array[None] if array.ndim == 2 else array


_READERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".cxi": _read_hdf5,
    ".mat": _read_matlab,
}
_FIELDS: dict[str, Callable[[Path, str, Any], Any]] = {
    "model": _text,
    "masks": _masks,
    "oversampling": _number,
    "support": _array,
    "scaling": _text,
    "peak": _number,
    "alpha": _number,
    "snr_db": _number,
}
