"""MATLAB files, of version 5 and of version 7.3, as Python's values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

# The first bytes of HDF5, which MATLAB puts its own header before.
_HDF5_AT = 512
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Of what MATLAB keeps inside a file of version 7.3.
_INTERNAL = "#"


def read_matlab(path: Path) -> dict[str, Any]:
    """Read the variables of a file by their names.

    Structures are dictionaries, texts are `str`, numbers are arrays or scalars of numpy, with the axes as in
    MATLAB and without those of length 1. Cells of version 7.3 are left out.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no MATLAB file, or damaged.
    """
    with path.open("rb") as file:
        head = file.read(_HDF5_AT + len(_HDF5))
    if head.startswith(_HDF5) or head[_HDF5_AT:] == _HDF5:
        return _read_hdf5(path)
    import scipy.io

    try:
        found = scipy.io.loadmat(path, simplify_cells=True)
    except OSError:
        raise
    except Exception as error:  # the parser's own kinds, on hostile bytes
        raise ValueError(str(error) or type(error).__name__) from error
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _read_hdf5(path: Path) -> dict[str, Any]:
    import h5py

    with h5py.File(path, "r") as file:
        return _group(file, h5py.Dataset)


def _group(group: Any, dataset: type) -> dict[str, Any]:
    """Members of a group whose kind is known; `dataset` is the type of arrays."""
    found = {}
    for name, item in group.items():
        if name.startswith(_INTERNAL):
            continue
        if not isinstance(item, dataset):
            found[name] = _group(item, dataset)
        elif (value := _value(item)) is not None:
            found[name] = value
    return found


def _value(item: Any) -> Any:
    """An array of a file of version 7.3, whose axes are in reverse; None for a kind that is not known."""
    kind = item.attrs.get("MATLAB_class", b"").decode()
    if item.attrs.get("MATLAB_empty", 0):
        return "" if kind == "char" else np.empty(0)
    values = item[()]
    if kind == "char":
        return "".join(map(chr, np.ravel(values, order="F")))
    values = np.asarray(values)
    if values.dtype.names == ("real", "imag"):
        values = values["real"] + 1j * values["imag"]
    if values.dtype.kind not in "biufc":
        return None
    values = np.squeeze(values.T)
    return values if values.ndim else values[()]
