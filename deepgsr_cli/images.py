"""Pictures in and out: PNG, JPEG, TIFF, WebP and BMP at their own depth, with alpha and metadata kept.

Each format has the reader that loses nothing of it. PNG goes through imagecodecs (libpng), because Pillow
cuts 16-bit colour to 8 bits; its metadata chunks, which imagecodecs does not handle, are read and written
here. TIFF goes through tifffile, JPEG and BMP through Pillow; WebP is decoded by imagecodecs (Pillow refuses
large ones by a limit that is global to the process) and encoded by Pillow, which writes its metadata.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from deepgsr_cli.errors import InputError, OutputError, UserError
from deepgsr_cli.files import atomic_write

if TYPE_CHECKING:
    import tifffile

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
}
MAX_PIXELS = 2**29

_DEPTHS = ("uint8", "uint16", "float16", "float32", "float64")


class _Holds(NamedTuple):
    """What a format can hold."""

    depths: tuple[str, ...]
    alpha: bool
    side_px: int


_HOLDS = {
    "PNG": _Holds(_DEPTHS[:2], True, 2**31 - 1),
    "JPEG": _Holds(_DEPTHS[:1], False, 65500),  # JPEG_MAX_DIMENSION of libjpeg
    "TIFF": _Holds(_DEPTHS, True, 2**32 - 1),
    "WEBP": _Holds(_DEPTHS[:1], True, 16383),
    "BMP": _Holds(_DEPTHS[:1], False, 2**31 - 1),
}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (
    (_PNG_SIGNATURE, "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)

# What imagecodecs needs of a PNG. Fed anything else libpng may complain on stderr.
_PNG_CORE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Colour and text, copied as they are. tIME, and sBIT, bKGD and the like, would not be true of the new pixels.
_PNG_KEPT = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt", b"zTXt", b"iTXt")
_PNG_XMP = b"XML:com.adobe.xmp\0"
_METRES_PER_INCH = 0.0254
_PROFILE_BYTES = 2**26

# EXIF and TIFF share these: description, make, model, date, artist, copyright.
_DESCRIPTION = 270
_TEXT_TAGS = (_DESCRIPTION, 271, 272, 306, 315, 33432)
_ORIENTATION = 274
_MOST_PAGES = 10_000
_TIFF_COMPRESSIONS = ("none", "lzw", "adobe_deflate", "packbits", "zstd", "lzma")
_TIFF_PREDICTED = ("lzw", "adobe_deflate", "zstd")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says beside its pixels, and how its pixels were stored.

    Attributes:
        icc: ICC profile.
        exif: EXIF as a TIFF block (no `Exif` prefix), orientation 1. From a TIFF: its text tags only.
        xmp: XMP packet.
        dpi: Pixels per inch, (x, y). PNG and BMP store whole pixels per metre: 300 comes back as 299.9994.
        white: Stored value that stands for 1 in a float file.
        lossless: Whether a WebP is written without loss.
        tiff_compression: Compression a TIFF is written with.
        extra_sample: TIFF ExtraSamples code of alpha: 0 unspecified, 1 premultiplied, 2 straight.
        png_chunks: Colour and text chunks of a PNG, whole, copied to a PNG only.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    white: float = 1.0
    lossless: bool = True
    tiff_compression: str = "adobe_deflate"
    extra_sample: int = 2
    png_chunks: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Image:
    """A picture or slice as the models see it, with what is needed to write it back.

    Attributes:
        pixels: float32, (C, H, W), C 1 or 3; [0, 1] for integer files, not clipped for float files.
        depth: Sample type of the file and of what will be written: uint8, uint16, float16, float32, float64.
        format: PNG, JPEG, TIFF, WEBP or BMP for pictures.
        alpha: (H, W) in `depth`, as stored; None where there is none.
        unit: Unit of the pixels: "[0,1]" or "HU".
        metadata: Carried from file to file.
    """

    pixels: np.ndarray
    depth: str
    format: str
    alpha: np.ndarray | None = None
    unit: str = "[0,1]"
    metadata: Metadata = field(default_factory=Metadata)


Encoder = Callable[[IO[bytes], np.ndarray, Metadata, str], None]


class _Decoded(NamedTuple):
    samples: np.ndarray  # (H, W, S) as stored, upright or not; with S 2 or 4 the last is alpha
    orientation: int  # EXIF's 1 to 8
    metadata: Metadata


def read_image(source: Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, white: float = 1.0) -> Image:
    """Picture in a file or stream, upright, at most one decoded copy beside its float32 pixels in memory.

    The content says the format, whatever the suffix. Depth is the file's sample type; 1- to 7-bit samples
    are widened to uint8 and 9- to 15-bit ones to uint16. Palettes become RGB, or gray when every colour in
    use is gray and no ICC profile says otherwise; a transparent colour becomes alpha. A TIFF's previews
    are skipped, and its EXIF beyond the text tags is not kept.

    Args:
        source: A path, or a binary stream, which is read to its end.
        max_pixels: Most pixels (width times height) the header may claim; checked before decoding.
        white: Stored value that stands for 1 in a float file.

    Raises:
        InputError: Missing, unreadable, damaged, too large, animated, of several pages, or of a kind that is
            not read: CMYK, signed, 32-bit integer or complex samples.
    """
    if not isinstance(source, Path):
        name = str(getattr(source, "name", "standard input"))
        return _read(name, BytesIO(source.read()), max_pixels, white)
    try:
        if source.is_dir():
            raise InputError(f"{source}: is a folder, not a picture; give a file in it")
        with source.open("rb") as stream:
            return _read(
                str(source), stream if stream.seekable() else BytesIO(stream.read()), max_pixels, white
            )
    except FileNotFoundError as error:
        raise InputError(f"{source}: there is no such file; check the path") from error
    except PermissionError as error:
        raise InputError(f"{source}: there is no permission to read it; change its mode") from error
    except OSError as error:
        raise InputError(f"{source}: cannot be read, {error.strerror or error}; check the path") from error


def write_image(target: Path | BinaryIO, image: Image, *, format: str | None = None) -> None:
    """Write `image` at its depth, with alpha and the metadata the format can hold; a path atomically.

    Integers are rounded to nearest and clipped. A JPEG is written at quality 95 without chroma subsampling,
    whatever the source had: tables taken over from a coarse source would put back what was just removed.
    WebP is lossless unless its source was lossy; it has no gray, so gray is written as equal R, G and B. A
    TIFF keeps a lossless compression and else gets deflate; of EXIF it holds the text tags.

    Args:
        target: A path, or a binary stream, which need not be seekable.
        image: The picture.
        format: A value of `SUFFIXES`; by default the path's suffix says it, or `image.format` for a stream.

    Raises:
        OutputError: Unknown suffix, a depth, alpha or size the format cannot hold, or a failed write.
        ValueError: Pixels that are NaN or in HU for an integer file.
    """
    name = str(target if isinstance(target, Path) else getattr(target, "name", "standard output"))
    if format is None:
        format = SUFFIXES.get(target.suffix.lower()) if isinstance(target, Path) else image.format
    if format not in _HOLDS:
        raise OutputError(
            f"{name}: no picture format is known by this name; use one of {', '.join(SUFFIXES)}"
        )
    _check_holds(name, image, format)
    encode = {"PNG": _encode_png, "TIFF": _encode_tiff}.get(format, _encode_pillow)
    samples = _samples(image)
    if isinstance(target, Path):
        with atomic_write(target) as temporary, temporary.open("wb") as stream:
            _encode(encode, name, stream, samples, image.metadata, format)
        return
    buffer = BytesIO()
    _encode(encode, name, buffer, samples, image.metadata, format)
    try:
        target.write(buffer.getbuffer())
        target.flush()
    except OSError as error:
        raise OutputError(
            f"{name}: cannot be written, {error.strerror or error}; give a file instead"
        ) from error


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels, (C, H, W) in [0, 1], as uint8: (H, W) for C = 1, (H, W, C) else; rounded and clipped."""
    channels, height, width = pixels.shape
    samples = np.empty((height, width, channels), np.uint8)
    _quantise(pixels, samples)
    return samples[..., 0] if channels == 1 else samples


def _read(name: str, stream: IO[bytes], max_pixels: int, white: float) -> Image:
    head = stream.read(16)
    stream.seek(0)
    if not head:
        raise InputError(f"{name}: the file is empty; copy or export it again")
    format = "WEBP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else ""
    format = format or next((kind for start, kind in _SIGNATURES if head.startswith(start)), "")
    if not format:
        raise InputError(f"{name}: is not a PNG, JPEG, TIFF, WebP or BMP picture; convert it to one")
    decode = {"PNG": _decode_png, "TIFF": _decode_tiff, "WEBP": _decode_webp}.get(format, _decode_pillow)
    try:
        decoded = decode(name, stream, max_pixels)
    except UserError:
        raise
    except MemoryError as error:
        raise InputError(f"{name}: there is not enough memory to decode it; cut it into parts") from error
    except Exception as error:  # the decoders' own kinds, struct.error, KeyError: anything, on hostile bytes
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{name}: the {format} data is damaged or cut short ({detail}); copy it again"
        ) from error
    return _image(decoded, format, white)


def _image(decoded: _Decoded, format: str, white: float) -> Image:
    samples, orientation, metadata = decoded
    if orientation > 4 and metadata.dpi:
        metadata = replace(metadata, dpi=metadata.dpi[::-1])
    samples = _upright(samples, orientation)
    depth = samples.dtype.name
    is_float = samples.dtype.kind == "f"
    channels = samples.shape[2] - (samples.shape[2] + 1) % 2
    alpha = samples[..., channels].astype(depth) if samples.shape[2] > channels else None
    colour = samples[..., :channels].transpose(2, 0, 1)
    pixels = np.empty(colour.shape, np.float32)
    # With out and dtype given, numpy converts in small buffers: no float copy beside `pixels`.
    full = white if is_float else np.iinfo(depth).max
    np.divide(colour, np.float32(full), out=pixels, dtype=np.float32, casting="same_kind")
    return Image(pixels, depth, format, alpha, metadata=replace(metadata, white=white if is_float else 1.0))


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if not width * height:
        raise ValueError(f"{width} x {height} pixels")
    if width * height > max_pixels:
        size = f"{width} x {height} pixels are more than the {max_pixels:,} allowed"
        raise InputError(f"{name}: {size}; if the file is sound, raise --max-pixels")


def _gray_palette(samples: np.ndarray, icc: bytes | None) -> np.ndarray:
    """`samples` (H, W, 3 or 4) of a palette picture, gray where its colours are; a profile may be RGB's."""
    red = samples[..., 0]
    if icc is None and np.array_equal(red, samples[..., 1]) and np.array_equal(red, samples[..., 2]):
        return np.delete(samples, (1, 2), axis=2)
    return samples


# PNG


def _decode_png(name: str, stream: IO[bytes], max_pixels: int) -> _Decoded:
    import imagecodecs

    core: list[bytes | memoryview] = [_PNG_SIGNATURE]
    kept: list[bytes] = []
    icc = exif = xmp = dpi = None
    colour_type = -1
    for kind, chunk in _png_chunks(memoryview(stream.read())):
        body = chunk[8:-4]
        if kind == b"IHDR":
            width, height, _, colour_type = struct.unpack_from(">IIBB", body)
            _check_size(name, width, height, max_pixels)
        if kind == b"acTL":
            raise InputError(f"{name}: is an animated PNG; extract its frames first")
        if kind in _PNG_CORE:
            core.append(chunk)
        elif kind == b"iCCP":
            icc = _inflate(body[bytes(body).index(0) + 2 :])
        elif kind == b"eXIf":
            exif = bytes(body)
        elif kind == b"pHYs":
            x, y, unit = struct.unpack(">IIB", body)
            dpi = (x * _METRES_PER_INCH, y * _METRES_PER_INCH) if unit == 1 else None
        elif kind == b"iTXt" and body[: len(_PNG_XMP)] == _PNG_XMP:
            flags_languages_text = bytes(body[len(_PNG_XMP) :])
            text = flags_languages_text[2:].split(b"\0", 2)[2]
            xmp = _inflate(text) if flags_languages_text[0] else text
        elif kind in _PNG_KEPT:
            kept.append(bytes(chunk))
    samples = imagecodecs.png_decode(b"".join(core))
    samples = samples.reshape(*samples.shape[:2], -1)
    if colour_type == 3:
        samples = _gray_palette(samples, icc)
    orientation, exif, xmp = _reset_orientation(exif, xmp)
    return _Decoded(samples, orientation, Metadata(icc, exif, xmp, dpi, png_chunks=tuple(kept)))


def _png_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Each chunk's type and the whole chunk, its checksum verified; nothing is missing once it ends."""
    at = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("its end is missing")
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if len(chunk) < 12 + length:
            raise ValueError(f"its {kind.decode('latin-1')} chunk is incomplete")
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError(f"its {kind.decode('latin-1')} chunk has a wrong checksum")
        yield kind, chunk
        at += len(chunk)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _inflate(data: bytes | memoryview) -> bytes:
    """A compressed profile or text; bounded, as a few kilobytes can claim gigabytes."""
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, _PROFILE_BYTES)
    if not inflater.eof:
        raise ValueError(f"a compressed chunk is incomplete or larger than {_PROFILE_BYTES:,} bytes")
    return text


def _encode_png(stream: IO[bytes], samples: np.ndarray, metadata: Metadata, format: str) -> None:
    import imagecodecs

    encoded = memoryview(imagecodecs.png_encode(samples))
    header = len(_PNG_SIGNATURE) + 12 + 13  # the IHDR chunk; the others may all follow it
    stream.write(encoded[:header])
    if metadata.icc:
        stream.write(_png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi:
        x, y = (round(dots / _METRES_PER_INCH) for dots in metadata.dpi)
        stream.write(_png_chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    if metadata.exif:
        stream.write(_png_chunk(b"eXIf", metadata.exif))
    if metadata.xmp:
        stream.write(_png_chunk(b"iTXt", _PNG_XMP + bytes(4) + metadata.xmp))
    for chunk in metadata.png_chunks:
        stream.write(chunk)
    stream.write(encoded[header:])


# JPEG, BMP and WebP


def _decode_pillow(name: str, stream: IO[bytes], max_pixels: int) -> _Decoded:
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.JpegImagePlugin import JpegImageFile

    # Not PIL.Image.open: its limit on pixels is a global of the process and below max_pixels.
    kind = JpegImageFile if stream.read(2) == b"\xff\xd8" else BmpImageFile
    stream.seek(0)
    with kind(stream) as picture:
        width, height = picture.size
        _check_size(name, width, height, max_pixels)
        if picture.mode == "CMYK":
            raise InputError(f"{name}: is a CMYK picture, and gray and RGB are read; convert it to RGB")
        mode = {"1": "L", "P": "RGB"}.get(picture.mode, picture.mode)
        samples = np.empty((height, width, len(mode)), np.uint8)
        # numpy's own reading of a picture takes two copies of it in bytes.
        for top, bottom in _bands(height, samples[0].size):
            band = picture.crop((0, top, width, bottom)).convert(mode)
            samples[top:bottom] = np.asarray(band).reshape(-1, width, len(mode))
        if picture.mode == "P":
            samples = _gray_palette(samples, None)
        info = picture.info
    exif = info.get("exif", b"").removeprefix(b"Exif\0\0") or None
    orientation, exif, xmp = _reset_orientation(exif, info.get("xmp"))
    dpi = (float(info["dpi"][0]), float(info["dpi"][1])) if "dpi" in info else None
    return _Decoded(samples, orientation, Metadata(info.get("icc_profile"), exif, xmp, dpi))


def _decode_webp(name: str, stream: IO[bytes], max_pixels: int) -> _Decoded:
    import imagecodecs

    data = stream.read()
    chunks = dict(_webp_chunks(memoryview(data)))
    if b"ANIM" in chunks or b"ANMF" in chunks:
        raise InputError(f"{name}: is an animated WebP; extract its frames first")
    if b"VP8L" in chunks:
        (bits,) = struct.unpack_from("<I", chunks[b"VP8L"], 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", chunks[b"VP8 "], 6))
    _check_size(name, width, height, max_pixels)
    if canvas := chunks.get(b"VP8X"):
        across, down = (1 + int.from_bytes(canvas[at : at + 3], "little") for at in (4, 7))
        _check_size(name, across, down, max_pixels)
    samples = imagecodecs.webp_decode(data)
    icc, exif, xmp = (bytes(chunks.get(kind, b"")) or None for kind in (b"ICCP", b"EXIF", b"XMP "))
    orientation, exif, xmp = _reset_orientation(exif and exif.removeprefix(b"Exif\0\0"), xmp)
    return _Decoded(samples, orientation, Metadata(icc, exif, xmp, lossless=b"VP8L" in chunks))


def _webp_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """RIFF chunks of a WebP: type and body."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise ValueError(f"{len(data):,} of {end:,} bytes are there")
    at = 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _encode_pillow(stream: IO[bytes], samples: np.ndarray, metadata: Metadata, format: str) -> None:
    from PIL import Image as Pillow

    options: dict[str, object] = {}
    if format != "BMP":
        prefix = b"Exif\0\0" if format == "JPEG" else b""
        options |= {"icc_profile": metadata.icc, "exif": prefix + metadata.exif if metadata.exif else b""}
        options |= {"xmp": metadata.xmp or b"", "quality": 95}
    if format == "JPEG":
        options |= {"subsampling": "4:4:4"}
    if format == "WEBP":
        options |= {"lossless": metadata.lossless, "exact": True}  # exact keeps colour where alpha is 0
    elif metadata.dpi:
        options |= {"dpi": metadata.dpi}
    Pillow.fromarray(samples).save(stream, format, **options)


# TIFF


def _decode_tiff(name: str, stream: IO[bytes], max_pixels: int) -> _Decoded:
    import tifffile

    with tifffile.TiffFile(stream) as tiff:
        # Bounded, as the chain of pages in a damaged file can be a circle, which tifffile follows for ever.
        pages = [page for page in islice(tiff.pages, _MOST_PAGES) if not page.is_reduced]
        count = max(len(pages), int((tiff.imagej_metadata or {}).get("images", 1)))
        if len(pages) != 1 or count > 1:
            raise InputError(
                f"{name}: has {count if pages else 0} full-size pages, one is read; split it into files"
            )
        page = pages[0]
        _check_size(name, page.imagewidth, page.imagelength, max_pixels)
        if misfit := _tiff_misfit(page):
            raise InputError(
                f"{name}: has {misfit}, and gray and RGB of 1 to 16 bits or floats are read; convert it"
            )
        size = stream.seek(0, 2)
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        if any(offset + length > size for offset, length in segments):
            raise ValueError("its pixels go past the end of the file")
        if len(segments) < np.prod(page.chunked):
            raise ValueError(f"{len(segments)} of {np.prod(page.chunked)} strips or tiles are there")
        samples = page.asarray()
        described = not (
            page.is_shaped or page.is_imagej or page.is_ome
        )  # else the text is about the old array
        tags = {tag.code: tag.value for tag in page.tags}
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples.reshape(*samples.shape[:2], -1)
    icc = bytes(tags[34675]) if 34675 in tags else None
    samples = _tiff_samples(samples, page, icc)
    texts = {
        code: tags[code].encode()
        for code in _TEXT_TAGS
        if isinstance(tags.get(code), str) and (described or code != _DESCRIPTION)
    }
    orientation = tags.get(_ORIENTATION, 1)
    xmp = bytes(tags[700]) if 700 in tags else None
    compression = page.compression.name.lower()
    metadata = Metadata(
        icc=icc,
        exif=_exif_of(texts) if texts else None,
        xmp=_upright_xmp(xmp) if orientation != 1 else xmp,
        dpi=_tiff_dpi(tags),
        tiff_compression=compression if compression in _TIFF_COMPRESSIONS else "adobe_deflate",
        extra_sample=int(page.extrasamples[0]) if page.extrasamples else 0,
    )
    return _Decoded(samples, int(orientation), metadata)


def _tiff_misfit(page: tifffile.TiffPage) -> str:
    """What of a page cannot be read, as words; empty when all can."""
    from tifffile import COMPRESSION, PHOTOMETRIC

    photometric = page.photometric
    colours: dict[int, int] = {
        PHOTOMETRIC.MINISWHITE: 1,
        PHOTOMETRIC.MINISBLACK: 1,
        PHOTOMETRIC.PALETTE: 1,
        PHOTOMETRIC.RGB: 3,
    }
    if page.compression == COMPRESSION.JPEG:
        colours[PHOTOMETRIC.YCBCR] = 3  # decoded to RGB
    if photometric not in colours:
        return f"{getattr(photometric, 'name', photometric)} colours"
    # Two bands without an ExtraSamples tag are not gray with alpha, so axes and the tag have to agree.
    allowed = (0, 1) if photometric != PHOTOMETRIC.PALETTE else (0,)
    extra = page.samplesperpixel - colours[photometric]
    if extra not in allowed or page.axes not in ("YX", "YXS", "SYX"):
        return f"{page.samplesperpixel} samples a pixel and axes {page.axes}"
    dtype = page.dtype
    if dtype is None or (dtype.name not in _DEPTHS and dtype.kind != "b"):
        return f"{page.bitspersample}-bit {dtype or page.sampleformat} samples"
    return ""


def _tiff_samples(samples: np.ndarray, page: tifffile.TiffPage, icc: bytes | None) -> np.ndarray:
    """(H, W, S) with 0 black, over the whole range of its dtype."""
    from tifffile import PHOTOMETRIC

    if page.photometric == PHOTOMETRIC.PALETTE:
        if page.colormap is None:
            raise ValueError("its colour map is missing")
        # A 16-bit colour map holds 8-bit colours times 256 or 257.
        return _gray_palette((page.colormap.T >> 8).astype(np.uint8)[samples[..., 0].astype(np.intp)], icc)
    if samples.dtype.kind == "b":
        samples = samples.astype(np.uint8) * np.uint8(255)
    elif samples.dtype.kind == "u" and page.bitspersample < 8 * samples.dtype.itemsize:
        top, full = 2**page.bitspersample - 1, np.iinfo(samples.dtype).max
        samples = ((samples.astype(np.uint32) * full + top // 2) // top).astype(samples.dtype.name)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        gray = samples[..., 0]
        np.subtract(1 if gray.dtype.kind == "f" else np.iinfo(gray.dtype).max, gray, out=gray)
    return samples


def _tiff_dpi(tags: dict[int, Any]) -> tuple[float, float] | None:
    """Pixels per inch; None where the unit is none, which gives a ratio only."""
    per_inch = {2: 1.0, 3: 2.54}.get(int(tags.get(296, 2)))
    if per_inch is None or 282 not in tags or 283 not in tags:
        return None
    (x, x_by), (y, y_by) = tags[282], tags[283]
    return (x / x_by * per_inch, y / y_by * per_inch) if x_by and y_by else None


def _encode_tiff(stream: IO[bytes], samples: np.ndarray, metadata: Metadata, format: str) -> None:
    import tifffile

    colours = 1 if samples.ndim == 2 or samples.shape[2] == 2 else 3
    has_alpha = samples.ndim == 3 and samples.shape[2] in (2, 4)
    tags = [(code, 2, len(text) + 1, text + b"\0", True) for code, text in _texts(metadata.exif or b"")]
    if metadata.xmp:
        tags.append((700, 1, len(metadata.xmp), metadata.xmp, True))
    tifffile.imwrite(
        stream,
        samples,
        photometric="minisblack" if colours == 1 else "rgb",
        planarconfig="contig" if samples.ndim == 3 else None,
        extrasamples=[metadata.extra_sample] if has_alpha else None,
        compression=metadata.tiff_compression,
        predictor=metadata.tiff_compression in _TIFF_PREDICTED,
        iccprofile=metadata.icc,
        resolution=metadata.dpi,
        resolutionunit="inch" if metadata.dpi else None,
        extratags=tags,
        metadata=None,
        software=False,
    )


# Orientation and EXIF


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """View of `samples` (H, W, S) as it is to be seen; Exif 2.32, tag 0x0112."""
    if orientation > 4:
        samples = samples.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples


def _reset_orientation(exif: bytes | None, xmp: bytes | None) -> tuple[int, bytes | None, bytes | None]:
    """The orientation `exif` asks for, and both blocks asking for none; every other byte as it was."""
    for tag, kind, _, at, order in _exif_entries(exif or b""):
        if tag == _ORIENTATION and exif and kind in (3, 4):
            number = struct.Struct(order + {3: "H", 4: "I"}[kind])
            (orientation,) = number.unpack_from(exif, at)
            if 2 <= orientation <= 8:
                exif = exif[:at] + number.pack(1) + exif[at + number.size :]
                return orientation, exif, _upright_xmp(xmp)
    return 1, exif, xmp


def _upright_xmp(xmp: bytes | None) -> bytes | None:
    return xmp and re.sub(rb"(tiff:Orientation(?:>|=[\"']))\d", rb"\g<1>1", xmp)


def _exif_entries(exif: bytes) -> Iterator[tuple[int, int, int, int, str]]:
    """Tag, type, count, position of the value, and byte order of each entry of the first directory.

    A damaged block has as many entries as can be read: it travels along, and no picture is lost for it.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "")
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length, offset = struct.unpack_from(order + "HHII", exif, at)
            size = length * {1: 1, 2: 1, 3: 2, 4: 4}.get(kind, 8)
            yield tag, kind, length, at + 8 if size <= 4 else offset, order
    except struct.error:
        return


def _texts(exif: bytes) -> Iterator[tuple[int, bytes]]:
    """The text tags TIFF shares with EXIF, without their final zero."""
    for tag, kind, length, at, _ in _exif_entries(exif):
        if tag in _TEXT_TAGS and kind == 2:
            yield tag, exif[at : at + length].rstrip(b"\0")


def _exif_of(texts: dict[int, bytes]) -> bytes:
    """EXIF of nothing but text tags."""
    start = 8 + 2 + 12 * len(texts) + 4
    directory, values = struct.pack("<2sHIH", b"II", 42, 8, len(texts)), b""
    for tag, text in sorted(texts.items()):
        text += b"\0"
        place = text.ljust(4, b"\0") if len(text) <= 4 else struct.pack("<I", start + len(values))
        directory += struct.pack("<HHI", tag, 2, len(text)) + place
        values += text if len(text) > 4 else b""
    return directory + bytes(4) + values


# Writing


def _check_holds(name: str, image: Image, format: str) -> None:
    holds = _HOLDS[format]
    if image.depth not in holds.depths:
        way_out = "write .png or .tif" if image.depth == "uint16" else "write .tif"
        raise OutputError(
            f"{name}: the picture is {image.depth}, a {format} holds {' or '.join(holds.depths)}; {way_out}"
        )
    if image.alpha is not None and not holds.alpha:
        raise OutputError(f"{name}: the picture has alpha, a {format} holds none; write .png or .tif")
    if image.alpha is not None and format != "TIFF" and image.metadata.extra_sample == 1:
        raise OutputError(
            f"{name}: the colours are premultiplied by alpha, a {format} holds none such; write .tif"
        )
    if max(image.pixels.shape) > holds.side_px:
        side = f"{max(image.pixels.shape)} pixels a side, a {format} holds {holds.side_px}"
        raise OutputError(f"{name}: the picture has {side}; write .tif")


def _samples(image: Image) -> np.ndarray:
    """Pixels and alpha as the file holds them: (H, W) or (H, W, S), of dtype `image.depth`."""
    channels, height, width = image.pixels.shape
    samples = np.empty((height, width, channels + (image.alpha is not None)), image.depth)
    if samples.dtype.kind == "f":
        colour = samples[..., :channels].transpose(2, 0, 1)
        np.multiply(image.pixels, np.float32(image.metadata.white), out=colour, casting="same_kind")
    elif image.unit != "[0,1]":
        raise ValueError(f"pixels in {image.unit} cannot be written as {image.depth}")
    else:
        _quantise(image.pixels, samples[..., :channels])
    if image.alpha is not None:
        if image.alpha.dtype != samples.dtype:
            raise ValueError(f"alpha is {image.alpha.dtype}, the picture {samples.dtype}")
        samples[..., channels] = image.alpha
    return samples[..., 0] if samples.shape[2] == 1 else samples


def _quantise(pixels: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` (H, W, C), of an unsigned integer dtype, from pixels (C, H, W) in [0, 1]."""
    full = np.iinfo(out.dtype).max
    for top, bottom in _bands(len(out), out[:1].size):
        band = pixels[:, top:bottom] * np.float32(full)
        if np.isnan(band).any():
            raise ValueError("pixels are NaN")
        np.clip(np.rint(band, out=band), 0, full, out=band)
        out[top:bottom] = band.transpose(1, 2, 0)


def _bands(height: int, row: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 row of each band of about a million samples, `row` samples a row."""
    step = max(1, 2**20 // max(1, row))
    for top in range(0, height, step):
        yield top, min(top + step, height)


def _encode(
    encode: Encoder, name: str, stream: IO[bytes], samples: np.ndarray, metadata: Metadata, format: str
) -> None:
    try:
        encode(stream, samples, metadata, format)
    except OSError:
        raise  # of the disk, which atomic_write words
    except Exception as error:  # the encoders' own kinds: metadata too long for a JPEG, a picture too large
        detail = " ".join(str(error).split())[:120]
        raise OutputError(f"{name}: cannot be written as {format} ({detail}); write .png or .tif") from error
