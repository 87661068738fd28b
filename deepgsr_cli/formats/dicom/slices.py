"""CT slices in HU, one at a time, and as stored."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.dicom.header import (
    NATIVE_SYNTAXES,
    count_frames,
    decimal_text,
    numbers_of,
    quiet_pydicom,
    read_header,
    rescale_of,
    single_frame,
)
from deepgsr_cli.formats.dicom.series import Series, SliceFile

AIR_HU = -1000.0

# Values below the HU scale's usual end stand for "not measured" where a scanner fills the corners with them.
_SCALE_END_HU = -1024.0
PADDING_KEYWORDS = ("PixelPaddingValue", "PixelPaddingRangeLimit")
# Lungs are denser. A padding value above is one of tissue, too: of headers with 0 for it, where water is 0.
_MOST_AIR_HU = -950.0
# What gray pixels are where a header does not say it.
_ASSUMED = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
_LOSSY_SYNTAXES = (uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit, uids.JPEGLSNearLossless)
_MAYBE_LOSSY_SYNTAXES = (*_LOSSY_SYNTAXES, uids.JPEG2000, uids.JPEG2000MC, uids.HTJ2K)
_JPEG_SYNTAXES = (*uids.JPEGTransferSyntaxes, *uids.JPEGLSTransferSyntaxes)


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice in HU, with what is needed to write it back.

    Attributes:
        hu: float32, (H, W); padding is set to air.
        padding: bool, (H, W): pixels that were not measured, written back with their stored values.
        stored: Stored values as in the file, (H, W).
        pixel_mm: Distance between rows and between columns.
        position_mm: Centre of the first pixel in the patient's coordinates (x, y, z), None if not known.
        header: Header as of a single-frame CT image, a frame's functional groups at the top level; without
            private elements.
        file: File and frame that the slice is from.
    """

    hu: np.ndarray
    padding: np.ndarray
    stored: np.ndarray
    pixel_mm: tuple[float, float]
    position_mm: tuple[float, float, float] | None
    header: Dataset
    file: SliceFile


@quiet_pydicom()
def read_slice(series: Series, i: int) -> Slice:
    """Read slice `i` of `series` in HU, by its own slope and intercept.

    Stored values are taken as the header says: sign, and BitsStored of BitsAllocated bits whatever the
    others hold. MONOCHROME1 does not invert: it says how values are shown, after the rescaling to HU and the
    window (PS3.3 C.7.6.3.1.2). Padding is what PixelPaddingValue (and its range) marks, of values that
    tissue has only the areas that reach the border; and, where most of the pixels outside the largest circle
    in the slice are below -1024 HU, those pixels and all that share their median value, as the data do not
    always use the value the header states.

    Raises:
        InputError: The file is gone or unreadable, its pixel data are missing, damaged or cut short, or
            compressed in a way that nothing installed can decode.
    """
    file = series.slices[i]
    source = _source_header(series, i)
    header = single_frame(source, file.frame or 0)
    if file.frame is not None or header.get("InstanceNumber") is None:
        header.InstanceNumber = i + 1
    if source.file_meta.get("TransferSyntaxUID") in _LOSSY_SYNTAXES:
        header.LossyImageCompression = "01"
    stored = _decode(file, source)
    if stored.shape != series.shape:
        raise InputError(f"{file.path}: is {stored.shape} now and was {series.shape}; give the folder again")
    slope, intercept = rescale_of(header)
    hu = stored * slope + intercept
    padding = _padding(header, stored, hu, series.pixel_mm)
    hu[padding] = AIR_HU
    position = numbers_of(header, "ImagePositionPatient", 3)
    position_mm = (position[0], position[1], position[2]) if position else None
    if numbers_of(header, "PixelSpacing", 2) is None:
        header.PixelSpacing = [decimal_text(mm) for mm in series.pixel_mm]
    return Slice(hu.astype(np.float32), padding, stored, series.pixel_mm, position_mm, header, file)


@quiet_pydicom()
def slice_header(series: Series, i: int) -> Dataset:
    """Read the header of slice `i` of `series`, as `Slice.header`, and no pixels.

    Raises:
        InputError: The file is gone or unreadable.
    """
    return single_frame(_source_header(series, i), series.slices[i].frame or 0)


def _source_header(series: Series, i: int) -> Dataset:
    """Header of the file of a slice; that of the last multi-frame file is kept."""
    file = series.slices[i]
    source = series._header.get(file.path)
    if source is None:
        source = read_header(file.path)
        if source is None:
            raise InputError(f"{file.path}: is no DICOM file any more; give the folder again")
        series._header.clear()
        if file.frame is not None:
            series._header[file.path] = source
    return source


def _decode(file: SliceFile, header: Dataset) -> np.ndarray:
    """Stored values of a slice, (H, W), of 8 or 16 bits, signed as the header says."""
    path = file.path
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        implicit, little = header.original_encoding
        syntax = NATIVE_SYNTAXES[bool(implicit), bool(little)]
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise InputError(
            f"{path}: is compressed as {UID(syntax).name}, which cannot be read; "
            "convert it to Explicit VR Little Endian, with dcmconv or gdcmconv --raw"
        ) from error
    plugin = ""
    if syntax in uids.JPEG2000TransferSyntaxes:
        plugin = "pylibjpeg"  # the other decoders print to stderr when a codestream is damaged
        if plugin not in decoder.available_plugins:
            raise InputError(
                f"{path}: is compressed as {UID(syntax).name}; to read it, pip install pylibjpeg"
                " pylibjpeg-openjpeg"
            )
    elif syntax == uids.RLELossless:
        plugin = "pydicom"  # on damaged data pylibjpeg-rle panics, which is no Exception
    try:
        if syntax in _JPEG_SYNTAXES:
            stored = _of_jpeg(_codestream(file, header), syntax)
        else:
            if syntax in uids.JPEG2000TransferSyntaxes:
                _check_size(path, header, _jpeg2000_size(_codestream(file, header)))
            stored = _pixels(file, header, syntax, plugin)
    except MemoryError as error:
        raise InputError(f"{path}: there is not enough memory to decode it; free some") from error
    except InputError:
        raise
    except Exception as error:  # the decoders' own kinds: anything, on hostile bytes
        raise InputError(
            f"{path}: the pixel data are missing, damaged or cut short; copy or export it again"
        ) from error
    _check_size(path, header, stored.shape)
    return _within_bits(stored, header, lossy=syntax in _MAYBE_LOSSY_SYNTAXES)


def _check_size(path: Path, header: Dataset, size: tuple[int, ...]) -> None:
    """Refuse pixels of another size, (rows, columns), than the header's."""
    if size != (header.Rows, header.Columns):
        found = " x ".join(map(str, size))
        raise InputError(
            f"{path}: its compressed pixels are {found}, but Rows x Columns are"
            f" {header.Rows} x {header.Columns}; export it again"
        )


def _within_bits(stored: np.ndarray, header: Dataset, *, lossy: bool) -> np.ndarray:
    """Values of 8 or 16 bits, signed as the header says, of what a decoder gave.

    A codestream may contradict the header's sign and bits, and unused bits hold anything. Loss can lead
    beyond the bits, where they are of no use.
    """
    bits, signed = header.BitsStored, bool(header.PixelRepresentation)
    dtype = np.dtype(f"{'i' if signed else 'u'}{header.BitsAllocated // 8}")
    if lossy and (stored.dtype.kind == "i") == signed:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return stored.clip(low, high).astype(dtype)
    unused = 32 - bits
    return ((stored.astype(np.int32 if signed else np.uint32) << unused) >> unused).astype(dtype)


def _codestream(file: SliceFile, header: Dataset) -> bytes:
    """The compressed pixels of a slice."""
    tables = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")
    with file.path.open("rb") as stream:
        pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=[])
        stream.seek(12, os.SEEK_CUR)  # tag, VR and length
        return get_frame(
            stream,
            file.frame or 0,
            number_of_frames=count_frames(header),
            extended_offsets=tables if all(tables) else None,
        )


def _of_jpeg(codestream: bytes, syntax: UID) -> np.ndarray:
    """Pixels of a JPEG or a JPEG-LS file, uint8 or uint16, which has an end; anything may follow that.

    Other decoders end the process when a codestream is damaged, or not of the header's size.
    """
    import imagecodecs

    # No two bytes of a scan are those of a marker.
    scan = codestream[codestream.rfind(b"\xff\xda") :]
    if b"\xff\xd9" not in scan:
        raise ValueError("a codestream without its end")
    of_ls = syntax in uids.JPEGLSTransferSyntaxes
    return imagecodecs.jpegls_decode(codestream) if of_ls else imagecodecs.jpeg8_decode(codestream)


def _jpeg2000_size(codestream: bytes) -> tuple[int, int]:
    """Rows and columns of a JPEG 2000 codestream, which a file of JP2 may be around."""
    start = codestream.index(b"\xff\x4f\xff\x51")
    right, bottom, left, top = struct.unpack_from(">IIII", codestream, start + 8)
    return bottom - top, right - left


def _pixels(file: SliceFile, header: Dataset, syntax: UID, plugin: str) -> np.ndarray:
    """Stored values of a slice, (H, W), as the decoders return them."""
    settings: dict[str, Any] = {"index": file.frame or 0, "raw": True, "decoding_plugin": plugin}
    assumed = {key: value for key, value in _ASSUMED.items() if not header.get(key)}
    # An offset into deflated data means nothing.
    if not assumed and syntax != uids.DeflatedExplicitVRLittleEndian:
        try:
            return pixel_array(file.path, transfer_syntax_uid=syntax, **settings)
        except MemoryError:
            raise
        except Exception:
            # Of files without compression, some are encoded otherwise than they say, which parsing finds out.
            if syntax not in NATIVE_SYNTAXES.values():
                raise
    whole = pydicom.dcmread(file.path, force=True)
    for keyword, value in assumed.items():
        setattr(whole, keyword, value)
    return pixel_array(whole, transfer_syntax_uid=syntax, **settings)


def _padding(
    header: Dataset, stored: np.ndarray, hu: np.ndarray, pixel_mm: tuple[float, float]
) -> np.ndarray:
    """Pixels that were not measured, bool, (H, W)."""
    padding = np.zeros(stored.shape, bool)
    values = [as_stored(header.get(keyword), header.PixelRepresentation) for keyword in PADDING_KEYWORDS]
    limits = [value for value in values if value is not None]
    if limits:
        padding = _outer((stored >= min(limits)) & (stored <= max(limits)), hu)
    sides_mm = [size * mm for size, mm in zip(stored.shape, pixel_mm)]
    y, x = (np.arange(size) * mm - (size - 1) * mm / 2 for size, mm in zip(stored.shape, pixel_mm))
    outside = np.hypot(y[:, None], x) > min(sides_mm) / 2
    unmeasured = outside & (hu < _SCALE_END_HU)
    if 2 * unmeasured.sum() > outside.sum():
        padding |= unmeasured | (stored == np.median(stored[unmeasured]))
    return padding


def _outer(marked: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """Pixels of `marked`, bool, (H, W), that no tissue can be: air, and what reaches the slice's border."""
    from scipy import ndimage

    tissue = marked & (hu > _MOST_AIR_HU)
    if not tissue.any():
        return marked
    areas, _ = ndimage.label(tissue)
    at_border = np.concatenate((areas[0], areas[-1], areas[:, 0], areas[:, -1]))
    return marked & (~tissue | np.isin(areas, at_border[at_border > 0]))


def as_stored(value: Any, signed: bool) -> int | None:
    """A padding value as a stored value: files often give it the sign that the pixels do not have."""
    if not isinstance(value, int):
        return None
    bits = value & 0xFFFF
    return bits - 0x10000 if signed and bits >= 0x8000 else bits
