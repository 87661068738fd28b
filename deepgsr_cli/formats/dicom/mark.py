"""Whether a file says that it is DICOM, without the library that reads it."""

from __future__ import annotations

import os
from pathlib import Path

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


def is_marked(path: Path) -> bool:
    """Whether a file has the suffix of DICOM, or its mark after the preamble; False if it cannot be read.

    What can be read once only, as a pipe, is left to who reads it whole.
    """
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    if not os.path.isfile(path):
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False
