"""Files of several pictures, pages or frames: read and written one by one, in the memory of one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

from deepgsr_cli.errors import InputError, OutputError
from deepgsr_cli.files import atomic_write, copy_file
from deepgsr_cli.formats.avif import avif_bits, check_can_read, describe_avif
from deepgsr_cli.formats.codecs import MAX_PIXELS, Decoded, Metadata, check_size
from deepgsr_cli.formats.exif import read_exif
from deepgsr_cli.formats.gif import begin_gif, check_canvas, end_gif, write_gif_frame
from deepgsr_cli.formats.image import (
    Image,
    check_holds,
    damage,
    make_image,
    opened,
    samples_of,
    sniff,
)
from deepgsr_cli.formats.png import (
    PNG_SIGNATURE,
    decode_png,
    encode_png,
    metadata_chunks,
    png_chunk,
    png_chunks,
)
from deepgsr_cli.formats.tiff import (
    MOST_CLASSIC_BYTES,
    append_directories,
    byte_order,
    decode_page,
    describe_planes,
    full_pages,
    planes_in,
    previews_note,
    write_page,
)
from deepgsr_cli.formats.webp import encode_webp, profile_in_webp, webp_chunks

# Formats that hold several pictures; a TIFF holds any, the others frames that are shown one after another.
PAGED = ("TIFF", "GIF", "PNG", "WEBP")
_PNG_MODES = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}


@dataclass(frozen=True)
class Pages:
    """The pictures of one file, in order.

    Attributes:
        format: Of the file.
        count: How many there are.
        read: Yields them, one in memory at a time.
        plays: How often an animation is shown, 0 for ever.
        still_first: Whether the first is no frame of the animation, but shown where none can be.
        left_out: Sentences without an end on what of the file is not read, and is lost unless the file is
            copied.
        has_alpha: Whether frames of an animation may have transparent pixels.
    """

    format: str
    count: int
    read: Callable[[], Iterator[Image]]
    plays: int = 1
    still_first: bool = False
    left_out: tuple[str, ...] = ()
    has_alpha: bool = False


def open_pages(source: Path | BytesIO, *, max_pixels: int = MAX_PIXELS, white: float = 1.0) -> Pages | None:
    """Find the pictures of a file that has several; None for one, and for what `read_image` refuses.

    Args:
        source: A path, or a stream that is read from its start.
        max_pixels: Most pixels that each may have.
        white: Stored value that stands for 1 in a float file.

    Raises:
        InputError: The file cannot be read, or its pictures are of a kind that is not.
    """
    name = str(source) if isinstance(source, Path) else "standard input"
    finders = {
        "TIFF": _tiff_pages,
        "GIF": _gif_frames,
        "PNG": _png_frames,
        "WEBP": _webp_frames,
        "AVIF": _avif_frames,
    }
    with opened(source) as stream:
        format = sniff(name, stream)
        if format not in finders:
            return None
        with damage(name, format):
            return finders[format](_File(name, source, max_pixels, white), stream)


def write_pages(target: Path | BinaryIO, images: Iterator[Image], pages: Pages, format: str) -> None:
    """Write pictures to one file, each as it comes; a path atomically.

    Args:
        target: A path, or a binary stream.
        images: The pictures, as many as `pages` has.
        pages: The file they are from.
        format: One of `PAGED`.

    Raises:
        OutputError: The format holds no such pictures, or the write failed.
    """
    name = str(target) if isinstance(target, Path) else "standard output"
    check_paged(name, pages, format)
    encode = {"TIFF": _write_tiff, "GIF": _write_gif, "PNG": _write_png, "WEBP": _write_webp}[format]
    first = next(images)
    checked = (_checked(name, image, format) for image in chain([first], images))
    if isinstance(target, Path):
        with atomic_write(target) as temporary, temporary.open("w+b") as stream:
            encode(stream, first, checked, pages)
        return
    buffer = BytesIO()
    encode(buffer, first, checked, pages)
    copy_file(buffer, target)


def check_paged(name: str, pages: Pages, format: str) -> None:
    """Refuse a format that cannot hold the pictures of a file.

    Raises:
        OutputError: It holds one picture, or frames only, and the file has pages.
    """
    if format not in PAGED or (pages.format == "TIFF" != format):
        way_out = "write .tif" if pages.format == "TIFF" else "write .gif, .png, .webp or .tif"
        holds = "one" if format not in PAGED else "frames of an animation"
        raise OutputError(f"{name}: there are {pages.count} pictures, a {format} holds {holds}; {way_out}")


@dataclass(frozen=True)
class _File:
    """A file of several pictures, and how they are read."""

    name: str
    source: Path | BytesIO
    max_pixels: int
    white: float

    def image(self, number: int, decoded: Decoded, format: str) -> Image:
        return make_image(f"{self.name}, picture {number}", decoded, format, self.white)


def _checked(name: str, image: Image, format: str) -> Image:
    check_holds(name, image, format)
    return image


# TIFF


def _tiff_pages(file: _File, stream: IO[bytes]) -> Pages | None:
    import tifffile

    with tifffile.TiffFile(stream) as tiff:
        numbers, previews = full_pages(tiff)
        first = tiff.pages[numbers[0]]
        planes = planes_in(tiff, first) if len(numbers) == 1 else 1
    count = max(len(numbers), planes)
    if count == 1:
        return None

    def read() -> Iterator[Image]:
        with opened(file.source) as stream, tifffile.TiffFile(stream) as tiff:
            for number in range(count):
                page, plane = (
                    (tiff.pages[numbers[0]], number) if planes > 1 else (tiff.pages[numbers[number]], 0)
                )
                with damage(f"{file.name}, picture {number + 1}", "TIFF"):
                    decoded = decode_page(file.name, stream, page, file.max_pixels, plane)
                yield file.image(number + 1, describe_planes(decoded, plane), "TIFF")

    return Pages("TIFF", count, read, left_out=tuple(previews_note(previews)))


def _write_tiff(stream: IO[bytes], first: Image, images: Iterator[Image], pages: Pages) -> None:
    import tifffile

    big = pages.count * first.pixels.size * np.dtype(first.depth).itemsize > MOST_CLASSIC_BYTES
    directories = []
    with tifffile.TiffWriter(stream, bigtiff=big, byteorder=byte_order(first.metadata)) as writer:
        for image in images:
            write_page(writer, samples_of(image), image.metadata, big=big)
            exif = image.metadata.exif or b""
            directories.append(exif if read_exif(exif).below else b"")
    append_directories(stream, directories)


# Animations


def _imopen(stream: IO[bytes]) -> Any:
    """An animation, opened by imageio."""
    import imageio.v3 as imageio

    return imageio.imopen(cast("BinaryIO", stream), "r", plugin="pillow")


def _frames(
    file: _File, format: str, count: int, mode: str, metadata: Metadata, orientation: int
) -> Iterator[Image]:
    """Frames of an animation, each whole, as it is shown."""
    with opened(file.source) as stream, _imopen(stream) as frames:
        for number in range(count):
            with damage(f"{file.name}, picture {number + 1}", format):
                samples = frames.read(index=number, mode=mode)
                facts = frames.metadata(index=number, exclude_applied=False)
            samples = samples.reshape(*samples.shape[:2], -1)
            if format != "PNG" and samples.shape[2] == 4 and samples[..., 3].all():
                samples = samples[..., :3]
            duration = float(facts.get("duration") or 0)
            decoded = Decoded(samples, orientation, replace(metadata, duration_ms=duration))
            yield file.image(number + 1, decoded, format)


def _facts(file: _File) -> tuple[int, dict[str, Any]]:
    """Number of frames of an animation, and what it says of the first."""
    with opened(file.source) as stream, _imopen(stream) as frames:
        count = frames.properties(index=...).n_images or 1
        return count, frames.metadata(index=0, exclude_applied=False)


def _gif_frames(file: _File, stream: IO[bytes]) -> Pages | None:
    check_canvas(file.name, stream, file.max_pixels)
    count, facts = _facts(file)
    if count == 1:
        return None
    comment = facts.get("comment", b"")
    metadata = Metadata(
        comments=(comment.encode() if isinstance(comment, str) else comment,) if comment else ()
    )

    def read() -> Iterator[Image]:
        return _frames(file, "GIF", count, "RGBA", metadata, 1)

    # A GIF counts repetitions, none of them where it says nothing; 0 is for ever.
    loop = facts.get("loop")
    plays = 1 if loop is None else loop and loop + 1
    return Pages("GIF", count, read, plays, has_alpha="transparency" in facts)


def _png_frames(file: _File, stream: IO[bytes]) -> Pages | None:
    data = memoryview(stream.read())
    stated, still = 1, [PNG_SIGNATURE]
    bits = colour_type = 8
    has_alpha = False
    for kind, chunk in png_chunks(data):
        if kind == b"IHDR":
            width, height, bits, colour_type = struct.unpack_from(">IIBB", chunk, 8)
            check_size(file.name, width, height, file.max_pixels)
        if kind == b"acTL":
            (stated,) = struct.unpack_from(">I", chunk, 8)
        if kind == b"IDAT" and stated == 1:
            return None
        has_alpha = has_alpha or kind == b"tRNS"
        if kind not in (b"acTL", b"fcTL", b"fdAT"):
            still.append(bytes(chunk))
    if bits == 16:
        raise InputError(
            f"{file.name}: is an animated PNG of 16 bits, and of 8 are read; extract its frames first"
        )
    decoded = decode_png(file.name, BytesIO(b"".join(still)), file.max_pixels)
    count, facts = _facts(file)
    mode = ("RGBA" if has_alpha else "RGB") if colour_type == 3 else _PNG_MODES[colour_type | 4 * has_alpha]

    def read() -> Iterator[Image]:
        return _frames(file, "PNG", count, mode, decoded.metadata, decoded.orientation)

    left_out = (*decoded.notes, *decoded.left_out)
    still_first = bool(facts.get("default_image"))
    return Pages("PNG", count, read, facts.get("loop", 1), still_first, left_out, has_alpha="A" in mode)


def _webp_frames(file: _File, stream: IO[bytes]) -> Pages | None:
    data = memoryview(stream.read())
    chunks = dict(webp_chunks(data))
    if b"ANIM" not in chunks:
        return None
    canvas = chunks[b"VP8X"]
    width, height = (1 + int.from_bytes(canvas[at : at + 3], "little") for at in (4, 7))
    check_size(file.name, width, height, file.max_pixels)
    count, facts = _facts(file)
    icc, exif, xmp = (bytes(chunks.get(kind, b"")) or None for kind in (b"ICCP", b"EXIF", b"XMP "))
    frame = bytes(chunks[b"ANMF"][16:20])
    metadata = Metadata(icc=icc, exif=exif, xmp=xmp, lossless=frame == b"VP8L")
    mode = "RGBA" if canvas[0] & 0x10 else "RGB"

    def read() -> Iterator[Image]:
        return _frames(file, "WEBP", count, mode, metadata, 1)

    return Pages("WEBP", count, read, facts.get("loop", 1), has_alpha=mode == "RGBA")


def _avif_frames(file: _File, stream: IO[bytes]) -> Pages | None:
    check_can_read(file.name)
    from PIL.AvifImagePlugin import AvifImageFile

    data = stream.read()
    stream.seek(0)
    with AvifImageFile(stream) as picture:
        count, mode = picture.n_frames, picture.mode
        if count == 1:
            return None
        width, height = picture.size
        check_size(file.name, width, height, file.max_pixels)
        orientation, metadata, left_out = describe_avif(picture, data)
    if (bits := avif_bits(data)) > 8:
        raise InputError(
            f"{file.name}: is an animated AVIF of {bits} bits, and of 8 are read; extract its frames first"
        )

    # Pillow does not tell how often it is shown: for ever, as browsers do where nothing is said.
    def read() -> Iterator[Image]:
        return _frames(file, "AVIF", count, mode, metadata, orientation)

    return Pages("AVIF", count, read, 0, left_out=left_out, has_alpha="A" in mode)


def _write_gif(stream: IO[bytes], first: Image, images: Iterator[Image], pages: Pages) -> None:
    begin_gif(stream, first.pixels.shape[:0:-1], pages.plays, first.metadata.comments)
    for image in images:
        duration_ms = image.metadata.duration_ms or 0.0
        write_gif_frame(stream, samples_of(image), duration_ms, cleared=pages.has_alpha)
    end_gif(stream)


def _write_png(stream: IO[bytes], first: Image, images: Iterator[Image], pages: Pages) -> None:
    """Write an animation; each frame is coded as a PNG, whose data become chunks of the animation.

    Source:
        PNG Specification, Third Edition, W3C 2025, 11.3.6.
    """
    sequence = 0
    for number, image in enumerate(images):
        coded = BytesIO()
        # All frames have one type: with alpha, where some may have it.
        samples = samples_of(image)
        encode_png(coded, samples if pages.format == "PNG" else _with_alpha(samples), Metadata())
        chunks = list(png_chunks(memoryview(coded.getvalue())))
        if number == 0:
            frames = pages.count - pages.still_first
            stream.write(
                PNG_SIGNATURE
                + bytes(chunks[0][1])
                + png_chunk(b"acTL", struct.pack(">II", frames, pages.plays))
            )
            for chunk in metadata_chunks(first.metadata):
                stream.write(chunk)
        if number or not pages.still_first:
            height, width = image.pixels.shape[1:]
            delay = _delay((image.metadata.duration_ms or 0) / 1000)
            control = struct.pack(">IIIIIHHBB", sequence, width, height, 0, 0, *delay, 0, 0)
            stream.write(png_chunk(b"fcTL", control))
            sequence += 1
        for body in (chunk[8:-4] for name, chunk in chunks if name == b"IDAT"):
            if number == 0:
                stream.write(png_chunk(b"IDAT", bytes(body)))
            else:
                stream.write(png_chunk(b"fdAT", struct.pack(">I", sequence) + bytes(body)))
                sequence += 1
    stream.write(png_chunk(b"IEND", b""))


def _delay(seconds: float) -> tuple[int, int]:
    """A duration as a PNG has it, two numbers of 16 bits: exact for milliseconds, and for frames a second."""
    fraction = Fraction(seconds).limit_denominator(int(65535 / max(1.0, seconds)) or 1)
    return min(fraction.numerator, 65535), fraction.denominator


def _with_alpha(samples: np.ndarray) -> np.ndarray:
    """Samples, (H, W) or (H, W, S), with alpha, which is opaque where there is none."""
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.shape[2] in (2, 4):
        return samples
    return np.concatenate((samples, np.full((*samples.shape[:2], 1), 255, np.uint8)), axis=2)


def _write_webp(stream: IO[bytes], first: Image, images: Iterator[Image], pages: Pages) -> None:
    """Write an animation; each frame is coded as a WebP, whose data become a chunk of the animation.

    Source:
        WebP Container Specification, Google, "Animation".
    """
    metadata = first.metadata
    icc = profile_in_webp(metadata.icc)
    held = {b"EXIF": metadata.exif, b"XMP ": metadata.xmp}
    flags = 0x02 | 0x10 | 0x20 * bool(icc) | 0x08 * bool(metadata.exif) | 0x04 * bool(metadata.xmp)
    height, width = first.pixels.shape[1:]
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    stream.write(b"RIFF" + bytes(4) + b"WEBP" + _riff(b"VP8X", bytes([flags, 0, 0, 0]) + sides))
    stream.write(_riff(b"ICCP", icc) if icc else b"")
    stream.write(_riff(b"ANIM", bytes(4) + struct.pack("<H", min(pages.plays, 65535))))
    for image in images:
        coded = BytesIO()
        encode_webp(coded, samples_of(image), Metadata(lossless=image.metadata.lossless))
        parts = webp_chunks(memoryview(coded.getvalue()))
        data = b"".join(
            _riff(kind, bytes(body)) for kind, body in parts if kind in (b"ALPH", b"VP8 ", b"VP8L")
        )
        milliseconds = min(2**24 - 1, round(image.metadata.duration_ms or 0)).to_bytes(3, "little")
        # Not blended with the frame before it, as it is whole.
        stream.write(_riff(b"ANMF", bytes(6) + sides + milliseconds + b"\x02" + data))
    for kind in (b"EXIF", b"XMP "):
        if body := held[kind]:
            stream.write(_riff(kind, body))
    size = stream.tell() - 8
    stream.seek(4)
    stream.write(struct.pack("<I", size))
    stream.seek(0, 2)


def _riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
