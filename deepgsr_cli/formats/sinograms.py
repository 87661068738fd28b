"""Measured sinograms: files of one slice or of a stack, read slice by slice."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.files import sha256

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".tif", ".tiff")
_DATA_EXCHANGE = "/exchange/data"
# One photon in exp(100) comes through, which no detector sees. Counts, given by mistake, are larger.
MOST_INTEGRAL = 100.0


class Sinograms:
    """The sinograms of a file, (V, N) each: line integrals of attenuation.

    NPY and NPZ hold (V, N) or (slices, V, N), TIFF one slice a page. HDF5 is the Scientific Data Exchange:
    `/exchange/data`, (V, slices, N), becomes -ln((data - dark) / (white - dark)) where `data_white` is there,
    and else holds line integrals. Only NPZ is read as a whole.

    Args:
        path: The file.
        num_views: Views of the scan, V, which must be the file's.
        num_bins: Bins of a view, N, which must be the file's.

    Attributes:
        num_slices: Number of slices.

    Raises:
        InputError: The file cannot be read, or does not match the scan.
        UsageError: A package to read it is not installed.

    Source:
        De Carlo et al., Scientific data exchange: a schema for HDF5-based storage of raw and analyzed data,
        Journal of Synchrotron Radiation 21, 2014.
    """

    def __init__(self, path: Path, num_views: int, num_bins: int) -> None:
        self.path = path
        self._shape = num_views, num_bins
        read = {".npy": _open_npy, ".npz": _open_npz, ".tif": _open_tiff, ".tiff": _open_tiff}
        with _explained(path):
            self.num_slices, self._read = read.get(path.suffix.lower(), _open_hdf5)(path)
        if self.num_slices < 1:
            raise InputError(f"{path}: holds no sinogram; export it again")
        self.read(0)

    def __reduce__(self) -> tuple[type[Sinograms], tuple[Path, int, int]]:
        """Go to another process as the path, which that one opens itself."""
        return Sinograms, (self.path, *self._shape)

    def read(self, i: int) -> np.ndarray:
        """Read the sinogram of slice i, (V, N), float32.

        Raises:
            InputError: It is not real numbers, has another shape than the scan's, NaN, or values that no
                line integral has.
        """
        with _explained(self.path):
            y = self._read(i)
        if y.dtype.kind not in "fiu":
            raise InputError(f"{self.path}: holds {y.dtype}; give line integrals as real numbers")
        if y.shape != self._shape:
            (views, bins), shape = self._shape, " x ".join(map(str, y.shape))
            swapped = "transpose it" if y.shape == (bins, views) else "give the geometry of this scan"
            raise InputError(
                f"{self.path}: a sinogram of {shape}, but --geometry has {views} views x {bins} bins;"
                f" {swapped}"
            )
        y = y.astype(np.float32)
        wrong = y.size - np.count_nonzero(np.isfinite(y))
        if wrong:
            raise InputError(
                f"{self.path}: slice {i + 1} has NaN or infinity in {wrong} of its {y.size} values;"
                " replace them first, as by interpolation along the detector"
            )
        if (largest := float(np.abs(y).max())) > MOST_INTEGRAL:
            raise InputError(
                f"{self.path}: slice {i + 1} has values up to {largest:g}, but a line integral is"
                f" {MOST_INTEGRAL:g} at most; give -ln(counts / counts without the object)"
            )
        return y

    def checksum(self) -> str:
        """SHA-256 of the file, in hexadecimal digits."""
        return sha256(self.path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What the readers raise for a file they cannot read, as an InputError."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; check the path") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read ({reason}); export it again") from error


# What opens a file returns the number of slices and a function that reads one.
_Opened = tuple[int, Callable[[int], np.ndarray]]


def _open_npy(path: Path) -> _Opened:
    return _of_stack(path, np.load(path, mmap_mode="r", allow_pickle=False))


def _open_npz(path: Path) -> _Opened:
    with np.load(path, allow_pickle=False) as arrays:
        names = arrays.files
        name = "sinogram" if "sinogram" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise InputError(
                f"{path}: has arrays {', '.join(sorted(names)) or 'none'}; call the one to use sinogram"
            )
        return _of_stack(path, arrays[name])


def _of_stack(path: Path, array: np.ndarray) -> _Opened:
    if array.ndim not in (2, 3):
        raise InputError(
            f"{path}: an array of {array.ndim} axes; give (views, bins) or (slices, views, bins)"
        )
    stack = array if array.ndim == 3 else array[None]
    return len(stack), lambda i: np.asarray(stack[i])


def _open_tiff(path: Path) -> _Opened:
    import tifffile

    def page(i: int) -> np.ndarray:
        with tifffile.TiffFile(path) as tiff:
            return tiff.pages[i].asarray()

    try:
        with tifffile.TiffFile(path) as tiff:
            return len(tiff.pages), page
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


def _open_hdf5(path: Path) -> _Opened:
    import h5py

    def row(file: Any, name: str, i: int) -> np.ndarray:
        """Mean over the frames of what is at row i, (N,)."""
        return file[name][:, i].astype(np.float64).mean(0)

    def sinogram(i: int) -> np.ndarray:
        with h5py.File(path, "r") as file:
            data = file[_DATA_EXCHANGE][:, i]
            if f"{_DATA_EXCHANGE}_white" not in file:
                return data
            dark_name = f"{_DATA_EXCHANGE}_dark"
            dark = row(file, dark_name, i) if dark_name in file else 0.0
            white = row(file, f"{_DATA_EXCHANGE}_white", i) - dark
            # A ray that nothing comes through, or a dead bin, counts as the smallest share a float16 has.
            share = np.divide(data - dark, white, out=np.zeros(data.shape), where=white > 0)
            return -np.log(share.clip(min=math.ldexp(1, -24)))

    with h5py.File(path, "r") as file:
        if _DATA_EXCHANGE not in file or file[_DATA_EXCHANGE].ndim != 3:
            raise InputError(
                f"{path}: no {_DATA_EXCHANGE} of (views, slices, bins) in it; give such a file, or .npy"
            )
        return file[_DATA_EXCHANGE].shape[1], sinogram
