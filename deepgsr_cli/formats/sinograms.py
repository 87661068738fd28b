"""Measured sinograms: files of one slice or of a stack, read slice by slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepgsr_cli.errors import InputError, UserError
from deepgsr_cli.files import check_readable, sha256
from deepgsr_cli.formats.matlab import read_matlab
from deepgsr_cli.formats.tiff import check_last_page, planes_in
from deepgsr_cli.words import counted

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".mat", ".tif", ".tiff")
_DATA_EXCHANGE, _THETA = "/exchange/data", "/exchange/theta"
# What the numbers of a file may be: line integrals, photons, or the share of them that comes through.
VALUES = ("integrals", "counts", "transmission")
# One photon in exp(100) comes through, which no detector sees. Counts, given by mistake, are larger.
MOST_INTEGRAL = 100.0
# The smallest share that counts, that of a float16. Rays that nothing comes through, and dead bins, have the
# least share that any ray of the sinogram has: with 16.6 for each, 4 % of such rays left ten times the error.
_LEAST_SHARE = math.ldexp(1, -24)
# More than this share of the light without the object comes through nothing; bins that flicker are few.
_MOST_SHARE, _FLICKERING = 1.3, 0.05
# Of the values of a slice more are air, and of a sinogram hardly any are broken.
_FEW = 0.01
# Of what sign an integral is shows in an object that rays are attenuated by so much in.
_VISIBLE = 0.3


class Sinograms:
    """The sinograms of a file, (V, N) each: line integrals of attenuation.

    NPY and NPZ hold (V, N) or (slices, V, N), TIFF one slice a page. HDF5 is the Scientific Data Exchange:
    `/exchange/data`, (V, slices, N). Counts become -ln((data - dark) / (white - dark)): of HDF5 where
    `data_white` is there, of NPZ where an array `white` is, one number, (N,) or (slices, N). MATLAB files
    have one slice, `sinogram`, alone or in a structure with the `parameters` of the scan, as those of
    Helsinki. Only NPZ and MATLAB files are read as a whole.

    Args:
        path: The file.
        num_views: Views of the scan, V, which must be the file's; None for those of the file.
        num_bins: Bins of a view, N, which must be the file's; None for those of the file.
        values: What the numbers are, of `VALUES`; None for counts where there is white, and for line
            integrals elsewhere, unless they look like something else.

    Attributes:
        num_slices: Number of slices.
        theta: Angles of the views as the file has them, (V,), in degrees or in radians; None if it has none.
        parameters: What the file says of the scan; empty if nothing.

    Raises:
        InputError: The file cannot be read, does not match the scan or itself, or its numbers are not what
            they should be.
        UsageError: A package to read it is not installed.

    Source:
        De Carlo et al., Scientific data exchange: a schema for HDF5-based storage of raw and analyzed data,
        Journal of Synchrotron Radiation 21, 2014.
    """

    def __init__(
        self, path: Path, num_views: int | None, num_bins: int | None, values: str | None = None
    ) -> None:
        self.path = path
        read = {".npy": _open_npy, ".npz": _open_npz, ".tif": _open_tiff, ".tiff": _open_tiff}
        read[".mat"] = _open_matlab
        with _explained(path):
            self._stack = read.get(path.suffix.lower(), _open_hdf5)(path)
            self._shape = (num_views, num_bins) if num_views and num_bins else self._stack.read(0).shape
        self.num_slices, self.theta = self._stack.num_slices, _angles(path, self._stack.theta)
        self.parameters = self._stack.parameters
        self._values = values or ("counts" if self._stack.white else None)
        if self.num_slices < 1:
            raise InputError(f"{path}: holds no sinogram; export it again")
        self.read(0)

    def __reduce__(self) -> tuple[type[Sinograms], tuple[Path, int, int, str | None]]:
        """Go to another process as the path, which that one opens itself."""
        return Sinograms, (self.path, *self._shape, self._values)

    def read(self, i: int) -> np.ndarray:
        """Read the sinogram of slice i, (V, N), float32.

        Raises:
            InputError: It is not real numbers, has another shape than the scan's, NaN, or values that no
                line integral, or no share of photons, has.
        """
        with _explained(self.path):
            y = self._stack.read(i)
        if y.dtype.kind not in "fiu":
            raise InputError(f"{self.path}: holds {y.dtype}; give line integrals as real numbers")
        where = f"{self.path}: slice {i + 1}"
        if self._values != "counts" and (doubt := doubt_slices(y)):
            raise InputError(
                f"{where} {doubt}; give slices as DICOM, or as arrays to the functions in Python, without a"
                " geometry"
            )
        if y.shape != self._shape:
            (views, bins), shape = self._shape, " x ".join(map(str, y.shape))
            swapped = "transpose it" if y.shape == (bins, views) else "give the geometry of this scan"
            raise InputError(
                f"{self.path}: a sinogram of {shape}, but --geometry has {views} views x {bins} bins;"
                f" {swapped}"
            )
        if self._values is None and y.dtype.kind in "iu":
            raise InputError(
                f"{self.path}: holds whole numbers, {y.dtype}, and nothing of what they are without the"
                " object, as counts are; give -ln(counts / counts without the object), or --values integrals"
                " if it is that"
            )
        y = _finite(where, y)
        if self._values in ("counts", "transmission"):
            y = _integrals(where, self._share(where, y, i) if self._values == "counts" else y)
        elif self._values is None and (doubt := doubt_integrals(y)):
            raise InputError(f"{where} {doubt}; give --values transmission, or integrals if they are")
        elif self._values is None and (doubt := doubt_sign(y)):
            raise InputError(f"{where} {doubt}; turn the sign, or give --values integrals if they are")
        if (largest := float(np.abs(y).max())) > MOST_INTEGRAL:
            raise InputError(
                f"{where} has values up to {largest:g}, but a line integral is {MOST_INTEGRAL:g} at most;"
                " give -ln(counts / counts without the object)"
            )
        return y

    def _share(self, where: str, counts: np.ndarray, i: int) -> np.ndarray:
        """Share of the light, (V, N), that comes through the object."""
        if self._stack.white is None:
            raise InputError(
                f"{where} is counts, and the file has none without the object; add them, as"
                " /exchange/data_white in .h5 or as the array white in .npz"
            )
        with _explained(self.path):
            white = self._stack.white(i)
            dark = self._stack.dark(i) if self._stack.dark else np.zeros_like(white)
        light = _finite(f"{where} without the object", white - dark)
        if np.median(light) <= 0:
            raise InputError(
                f"{where} has counts of {np.median(white):g} without the object, and of {np.median(dark):g}"
                " without light; are white and dark mistaken for each other?"
            )
        if np.mean(counts < dark) > 0.5:
            raise InputError(
                f"{where} is darker, in most places, than the {np.median(dark):g} counts without light; give"
                " the dark of this scan"
            )
        least = 1.0 if np.array_equal(counts, np.rint(counts)) else 0.0  # whole numbers tell no less than one
        lit = (counts - dark).clip(min=least)
        return np.divide(lit, light, out=np.zeros(counts.shape), where=light > 0)

    def checksum(self) -> str:
        """SHA-256 of the file, in hexadecimal digits."""
        return sha256(self.path)


def doubt_integrals(y: np.ndarray) -> str:
    """Say why numbers, (V, N), are no line integrals but shares of photons; empty if they may be.

    Shares, I / I0, are 1 in air, at the detector's ends, and less behind the object; integrals are more.
    """
    ends = np.concatenate((y[:, :2], y[:, -2:]), axis=1)
    air, third = float(np.median(ends)), y.shape[1] // 3
    middle = float(np.median(y[:, third : y.shape[1] - third]))
    if y.min() < 0 or not 0.8 <= air <= _MOST_SHARE or middle >= air or np.quantile(y, 0.99) > 1.1 * air:
        return ""
    return f"is highest, {air:.2g}, at the ends of the detector and lower in the middle, as I / I0 is"


def doubt_slices(y: np.ndarray) -> str:
    """Say why numbers, of any shape, are those of a slice in HU and no sinogram; empty if they may be one."""
    if y.size == 0 or not float(np.mean(y < -MOST_INTEGRAL)) > _FEW:
        return ""
    return f"goes down to {y.min():.4g}, as CT numbers in HU do, and no line integral does"


def doubt_sign(y: np.ndarray) -> str:
    """Say why numbers, (V, N), are line integrals of the wrong sign; empty if they may be right."""
    if float(np.quantile(y, 0.01)) > -_VISIBLE or float(y.sum()) > -0.5 * float(np.abs(y).sum()):
        return ""
    return f"is negative behind the object, down to {y.min():.2g}, as ln(I / I0) is without its minus"


def _integrals(where: str, share: np.ndarray) -> np.ndarray:
    """Line integrals, (V, N), float32, of shares of photons; those of nothing are taken as the least."""
    bright = float(np.mean(share > _MOST_SHARE))
    if bright > _FLICKERING:
        raise InputError(
            f"{where} is brighter in {bright:.0%} of its values than without the object; a share of photons,"
            " I / I0, is 1 at most"
        )
    lit = share[share > 0]
    least = max(_LEAST_SHARE, float(lit.min()) if lit.size else 0.0)
    return -np.log(share.clip(min=least)).astype(np.float32)


def _finite(where: str, values: np.ndarray) -> np.ndarray:
    """Values as float32, none of them NaN or infinite."""
    values = values.astype(np.float32)
    wrong = values.size - np.count_nonzero(np.isfinite(values))
    if wrong:
        raise InputError(
            f"{where} has NaN or infinity in {wrong} of its {values.size} values;"
            " replace them first, as by interpolation along the detector"
        )
    return values


@dataclass(frozen=True)
class _Stack:
    """What an opened file has.

    Attributes:
        num_slices: Number of slices.
        read: Reads the numbers of a slice, (V, N).
        white: Reads the mean counts of a slice's bins without the object, (N,); None if there are none.
        dark: The same without light.
        theta: Angles of the views, (V,), in the file's unit.
        parameters: Of the scan.
    """

    num_slices: int
    read: Callable[[int], np.ndarray]
    white: Callable[[int], np.ndarray] | None = None
    dark: Callable[[int], np.ndarray] | None = None
    theta: np.ndarray | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def _angles(path: Path, theta: np.ndarray | None) -> np.ndarray | None:
    """Angles of a file, (V,), which must be real numbers."""
    if theta is not None and (theta.ndim != 1 or theta.dtype.kind not in "fiu"):
        shape = " x ".join(map(str, theta.shape)) or "one value"
        raise InputError(f"{path}: its theta is {shape} of {theta.dtype}; give one number a view")
    return theta


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What the readers raise for a file they cannot read, as an InputError."""
    check_readable(path)
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the readers' own kinds: anything, on damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read ({reason}); export it again") from error


def _open_npy(path: Path) -> _Stack:
    return _of_stack(path, np.load(path, mmap_mode="r", allow_pickle=False))


def _open_npz(path: Path) -> _Stack:
    with np.load(path, allow_pickle=False) as arrays:
        names = arrays.files
        name = "sinogram" if "sinogram" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise InputError(
                f"{path}: has arrays {', '.join(sorted(names)) or 'none'}; call the one to use sinogram"
            )
        stack = _of_stack(path, arrays[name])
        white, dark = (
            _rows(path, key, arrays[key], stack) if key in names else None for key in ("white", "dark")
        )
        return replace(stack, white=white, dark=dark, theta=arrays["theta"] if "theta" in names else None)


def _rows(path: Path, name: str, array: np.ndarray, stack: _Stack) -> Callable[[int], np.ndarray]:
    """What reads the counts of a slice's bins from an array of (N,), (slices, N), or () for all alike."""
    bins = stack.read(0).shape[-1]
    array = np.full(bins, array) if array.ndim == 0 else array
    if array.shape not in ((bins,), (stack.num_slices, bins)):
        shape = " x ".join(map(str, array.shape))
        raise InputError(
            f"{path}: {name} is {shape}, but the views have {bins} bins; give one number a bin, or"
            f" rows of them for {counted(stack.num_slices, 'slice')}"
        )
    return lambda i: np.asarray(array if array.ndim == 1 else array[i], np.float64)


def _of_stack(path: Path, array: np.ndarray) -> _Stack:
    if array.ndim not in (2, 3):
        raise InputError(
            f"{path}: an array of {array.ndim} axes; give (views, bins) or (slices, views, bins)"
        )
    stack = array if array.ndim == 3 else array[None]
    return _Stack(len(stack), lambda i: np.asarray(stack[i]))


def _open_tiff(path: Path) -> _Stack:
    import tifffile

    def page(i: int) -> np.ndarray:
        with tifffile.TiffFile(path) as tiff:
            return tiff.pages[i].asarray()

    with tifffile.TiffFile(path) as tiff:
        check_last_page(tiff, len(tiff.pages))
        if len(tiff.pages) == 1 and planes_in(tiff, tiff.pages.first) > 1:
            return _of_stack(path, tifffile.memmap(path, mode="r"))  # as ImageJ writes large stacks
        return _Stack(len(tiff.pages), page)


def _open_matlab(path: Path) -> _Stack:
    fields = read_matlab(path)
    # The structures of Helsinki's scans have names of their own, as CtDataLimited.
    inner = [value for value in fields.values() if isinstance(value, dict) and "sinogram" in value]
    if "sinogram" not in fields and len(inner) != 1:
        raise InputError(
            f"{path}: has {', '.join(fields) or 'nothing'}; call the array to use sinogram, alone or in one"
            " structure"
        )
    scan = fields if "sinogram" in fields else inner[0]
    sinogram = np.asarray(scan["sinogram"])
    if sinogram.ndim != 2:
        raise InputError(f"{path}: an array of {sinogram.ndim} axes; give (views, bins)")
    parameters = scan.get("parameters", {})
    parameters = parameters if isinstance(parameters, dict) else {}
    theta = np.ravel(parameters["angles"]) if "angles" in parameters else None
    return replace(_of_stack(path, sinogram), theta=theta, parameters=parameters)


def _open_hdf5(path: Path) -> _Stack:
    import h5py

    def rows(name: str) -> Callable[[int], np.ndarray]:
        """What reads the mean over the frames of what is at row i, (N,)."""

        def row(i: int) -> np.ndarray:
            with h5py.File(path, "r") as file:
                return np.atleast_2d(file[name][..., i, :]).astype(np.float64).mean(0)

        return row

    def sinogram(i: int) -> np.ndarray:
        with h5py.File(path, "r") as file:
            return file[_DATA_EXCHANGE][:, i]

    with h5py.File(path, "r") as file:
        if getattr(file.get(_DATA_EXCHANGE), "ndim", 0) != 3:
            raise InputError(
                f"{path}: no {_DATA_EXCHANGE} of (views, slices, bins) in it; give such a file, or .npy"
            )
        shape = file[_DATA_EXCHANGE].shape
        counts = {}
        for key in ("white", "dark"):
            name = f"{_DATA_EXCHANGE}_{key}"
            if isinstance(file.get(name), h5py.Dataset):
                _check_frames(path, name, file[name], shape)
                counts[key] = rows(name)
        held = file.get(_THETA)
        theta = np.asarray(held[()]).ravel() if isinstance(held, h5py.Dataset) else None
        return _Stack(shape[1], sinogram, counts.get("white"), counts.get("dark"), theta)


def _check_frames(path: Path, name: str, frames: Any, shape: tuple[int, ...]) -> None:
    """Refuse frames without the object, or without light, that are not of the detector of the data."""
    if frames.ndim not in (2, 3) or frames.shape[-2:] != shape[1:] or frames.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: {name} is {' x '.join(map(str, frames.shape))} of {frames.dtype}, but {_DATA_EXCHANGE}"
            f" has {shape[1]} rows of {shape[2]} bins; give frames of that size"
        )
    if 0 in frames.shape:
        raise InputError(f"{path}: {name} is empty; take it out of the file, or fill it")
