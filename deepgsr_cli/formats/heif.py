"""HEIC, as telephones write it: read where the package pi-heif is there, and not written."""

from __future__ import annotations

import importlib.util
from typing import IO

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import Decoded, Metadata, as_16_bits, check_size
from deepgsr_cli.formats.exif import made_true

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1")


def can_read_heif() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("pi_heif") is not None


def decode_heif(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    try:
        import pi_heif
    except ImportError as error:
        raise InputError(
            f"{name}: is a HEIC, which is read with a further package: pip install 'deepgsr[heif]';"
            " or convert it"
        ) from error
    pictures = pi_heif.open_heif(stream, convert_hdr_to_8bit=False)
    width, height = pictures.size
    check_size(name, width, height, max_pixels)
    info = pictures.info
    samples = np.asarray(pictures)
    samples = samples.reshape(*samples.shape[:2], -1)
    top = None
    if samples.dtype == np.uint16:  # the bits of the file, at the top of sixteen
        bits = int(info["bit_depth"])
        samples, top = as_16_bits(samples >> (16 - bits), bits), 2**bits - 1
    exif = (info.get("exif") or b"").removeprefix(b"Exif\0\0") or None
    # libheif has turned the picture upright by what the container says, which EXIF repeats.
    _, exif, xmp = made_true(exif, info.get("xmp"), (samples.shape[1], samples.shape[0]))
    count = len(pictures)
    notes = (f"1 of {count} pictures in the file is read",) if count > 1 else ()
    metadata = Metadata(icc=info.get("icc_profile"), exif=exif, xmp=xmp)
    return Decoded(samples, 1, metadata, notes=notes, top=top)
