"""PNG: 1 to 16 bits, with colour and text chunks kept."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import Decoded, Metadata, Resolution, check_size, gray_palette
from deepgsr_cli.formats.exif import made_true
from deepgsr_cli.words import counted

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# What imagecodecs needs of a PNG. Fed anything else libpng may complain on stderr.
_PNG_CORE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Colour, text, and size and place of the pixels, copied as they are. tIME, sBIT, bKGD and the like would not
# be true of the new pixels.
_PNG_KEPT = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt", b"zTXt", b"iTXt", b"sTER")
PNG_PLACES = (b"sCAL", b"oFFs")  # x and y of which are not swapped
# Chunks of the specification; what is private is copied where its name says that this is safe.
_PNG_KNOWN = {*_PNG_CORE, *_PNG_KEPT, *PNG_PLACES, b"tIME", b"sBIT", b"bKGD", b"hIST", b"sPLT", b"dSIG"}
_PNG_KNOWN |= {b"iCCP", b"eXIf", b"pHYs", b"pCAL", b"gIFg", b"gIFx", b"acTL", b"fcTL", b"fdAT"}
# Without these a picture would look another way, or lack frames.
_PNG_NEEDED = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
_PNG_XMP = b"XML:com.adobe.xmp\0"
_METRES_PER_INCH, _METRES_PER_CM = 0.0254, 0.01
_PROFILE_BYTES = 2**26
_SRGB_GAMMA, _NEARLY = 45455, 500  # of gAMA, in 1 / 100000
# First column and row, and steps, of the seven passes of Adam7.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def decode_png(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    core: list[bytes | memoryview] = [PNG_SIGNATURE]
    kept: list[bytes] = []
    notes: list[str] = []
    icc = exif = xmp = resolution = None
    width = height = bits = 0
    colour_type = interlaced = -1
    profiles = 0
    data = memoryview(stream.read())
    length = len(PNG_SIGNATURE)
    kind = b""
    for kind, chunk in png_chunks(data, open_end=True):
        length += len(chunk)
        body = chunk[8:-4]
        if not kind:
            notes.append(f"its {chunk[4:8].tobytes().decode()} chunk is damaged and left out")
        if kind == b"IHDR":
            width, height, bits, colour_type, _, _, interlaced = struct.unpack_from(">IIBBBBB", body)
            check_size(name, width, height, max_pixels)
        if kind == b"acTL" and struct.unpack_from(">I", body)[0] > 1:
            raise InputError(f"{name}: is an animated PNG, and one picture is read; extract its frames first")
        if kind in _PNG_CORE:
            core.append(chunk)
        elif kind == b"iCCP":
            profiles += 1
            if profiles == 1:
                icc = _profile(bytes(body), notes)
        elif kind == b"eXIf":
            exif = bytes(body)
        elif kind == b"pHYs" and len(body) == 9:
            resolution = _resolution(*struct.unpack(">IIB", body))
        elif kind == b"iTXt" and body[: len(_PNG_XMP)] == _PNG_XMP:
            xmp = _xmp(bytes(body[len(_PNG_XMP) :]), notes)
        elif kind in (*_PNG_KEPT, *PNG_PLACES) or (kind not in _PNG_KNOWN and kind[3:4].islower()):
            kept.append(bytes(chunk))
    if kind != b"IEND":
        # Where pixels are missing, too, the decoder says so.
        core.append(png_chunk(b"IEND", b""))
        notes.append("its end is missing, and all pixels are there")
        length = len(data)
    if profiles > 1:
        notes.append(f"of its {profiles} colour profiles the first is kept")
    samples = _decode_interlaced(core, width, height) if interlaced == 1 else _decode(core)
    samples = samples.reshape(*samples.shape[:2], -1)
    if colour_type == 3:
        samples = gray_palette(samples, icc)
    orientation, exif, xmp = made_true(exif, xmp, (width, height))
    if orientation > 4:
        kept = [chunk for chunk in kept if chunk[4:8] not in PNG_PLACES]
    metadata = Metadata(icc=icc, exif=exif, xmp=xmp, resolution=resolution, png_chunks=tuple(kept))
    rest = len(data) - length
    left_out = (
        (f"what follows the picture in the file is left out ({counted(rest, 'byte')})",) if rest else ()
    )
    top = None if colour_type == 3 else 2**bits - 1
    mended = bool(notes)
    return Decoded(samples, orientation, metadata, None, tuple(notes), left_out, mended, top)


def _decode(core: list[bytes | memoryview]) -> np.ndarray:
    import imagecodecs

    return imagecodecs.png_decode(b"".join(core))


def _decode_interlaced(core: list[bytes | memoryview], width: int, height: int) -> np.ndarray:
    """Samples of an interlaced PNG, each pass decoded as a PNG of its own.

    libpng would do it at once, and say on the process' standard error how it wants to be called.
    """
    header = bytes(core[1])
    bits = header[16] * _CHANNELS[header[17]]
    others = [bytes(chunk) for chunk in core[2:-1] if bytes(chunk[4:8]) != b"IDAT"]
    passes = []
    for left, top, across, down in _ADAM7:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            passes.append((left, top, across, down, columns, rows, rows * (1 + (columns * bits + 7) // 8)))
    size = sum(one[-1] for one in passes)
    inflater = zlib.decompressobj()
    packed = b"".join(chunk[8:-4] for chunk in core[2:-1] if bytes(chunk[4:8]) == b"IDAT")
    raw = inflater.decompress(packed, size)
    if len(raw) < size:
        raise ValueError(f"{len(raw):,} of {size:,} bytes of its pixels are there")
    samples: np.ndarray | None = None
    at = 0
    for left, top, across, down, columns, rows, length in passes:
        part = struct.pack(">II", columns, rows) + header[16:20] + b"\0"
        data = png_chunk(b"IDAT", zlib.compress(raw[at : at + length], 1))
        chunks = [PNG_SIGNATURE, png_chunk(b"IHDR", part), *others, data, png_chunk(b"IEND", b"")]
        pixels = _decode(list(chunks))
        at += length
        if samples is None:
            samples = np.empty((height, width, *pixels.shape[2:]), pixels.dtype)
        samples[top::down, left::across] = pixels
    assert samples is not None  # the first pass of a picture is never empty
    return samples


def _profile(body: bytes, notes: list[str]) -> bytes | None:
    """Colour profile of an iCCP chunk; None, and a note, where it is damaged, as it costs no picture."""
    try:
        return _inflate(body[body.index(0) + 2 :])
    except (ValueError, zlib.error):
        notes.append("its colour profile is damaged and left out")
        return None


def _xmp(flags_languages_text: bytes, notes: list[str]) -> bytes | None:
    """XMP of the rest of an iTXt chunk; None, and a note, where it is damaged."""
    try:
        text = flags_languages_text[2:].split(b"\0", 2)[2]
        return _inflate(text) if flags_languages_text[0] else text
    except (ValueError, IndexError, zlib.error):
        notes.append("its XMP is damaged and left out")
        return None


def _resolution(x: int, y: int, unit: int) -> Resolution | None:
    if not x or not y:
        return None
    if unit != 1:
        return Resolution(x, y, "none")
    return Resolution(x * _METRES_PER_INCH, y * _METRES_PER_INCH)


def read_values(path: Path) -> np.ndarray:
    """Read the values of a PNG as they are in the file, (H, W) of a gray one, uint8 or uint16.

    For files whose values are measurements: nothing is scaled, turned or looked up in a palette.

    Raises:
        InputError: The file cannot be read.
    """
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            return np.asarray(image, np.uint16) if image.mode.startswith("I") else np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a PNG; export it again or leave it out") from error


def png_chunks(data: memoryview, *, open_end: bool = False) -> Iterator[tuple[bytes, memoryview]]:
    """Each chunk's type and the whole chunk, its checksum verified; nothing is missing once it ends.

    The type is empty where the checksum is wrong of a chunk that a picture can do without.

    Args:
        data: The file.
        open_end: Whether to end where the file does, be it before its last chunk.
    """
    at = len(PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            if open_end:
                return
            raise ValueError("its end is missing")
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if len(chunk) < 12 + length:
            raise ValueError(f"its {kind.decode('latin-1')} chunk is incomplete")
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            if not (kind.isalpha() and kind[:1].islower()) or kind in _PNG_NEEDED:
                raise ValueError(f"its {kind.decode('latin-1')} chunk has a wrong checksum")
            kind = b""
        yield kind, chunk
        at += len(chunk)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _inflate(data: bytes | memoryview) -> bytes:
    """A compressed profile or text; bounded, as a few kilobytes can claim gigabytes."""
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, _PROFILE_BYTES)
    if not inflater.eof:
        raise ValueError(f"a compressed chunk is incomplete or larger than {_PROFILE_BYTES:,} bytes")
    return text


# What a picture is packed to where more than runs of equal bytes can repeat in it, as in drawings.
_SIMPLE = 0.25


def encode_png(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    encoded = memoryview(_packed(samples))
    header = len(PNG_SIGNATURE) + 12 + 13  # the IHDR chunk; the others may all follow it
    stream.write(encoded[:header])
    for chunk in metadata_chunks(metadata):
        stream.write(chunk)
    stream.write(encoded[header:])


def _packed(samples: np.ndarray) -> bytes | bytearray:
    """A PNG of samples. A photograph is packed by one filter and runs alone, which takes a sixth of the time
    of all that zlib can look for, and mostly a few percent more bytes."""
    import imagecodecs

    # Noise can only grow when it is coded: by a byte a row, and by what zlib and the chunks add. imagecodecs
    # leaves no room for the rows of a high picture of a few columns.
    most = samples.nbytes + len(samples) + samples.nbytes // 64 + 2**14
    filter, strategy = imagecodecs.PNG.FILTER.PAETH, imagecodecs.PNG.STRATEGY.RLE
    packed = imagecodecs.png_encode(samples, level=1, strategy=strategy, filter=filter, out=most)
    if len(packed) > _SIMPLE * samples.nbytes:
        return packed
    return min(packed, imagecodecs.png_encode(samples, out=most), key=len)


def metadata_chunks(metadata: Metadata) -> Iterator[bytes]:
    """Chunks of a PNG that hold what it can of metadata."""
    if metadata.icc:
        yield png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc))
    if metadata.resolution:
        x, y, unit = metadata.resolution
        metres = {"inch": _METRES_PER_INCH, "cm": _METRES_PER_CM, "none": 1.0}[unit]
        whole = [min(max(1, round(value / metres)), 2**31 - 1) for value in (x, y)]
        yield png_chunk(b"pHYs", struct.pack(">IIB", *whole, unit != "none"))
    if metadata.exif:
        yield png_chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        yield png_chunk(b"iTXt", _PNG_XMP + bytes(4) + metadata.xmp)
    for comment in metadata.comments:
        yield png_chunk(b"tEXt", b"Comment\0" + comment.replace(b"\0", b" "))
    yield from metadata.png_chunks


def told_chunks(metadata: Metadata) -> list[bytes]:
    """List the chunks that are missed in another format: all but what is assumed there, sRGB and its gamma.

    A gamma beside sRGB or a profile is for readers that know neither.
    """
    kinds = {chunk[4:8] for chunk in metadata.png_chunks}
    overruled = metadata.icc is not None or not kinds.isdisjoint((b"sRGB", b"cICP"))
    return [
        chunk
        for chunk in metadata.png_chunks
        if chunk[4:8] != b"sRGB"
        and not (
            chunk[4:8] == b"gAMA"
            and (overruled or abs(int.from_bytes(chunk[8:12], "big") - _SRGB_GAMMA) < _NEARLY)
        )
    ]
