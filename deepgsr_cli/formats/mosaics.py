"""Bayer mosaics in files: PNG, TIFF, PGM, NPY, and the raw files of cameras."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from deepgsr_cli.errors import InputError, OptionError, ShapeError, check_text
from deepgsr_cli.files import check_readable, reading
from deepgsr_cli.formats.codecs import MAX_PIXELS, Metadata, check_size
from deepgsr_cli.formats.exif import TEXT_TAGS, exif_of
from deepgsr_cli.formats.image import decode_picture

# Of cameras' raw files, all that LibRaw reads and that end in their own way.
RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw"),
)
SUFFIXES = (".png", ".tif", ".tiff", ".pgm", ".npy", *RAW_SUFFIXES)
# Colours of the first 2 x 2 pixels, row by row.
PATTERNS = ("RGGB", "GRBG", "GBRG", "BGGR")
_WHITE = {"uint8": 255.0, "uint16": 65535.0, "float16": 1.0, "float32": 1.0, "float64": 1.0}


@dataclass(frozen=True)
class Camera:
    """What a raw file says of its colours.

    Attributes:
        gains: Of red, green and blue, by which a gray surface has three equal values, (3,); the least is 1.
        to_srgb: Matrix from balanced values to linear sRGB, (3, 3).
    """

    gains: np.ndarray
    to_srgb: np.ndarray


@dataclass
class Mosaic:
    """A Bayer mosaic, as it lies in its file.

    Attributes:
        values: (H, W), float32, H and W even; 0 is black and 1 is white.
        depth: Sample type of what is made of it: uint8, uint16 or float32.
        format: Format of what is made of it: PNG or TIFF.
        pattern: Colours of the first 2 x 2 pixels, row by row, as "RGGB"; None where the file does not say.
        orientation: How it is to be turned to be seen, EXIF's 1 to 8.
        metadata: Carried to what is made of it.
        camera: Of a raw file.
        highest: Largest stored value that occurs in it; None if white was given or is known.
        top: Largest value that its file can hold.
    """

    values: np.ndarray
    depth: str
    format: str
    pattern: str | None = None
    orientation: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    camera: Camera | None = None
    highest: float | None = None
    top: float = 1.0


class _Samples(NamedTuple):
    """(H, W) as stored, the value of white, and how a mosaic of them is described."""

    values: np.ndarray
    white: float
    about: Mosaic


_Reader = Callable[[str, bytes, int], _Samples]


def read_mosaic(
    source: Path | BinaryIO,
    *,
    black: float | None = None,
    white: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Mosaic:
    """Read the mosaic in a file or stream, not turned.

    A raw file's borders that show nothing are left out.

    Args:
        source: A path, or a binary stream of anything but a raw file, which is read to its end.
        black: Stored value that stands for 0; None for what a raw file says, and 0 of others.
        white: Stored value that stands for 1; None for what a raw file says, and the largest of as many bits
            as a sample has in the file, or 1 of floats.
        max_pixels: Most pixels the header may claim.

    Raises:
        InputError: Missing, unreadable, damaged, too large, or no mosaic.
        ShapeError: It has an odd side.
        OptionError: White is not above black.
    """
    name = str(source if isinstance(source, Path) else getattr(source, "name", "standard input"))
    if isinstance(source, Path) and source.suffix.lower() in RAW_SUFFIXES:
        return _read_raw(source, black, white, max_pixels)
    values, full, about = _samples(name, source, max_pixels)
    check_even(values.shape, name)
    check_levels(black or 0.0, full if white is None else white)
    highest = float(values.max()) if white is None and values.dtype.kind == "u" else None
    levels = scaled(values, black or 0.0, full if white is None else white)
    return replace(about, values=levels, highest=highest, top=full)


def check_pattern(pattern: str) -> str:
    """Return a pattern in capitals; raise an OptionError where there is no such one."""
    advice = f"give the colours of the first 2 x 2 pixels, row by row: {', '.join(PATTERNS)}"
    check_text("pattern", pattern, advice)
    if pattern.upper() not in PATTERNS:
        raise OptionError("pattern", pattern, advice)
    return pattern.upper()


def scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Stored values as float32 in which 0 is black and 1 is white."""
    return (values.astype(np.float32) - np.float32(black)) / np.float32(white - black)


def check_levels(black: float, white: float) -> None:
    """Raise an OptionError unless white is above black."""
    if not black < white < np.inf:
        raise OptionError("white", float(white), f"give a value of white above that of black, {black:g}")


def check_even(shape: tuple[int, ...], name: str = "") -> None:
    """Raise a ShapeError for a mosaic, (H, W), of another than even sides."""
    height, width = shape
    if height % 2 or width % 2:
        start = f"{name}: is" if name else "the mosaic is"
        raise ShapeError(
            f"{start} {width} x {height} pixels, and the pattern of 2 x 2 asks for even sides; cut it to even"
            " sides, from a row and column where the pattern begins"
        )


def _samples(name: str, source: Path | BinaryIO, max_pixels: int) -> _Samples:
    with reading(name):
        data = source.read() if not isinstance(source, Path) else b""
        if isinstance(source, Path) and source.is_file():
            with source.open("rb") as stream:
                head = stream.read(8)
            data = source.read_bytes() if _reader_of(head) else b""
    if reader := _reader_of(data[:8]):
        try:
            return reader(name, data, max_pixels)
        except (ValueError, EOFError) as error:
            detail = " ".join(str(error).split())[:120]
            raise InputError(f"{name}: the data is damaged or cut short ({detail}); copy it again") from error
    decoded, format = decode_picture(
        source if isinstance(source, Path) else BytesIO(data), max_pixels=max_pixels
    )
    if format in ("JPEG", "WEBP"):
        raise InputError(
            f"{name}: is a {format}, which mixes the colours of a mosaic; give what the sensor recorded, as"
            " PNG, TIFF, PGM, NPY or a raw file"
        )
    samples, orientation, metadata = decoded[:3]
    if samples.shape[2] != 1:
        raise InputError(_in_colour(name, samples.shape[2]))
    depth = samples.dtype.name
    about = Mosaic(
        np.empty(0),
        "float32" if samples.dtype.kind == "f" else depth,
        format if format in ("PNG", "TIFF") else "PNG",
        orientation=orientation,
        metadata=replace(metadata, icc=None),  # a gray one
    )
    full = _WHITE[depth]
    if decoded.top is None or decoded.top == full:
        return _Samples(samples[..., 0], full, about)
    stored = np.rint(samples[..., 0] * (decoded.top / full)).astype(samples.dtype)
    return _Samples(stored, float(decoded.top), about)


def _in_colour(name: str, channels: int) -> str:
    return (
        f"{name}: has {channels} channels, and a mosaic has one, in which each pixel shows one colour;"
        " pictures in colour are demosaicked already: give denoise or restore"
    )


def _reader_of(head: bytes) -> _Reader | None:
    """What reads a file that begins so; None for a picture, or for nothing known."""
    if head.startswith(b"\x93NUMPY"):
        return _read_npy
    return _read_pgm if re.match(rb"P[25]\s", head) else None


def _read_npy(name: str, data: bytes, max_pixels: int) -> _Samples:
    values = np.load(BytesIO(data), allow_pickle=False)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim == 3:
        raise InputError(_in_colour(name, values.shape[2]))
    if values.ndim != 2 or values.dtype.name not in _WHITE:
        raise InputError(
            f"{name}: an array of {values.dtype} and shape {values.shape} is no mosaic; give (H, W) of uint8,"
            " uint16 or floating point"
        )
    check_size(name, values.shape[1], values.shape[0], max_pixels)
    if not np.isfinite(values).all():
        raise InputError(f"{name}: has values that are NaN or infinite; replace them first")
    depth = "float32" if values.dtype.kind == "f" else values.dtype.name
    about = Mosaic(np.empty(0), depth, "TIFF" if depth == "float32" else "PNG")
    return _Samples(values.astype(values.dtype.newbyteorder("=")), _WHITE[values.dtype.name], about)


def _read_pgm(name: str, data: bytes, max_pixels: int) -> _Samples:
    """Read a PGM; netpbm's pgm(5)."""
    gap = rb"(?:\s|#[^\n]*\n)+"
    header = re.match(rb"P([25])" + gap + rb"(\d+)" + gap + rb"(\d+)" + gap + rb"(\d+)\s", data)
    if header is None:
        raise ValueError("its header is not that of a PGM")
    kind, width, height, white = (int(part) for part in header.groups())
    check_size(name, width, height, max_pixels)
    if not 0 < white < 2**16:
        raise ValueError(f"its largest value is {white}")
    depth = np.dtype(np.uint8 if white < 2**8 else np.uint16)
    if kind == 5:
        values = np.frombuffer(data, depth.newbyteorder(">"), width * height, header.end())
    else:
        values = np.array(data[header.end() :].split()[: width * height]).astype(depth)
    about = Mosaic(np.empty(0), depth.name, "PNG")
    return _Samples(values.reshape(height, width).astype(depth), float(white), about)


def _read_raw(path: Path, black: float | None, white: float | None, max_pixels: int) -> Mosaic:
    try:
        import rawpy
    except ImportError as error:
        raise InputError(
            f"{path}: raw files need a package that is not installed (rawpy); pip install 'deepgsr[raw]'"
        ) from error
    check_readable(path)
    try:
        with rawpy.imread(str(path)) as raw:
            check_size(str(path), raw.sizes.width, raw.sizes.height, max_pixels)
            return _of_raw(path, raw, black, white)
    except rawpy.LibRawError as error:
        detail = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise InputError(f"{path}: LibRaw cannot read it ({detail}); convert it to DNG") from error


def _of_raw(path: Path, raw: Any, black: float | None, white: float | None) -> Mosaic:
    """The mosaic that LibRaw has read."""
    height, width = (side // 2 * 2 for side in (raw.sizes.height, raw.sizes.width))
    names = raw.color_desc.decode("latin-1")
    indices = np.zeros((4, 4), int) if raw.raw_colors_visible is None else raw.raw_colors_visible[:4, :4]
    cell = "".join(names[i] for i in indices[:2, :2].flat)
    if cell not in PATTERNS or (indices != np.tile(indices[:2, :2], (2, 2))).any():
        raise InputError(
            f"{path}: its sensor has no Bayer pattern, 2 x 2 pixels of red, green, green and blue;"
            " develop it with the camera's own software"
        )
    top = float(raw.white_level if white is None else white)
    lowest = raw.black_level_per_channel if black is None else [black] * 4
    check_levels(max(lowest), top)
    stored, values = raw.raw_image_visible, np.empty((height, width), np.float32)
    for row in (0, 1):
        for column in (0, 1):
            part = stored[row:height:2, column:width:2]
            values[row::2, column::2] = scaled(part, lowest[indices[row, column]], top)
    gains = np.array(raw.camera_whitebalance[:3], np.float32)
    if not (np.isfinite(gains) & (gains > 0)).all():
        gains = np.array(raw.daylight_whitebalance[:3], np.float32)
    gains = gains / gains.min() if (gains > 0).all() else np.ones(3, np.float32)
    matrix = raw.color_matrix[:, :3].astype(np.float32)
    camera = Camera(gains, matrix if matrix.any() else np.eye(3, dtype=np.float32))
    # LibRaw counts as dcraw does: 1 mirrors left and right, 2 top and bottom, 4 at the diagonal.
    orientation = {1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}.get(raw.sizes.flip, 1)
    metadata = Metadata(exif=_texts(path))
    return Mosaic(values, "uint16", "TIFF", cell, orientation, metadata, camera)


def _texts(path: Path) -> bytes | None:
    """EXIF of the text tags of a raw file, most of which are a kind of TIFF; None where there are none."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            tags = {tag.code: tag.value for tag in tiff.pages[0].tags}
    except Exception:  # of a raw file of another kind, or with tags of its maker's own
        return None
    texts = {code: tags[code].encode() for code in TEXT_TAGS if isinstance(tags.get(code), str)}
    return exif_of(texts)
