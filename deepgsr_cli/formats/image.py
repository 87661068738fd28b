"""Pictures in and out at their own depth, with alpha and metadata kept."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from deepgsr_cli.compute.levels import to_floats, to_levels
from deepgsr_cli.errors import InputError, OutputError, UserError
from deepgsr_cli.files import atomic_write, copy_file, files_below, reading
from deepgsr_cli.formats.avif import AVIF_BRANDS, avif_brands, can_read_avif, decode_avif
from deepgsr_cli.formats.bmp import decode_bmp, encode_bmp
from deepgsr_cli.formats.codecs import DEPTHS, MAX_PIXELS, Decoded, Encoder, Metadata, gray
from deepgsr_cli.formats.exif import DESCRIPTION, enlarged_exif, enlarged_xmp, upright
from deepgsr_cli.formats.gif import decode_gif, encode_gif
from deepgsr_cli.formats.heif import BRANDS, can_read_heif, decode_heif
from deepgsr_cli.formats.jpeg import decode_jpeg, encode_jpeg
from deepgsr_cli.formats.jpeg2000 import (
    CODESTREAM_SIGNATURE,
    JP2_SIGNATURE,
    decode_jpeg2000,
    encode_codestream,
    encode_jpeg2000,
)
from deepgsr_cli.formats.netpbm import decode_netpbm, encode_netpbm, encode_ppm
from deepgsr_cli.formats.nodata import Holes, fill_holes, find_holes
from deepgsr_cli.formats.png import PNG_PLACES, PNG_SIGNATURE, decode_png, encode_png, told_chunks
from deepgsr_cli.formats.tiff import OF_SIZE, decode_tiff, describe_tags, encode_tiff
from deepgsr_cli.formats.webp import decode_webp, encode_webp, profile_in_webp
from deepgsr_cli.words import counted


class Format(NamedTuple):
    """A format of pictures.

    Attributes:
        suffixes: Of its files; the first is that of files without a name of their own.
        decode: Reads a picture.
        encode: Writes one; None where it is only read, and PNG is written instead.
        depths: Sample types it holds.
        alpha: Whether it holds alpha.
        side_px: Most pixels a side.
        holds: Fields of `Metadata` that it holds.
    """

    suffixes: tuple[str, ...]
    decode: Callable[[str, IO[bytes], int], Decoded]
    encode: Encoder | None
    depths: tuple[str, ...]
    alpha: bool
    side_px: int
    holds: frozenset[str]


_EVERY = frozenset(("icc", "exif", "xmp"))
_RESOLUTION, _COMMENTS, _NONE = frozenset(("resolution",)), frozenset(("comments",)), frozenset[str]()
FORMATS = {
    "PNG": Format(
        (".png",), decode_png, encode_png, DEPTHS[:2], True, 2**31 - 1,
        _EVERY | {"resolution", "comments", "png_chunks"},
    ),
    "JPEG": Format(
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"), decode_jpeg, encode_jpeg, DEPTHS[:1], False, 65500,
        _EVERY | {"resolution", "comments", "iptc", "jpeg_segments"},
    ),  # 65500 is JPEG_MAX_DIMENSION of libjpeg
    "TIFF": Format(
        (".tif", ".tiff"), decode_tiff, encode_tiff, DEPTHS, True, 2**32 - 1,
        _EVERY | {"resolution", "iptc", "tiff_tags"},
    ),
    "WEBP": Format((".webp",), decode_webp, encode_webp, DEPTHS[:1], True, 16383, _EVERY),
    "GIF": Format((".gif",), decode_gif, encode_gif, DEPTHS[:1], True, 65535, _COMMENTS),
    "JPEG2000": Format(
        (".jp2", ".jpx"), decode_jpeg2000, encode_jpeg2000, DEPTHS[:2], True, 2**31 - 1, _EVERY
    ),
    "J2K": Format((".j2k", ".j2c"), decode_jpeg2000, encode_codestream, DEPTHS[:2], True, 2**31 - 1, _NONE),
    "PNM": Format((".pnm",), decode_netpbm, encode_netpbm, DEPTHS[:2], False, 2**31 - 1, _COMMENTS),
    "PPM": Format((".ppm",), decode_netpbm, encode_ppm, DEPTHS[:2], False, 2**31 - 1, _COMMENTS),
    "PGM": Format((".pgm",), decode_netpbm, encode_netpbm, DEPTHS[:2], False, 2**31 - 1, _COMMENTS),
    "PBM": Format((".pbm",), decode_netpbm, None, (), False, 0, _NONE),
    "HEIF": Format((".heic", ".heif", ".hif"), decode_heif, None, (), True, 0, _NONE),
    "AVIF": Format((".avif", ".avifs"), decode_avif, None, (), True, 0, _NONE),
    "BMP": Format((".bmp",), decode_bmp, encode_bmp, DEPTHS[:1], False, 2**31 - 1, _RESOLUTION),
}  # fmt: skip
SUFFIXES = {suffix: name for name, format in FORMATS.items() for suffix in format.suffixes}
WRITTEN_SUFFIXES = {suffix: name for suffix, name in SUFFIXES.items() if FORMATS[name].encode}
# Suffixes of results, by those of inputs in formats that are only read.
RESULT_SUFFIXES = {suffix: ".png" for suffix in SUFFIXES if suffix not in WRITTEN_SUFFIXES}
# Of pictures in formats that are not read, which a folder may have: they are named, and not only counted.
FOREIGN_SUFFIXES = (
    *(".jxl", ".pam", ".psd", ".psb", ".xcf", ".exr", ".hdr", ".tga", ".svg"),
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".x3f", ".3fr"),
    *(".iiq", ".dcr", ".erf"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".3gp", ".m2ts"),
)

_SIGNATURES = (
    (PNG_SIGNATURE, "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (JP2_SIGNATURE, "JPEG2000"),
    (CODESTREAM_SIGNATURE, "J2K"),
    *((b"P%d" % kind + blank, "PNM") for kind in range(1, 7) for blank in (b"\n", b" ", b"\r", b"\t")),
)
# First bytes of films: Matroska, MPEG, Windows Media; and brands of the container of MPEG-4.
_FILMS = (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"0&\xb2u\x8ef\xcf\x11")
_FILM_BRANDS = (b"iso", b"mp4", b"avc", b"qt", b"M4V", b"3gp", b"3g2", b"MSNV", b"dash", b"f4v")
# Noise of sigma 75, the most that shipped weights know, puts one pixel in 1500 below -1 or above 2, and a
# photograph has few highlights above 2. More than this share of the pixels there are on another scale.
LOWEST, HIGHEST, MOST_BEYOND = -1.0, 2.0, 0.01
# Noise that puts more than that share of a picture below this value puts some below -1 or above 1, too,
# unless the picture is small and black.
_SHIFTED = -0.5
# The mean of 8 x 8 pixels of black with noise of sigma 75 is below this value once in 50,000 times.
_DARKEST, _AREA_PX = -0.15, 8
_LOSSES = {
    "icc": "colour profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "comments": "comments",
    "resolution": "resolution",
    "jpeg_segments": "further segments of a JPEG",
}


@dataclass(slots=True)
class Image:
    """A picture as the models see it, with what is needed to write it back.

    Attributes:
        stored: Pixels, (C, H, W), C 1 or 3: uint8 or uint16 as in the file, or as `pixels`.
        depth: Sample type of the file and of what will be written: uint8, uint16, float16, float32, float64.
        format: PNG, JPEG, TIFF, WEBP or BMP for pictures.
        alpha: (H, W) in `depth`, as stored; None where there is none.
        metadata: Carried from file to file.
        holes: Pixels that have no value, and are written as they were.
        notes: Sentences without an end on what was wrong in the file.
        left_out: Sentences without an end on what of the file is not read, and is lost unless the file is
            copied.
        mended: Whether a fault of the file is gone once the picture is written.
    """

    stored: np.ndarray
    depth: str
    format: str
    alpha: np.ndarray | None = None
    metadata: Metadata = field(default_factory=Metadata)
    holes: Holes | None = None
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    mended: bool = False

    @property
    def pixels(self) -> np.ndarray:
        """float32, (C, H, W); [0, 1] for integer files, not clipped for float files. Whole numbers that are
        stored are converted when this is asked for, and take four or two times the memory from then on."""
        self.stored = to_floats(self.stored)
        return self.stored

    @pixels.setter
    def pixels(self, pixels: np.ndarray) -> None:
        self.stored = pixels


def read_image(source: Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, white: float = 1.0) -> Image:
    """Read the picture in a file or stream, upright.

    Samples of an integer file stay as they are until `Image.pixels` is asked for.

    The content says the format, whatever the suffix. Depth is the file's sample type; 1- to 7-bit samples
    are widened to uint8 and 9- to 15-bit ones to uint16. Palettes become RGB, or gray when every colour in
    use is gray and no ICC profile says otherwise; a transparent colour becomes alpha. A TIFF's previews
    are skipped. Pixels that GDAL's tag says have no value are filled by their surroundings.

    Args:
        source: A path, or a binary stream, which is read to its end.
        max_pixels: Most pixels (width times height) the header may claim; checked before decoding.
        white: Stored value that stands for 1 in a float file.

    Raises:
        InputError: Missing, unreadable, damaged, too large, animated, of several pages, with pixels that are
            NaN or infinite, or of a kind that is not read: CMYK, signed, 32-bit integer or complex samples.
    """
    decoded, format = decode_picture(source, max_pixels=max_pixels)
    return make_image(_name_of(source), decoded, format, white)


def decode_picture(source: Path | BinaryIO, *, max_pixels: int = MAX_PIXELS) -> tuple[Decoded, str]:
    """Decode the picture in a file or stream: samples as stored, their orientation, and its format.

    Args:
        source: As of `read_image`.
        max_pixels: As of `read_image`.

    Raises:
        InputError: As `read_image`.
    """
    name = _name_of(source)
    with opened(source) as stream:
        format = sniff(name, stream)
        with damage(name, format):
            return FORMATS[format].decode(name, stream, max_pixels), format


def _name_of(source: Path | BinaryIO) -> str:
    return str(source if isinstance(source, Path) else getattr(source, "name", "standard input"))


@contextmanager
def opened(source: Path | BinaryIO) -> Iterator[IO[bytes]]:
    """Open a file for reading from its start, to where it can be sought; a stream is read to its end.

    Raises:
        InputError: It cannot be read.
    """
    if not isinstance(source, Path):
        yield BytesIO(source.getbuffer() if isinstance(source, BytesIO) else source.read())
        return
    if os.path.isdir(source):
        raise InputError(f"{source}: is a folder, not a picture; give a file in it")
    with reading(source), source.open("rb") as stream:
        yield stream if stream.seekable() else BytesIO(stream.read())


def sniff(name: str, stream: IO[bytes]) -> str:
    """Format of a picture, by its first bytes; the stream is at its start again.

    Raises:
        InputError: There are none, or they are of no format that is read.
    """
    head = stream.read(128)
    stream.seek(0)
    if not head:
        raise InputError(f"{name}: the file is empty; copy or export it again")
    format = "WEBP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else ""
    brands = avif_brands(head)
    if brands and brands[0] in (*AVIF_BRANDS, *BRANDS):
        # The main brand of either may be that of the container alone.
        format = "HEIF" if set(brands).isdisjoint(AVIF_BRANDS) else "AVIF"
    format = format or next((kind for start, kind in _SIGNATURES if head.startswith(start)), "")
    if not format and _is_film(head):
        raise InputError(
            f"{name}: is a film, and pictures are read; make them by ffmpeg -i FILM frames/%06d.png"
        )
    if not format:
        known = ", ".join(FORMATS)
        raise InputError(f"{name}: is no picture of a format that is read, {known}; convert it to one")
    return format


def _is_film(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a film."""
    avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return avi or head.startswith(_FILMS) or (head[4:8] == b"ftyp" and head[8:].startswith(_FILM_BRANDS))


@contextmanager
def damage(name: str, format: str) -> Iterator[None]:
    """Word what a decoder raises.

    Raises:
        InputError: The block raised another exception than a UserError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about the file
            yield
    except UserError:
        raise
    except MemoryError as error:
        raise InputError(f"{name}: there is not enough memory to decode it; cut it into parts") from error
    except Exception as error:  # the decoders' own kinds, struct.error, KeyError: anything, on hostile bytes
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{name}: the {format} data is damaged or cut short ({detail}); copy it again"
        ) from error


def write_image(target: Path | BinaryIO, image: Image, *, format: str | None = None) -> None:
    """Write `image` at its depth, with alpha and the metadata the format can hold; a path atomically.

    Integers are rounded to nearest and clipped. A JPEG is written at quality 95 without chroma subsampling,
    whatever the source had: tables taken over from a coarse source would put back what was just removed.
    WebP is lossless unless its source was lossy. It and PPM have no gray, so gray is written as equal R, G
    and B. A TIFF keeps a lossless compression and else gets deflate. `losses` says what is left out.

    Args:
        target: A path, or a binary stream, which need not be seekable.
        image: The picture.
        format: A value of `SUFFIXES`; by default the path's suffix says it, or `image.format` for a stream.

    Raises:
        OutputError: Unknown suffix, a depth, alpha or size the format cannot hold, or a failed write.
        ValueError: Pixels that are NaN or in HU for an integer file.
    """
    name = str(target if isinstance(target, Path) else getattr(target, "name", "standard output"))
    format = format or format_of(target) or ("" if isinstance(target, Path) else image.format)
    encode = FORMATS[format].encode if format in FORMATS else None
    if encode is None:
        known = ", ".join(WRITTEN_SUFFIXES)
        raise OutputError(f"{name}: no picture format is written by this name; use one of {known}")
    check_holds(name, image, format)
    samples = samples_of(image)
    if isinstance(target, Path):
        with atomic_write(target) as temporary, temporary.open("w+b") as stream:
            _encode(encode, name, stream, samples, image.metadata, format)
        return
    buffer = BytesIO()
    _encode(encode, name, buffer, samples, image.metadata, format)
    copy_file(buffer, target)


def suffixes_in_folders() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Suffixes of pictures that are taken from folders, and of those that are named as not read."""
    unread = () if can_read_heif() else FORMATS["HEIF"].suffixes
    unread += () if can_read_avif() else FORMATS["AVIF"].suffixes
    return tuple(suffix for suffix in SUFFIXES if suffix not in unread), (*FOREIGN_SUFFIXES, *unread)


def format_of(target: Path | BinaryIO) -> str | None:
    """Format of a file to write, by its suffix; None for an unknown one and for a stream."""
    return SUFFIXES.get(target.suffix.lower()) if isinstance(target, Path) else None


def losses(image: Image, format: str) -> list[str]:
    """Name what a picture has beside its pixels that a file of a format does not hold."""
    metadata, holds = image.metadata, FORMATS[format].holds
    lost = [name for field, name in _LOSSES.items() if field not in holds and getattr(metadata, field)]
    if format == "WEBP" and metadata.icc and not profile_in_webp(metadata.icc):
        lost.append("colour profile of gray")
    if "tiff_tags" not in holds and metadata.tiff_tags:
        lost.append(f"tags {', '.join(describe_tags(metadata))}")
    if "png_chunks" not in holds:
        kinds = dict.fromkeys(chunk[4:8].decode("latin-1") for chunk in told_chunks(metadata))
        lost += [f"chunk {kind}" for kind in kinds]
    return lost


def check_range(image: Image, name: str, *, has_option: bool = False) -> None:
    """Refuse a float picture whose values are on another scale than that of its white.

    Args:
        image: The picture.
        name: Of its file.
        has_option: Whether the value of white can be stated, by --white.

    Raises:
        InputError: More than one pixel in a hundred is far below black or above white, black is at the
            negative of white, or areas are below black.
    """
    if not image.depth.startswith("float"):
        return
    pixels, metadata = image.pixels, image.metadata
    if are_shifted(1 - pixels if metadata.min_is_white else pixels):
        full = metadata.white
        raise InputError(
            f"{name}: its values go from {-full:g} to {full:g}, and black is 0; add {full:g} to each and"
            " halve them first"
        )
    beyond = np.count_nonzero((pixels < LOWEST) | (pixels > HIGHEST))
    low, high = sorted(
        (1 - value if metadata.min_is_white else value) * metadata.white
        for value in (float(pixels.min()), float(pixels.max()))
    )
    if beyond > MOST_BEYOND * pixels.size:
        option = "state the value of white by --white, as --white 255, or " if has_option else ""
        raise InputError(
            f"{name}: its values go from {low:g} to {high:g}, but white is {metadata.white:g};"
            f" {option}divide the values by {'it' if has_option else 'that of white'}"
        )
    if not metadata.min_is_white and has_areas_below_black(pixels):
        raise InputError(
            f"{name}: its values go from {low:g} to {high:g}, and whole areas are below 0, which is black;"
            " add to each what makes black 0 first"
        )


def are_shifted(pixels: np.ndarray) -> bool:
    """Whether pixels go from -1 to 1, as others have them whose black is -1."""
    low, high = float(pixels.min()), float(pixels.max())
    if not -1 <= low < _SHIFTED or high > 1:
        return False
    return int(np.count_nonzero(pixels < _SHIFTED)) > MOST_BEYOND * pixels.size


def has_areas_below_black(pixels: np.ndarray) -> bool:
    """Whether areas of a picture, (C, H, W), are darker than 0, as where it goes from -0.5 to 0.5.

    The mean over channels is looked at, as a colour that a profile does not have is negative in one, and over
    pixels, as noise is negative in many.
    """
    height, width = (side // _AREA_PX for side in pixels.shape[1:])
    if not height or not width or float(pixels.min()) >= _DARKEST:
        return False
    whole = pixels[:, : height * _AREA_PX, : width * _AREA_PX].mean(0)
    means = whole.reshape(height, _AREA_PX, width, _AREA_PX).mean((1, 3))
    return int(np.count_nonzero(means < _DARKEST)) > MOST_BEYOND * means.size


def enlarged(metadata: Metadata, size: tuple[int, int], scale: int) -> Metadata:
    """Metadata of a picture after enlargement to a size, (width, height): it is as large on paper, of as many
    times the dots an inch, and EXIF and XMP say so, too. What places pixels elsewhere is left out."""
    resolution = metadata.resolution
    if resolution is not None and resolution.unit != "none":
        resolution = resolution._replace(x=resolution.x * scale, y=resolution.y * scale)
    return replace(
        metadata,
        resolution=resolution,
        tiff_tags=tuple(tag for tag in metadata.tiff_tags if tag.code not in OF_SIZE),
        png_chunks=tuple(chunk for chunk in metadata.png_chunks if chunk[4:8] not in PNG_PLACES),
        exif=metadata.exif and enlarged_exif(metadata.exif, size, scale),
        xmp=metadata.xmp and enlarged_xmp(metadata.xmp, size, scale),
    )


def of_the_old_size(metadata: Metadata) -> list[str]:
    """Name what an enlargement leaves out: where the pixels are, and how large."""
    tags = [tag for tag in metadata.tiff_tags if tag.code in OF_SIZE]
    # The shape that tifffile writes for itself is no loss.
    tags = [tag for tag in tags if not (tag.code == DESCRIPTION and tag.value.startswith(b'{"shape"'))]
    chunks = [chunk[4:8] for chunk in metadata.png_chunks if chunk[4:8] in PNG_PLACES]
    return [*describe_tags(replace(metadata, tiff_tags=tuple(tags))), *(kind.decode() for kind in chunks)]


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels, (C, H, W) in [0, 1], as uint8: (H, W) for C = 1, (H, W, C) else; rounded and clipped."""
    channels, height, width = pixels.shape
    samples = np.empty((height, width, channels), np.uint8)
    to_levels(pixels, samples.transpose(2, 0, 1))
    return samples[..., 0] if channels == 1 else samples


def make_image(name: str, decoded: Decoded, format: str, white: float) -> Image:
    """Make a picture as the models see it of what a decoder hands on.

    Raises:
        InputError: Pixels that are NaN or infinite, and are not said to have no value.
    """
    samples, orientation, metadata, nodata, notes, left_out, mended = decoded[:7]
    if orientation > 4:
        metadata = metadata.turned()
    samples = upright(samples, orientation)
    depth = samples.dtype.name
    is_float = samples.dtype.kind == "f"
    channels = samples.shape[2] - (samples.shape[2] + 1) % 2
    alpha = samples[..., channels].astype(depth) if samples.shape[2] > channels else None
    colour = samples[..., :channels].transpose(2, 0, 1)
    holes = None if nodata is None else find_holes(colour, nodata)
    if depth in ("uint8", "uint16") and holes is None and not metadata.min_is_white:
        # In memory of its own, in the order of a file, which is where the restored picture is put.
        stored = np.require(colour.transpose(1, 2, 0), requirements=("C", "W")).transpose(2, 0, 1)
        metadata = replace(metadata, white=1.0)
        return Image(stored, depth, format, alpha, metadata, holes, notes, left_out, mended)
    pixels = np.empty(colour.shape, np.float32)
    # With out and dtype given, numpy converts in small buffers: no float copy beside `pixels`.
    full = white if is_float else np.iinfo(depth).max
    np.divide(colour, np.float32(full), out=pixels, dtype=np.float32, casting="same_kind")
    if holes is not None:
        fill_holes(pixels, holes)
        count = int(np.count_nonzero(holes.where.any(0)))
        notes = (*notes, f"{counted(count, 'pixel')} without a value ({nodata:g}) kept as stored")
    if is_float:
        _check_finite(name, pixels)
    if metadata.min_is_white:
        np.subtract(1, pixels, out=pixels)
    metadata = replace(metadata, white=white if is_float else 1.0)
    return Image(pixels, depth, format, alpha, metadata, holes, notes, left_out, mended)


def _check_finite(name: str, pixels: np.ndarray) -> None:
    if np.isfinite(pixels.sum(dtype=np.float64)):
        return
    count = int(np.count_nonzero(~np.isfinite(pixels).all(0)))
    raise InputError(
        f"{name}: has {counted(count, 'NaN or infinite pixel')}, and no GDAL_NODATA tag says they have no"
        " value; replace them first"
    )


def check_holds(name: str, image: Image, format: str) -> None:
    """Refuse a picture that a format cannot hold.

    Raises:
        OutputError: It has no such depth, alpha, colours or size.
    """
    holds = FORMATS[format]
    if image.depth not in holds.depths:
        way_out = "write .png or .tif" if image.depth == "uint16" else "write .tif"
        raise OutputError(
            f"{name}: the picture is {image.depth}, a {format} holds {' or '.join(holds.depths)}; {way_out}"
        )
    if image.alpha is not None and not holds.alpha:
        raise OutputError(f"{name}: the picture has alpha, a {format} holds none; write .png or .tif")
    if format == "PGM" and len(image.pixels) == 3:
        raise OutputError(f"{name}: the picture has colours, a PGM holds none; write .ppm or .png")
    if image.alpha is not None and format == "GIF" and not np.isin(image.alpha, (0, 255)).all():
        raise OutputError(f"{name}: has half transparent pixels, a GIF holds none; write .png or .webp")
    if image.alpha is not None and format != "TIFF" and image.metadata.extra_sample == 1:
        raise OutputError(
            f"{name}: the colours are premultiplied by alpha, a {format} holds none such; write .tif"
        )
    if max(image.stored.shape) > holds.side_px:
        side = f"{max(image.stored.shape)} pixels a side, a {format} holds {holds.side_px}"
        raise OutputError(f"{name}: the picture has {side}; write .tif")


def samples_of(image: Image) -> np.ndarray:
    """Pixels and alpha as the file holds them: (H, W) or (H, W, S), of dtype `image.depth`."""
    channels, height, width = image.stored.shape
    whole = image.stored.dtype == image.depth and image.depth in ("uint8", "uint16")
    if whole and image.alpha is None and image.holes is None:
        samples = image.stored.transpose(1, 2, 0)
        return samples[..., 0] if channels == 1 else samples
    samples = np.empty((height, width, channels + (image.alpha is not None)), image.depth)
    if samples.dtype.kind == "f":
        colour = samples[..., :channels].transpose(2, 0, 1)
        pixels = 1 - image.pixels if image.metadata.min_is_white else image.pixels
        np.multiply(pixels, np.float32(image.metadata.white), out=colour, casting="same_kind")
    elif whole:
        samples[..., :channels] = image.stored.transpose(1, 2, 0)
    else:
        to_levels(image.pixels, samples[..., :channels].transpose(2, 0, 1))
    if image.holes is not None:
        samples[..., :channels].transpose(2, 0, 1)[image.holes.where] = image.holes.value
    if image.alpha is not None:
        if image.alpha.dtype != samples.dtype:
            raise ValueError(f"alpha is {image.alpha.dtype}, the picture {samples.dtype}")
        samples[..., channels] = image.alpha
    return samples[..., 0] if samples.shape[2] == 1 else samples


def _encode(
    encode: Encoder, name: str, stream: IO[bytes], samples: np.ndarray, metadata: Metadata, format: str
) -> None:
    try:
        encode(stream, samples, metadata)
    except OSError:
        raise  # of the disk, which atomic_write words
    except Exception as error:  # the encoders' own kinds: metadata too long for a JPEG, a picture too large
        detail = " ".join(str(error).split())[:120]
        raise OutputError(f"{name}: cannot be written as {format} ({detail}); write .png or .tif") from error


def picture_paths(folder: Path) -> list[Path]:
    """List all pictures below a folder, in the order of their paths; hidden files and folders left out.

    Raises:
        InputError: No such folder, or no picture in it.
    """
    if not folder.is_dir():
        what = "is a file, and pictures are looked for in a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}")
    paths = sorted(path for path in files_below(folder) if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: no pictures; looked for {', '.join(sorted(SUFFIXES))}")
    return paths


def read_channels(path: Path, channels: int) -> np.ndarray:
    """Read a picture with that many channels, (C, H, W), float32 in [0, 1].

    Colour becomes luma, rounded to 8 bits where the file has 8, as the gray versions of the common test sets
    were made; gray is repeated.

    Raises:
        InputError: The picture cannot be read, or its values are on another scale.
    """
    image = read_image(path)
    check_range(image, str(path))
    pixels = image.pixels
    if channels == 1 and len(pixels) == 3:
        pixels = gray(pixels)
        if image.depth == "uint8":
            pixels = np.rint(pixels * 255) / np.float32(255)
    elif channels == 3 and len(pixels) == 1:
        pixels = np.repeat(pixels, 3, axis=0)
    return pixels
