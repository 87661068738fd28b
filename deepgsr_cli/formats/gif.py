"""GIF: 256 colours a frame, of which one may be transparent."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import IO

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import Decoded, Metadata, check_size, gray_palette

_COLOURS = 256
_TRAILER, _DESCRIPTOR, _EXTENSION = b"\x3b", 0x2C, 0x21


def decode_gif(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    from PIL.GifImagePlugin import GifImageFile

    check_canvas(name, stream, max_pixels)
    # Not PIL.Image.open: its limit on pixels is a global of the process and below max_pixels.
    with GifImageFile(stream) as picture:
        if picture.n_frames > 1:
            raise InputError(f"{name}: is an animated GIF, and one picture is read; extract its frames first")
        picture.seek(0)
        picture.load()
        samples = np.asarray(picture.convert("RGBA" if "transparency" in picture.info else "RGB"))
        comment = picture.info.get("comment", b"")
    if samples.shape[2] == 4 and samples[..., 3].all():
        samples = samples[..., :3]
    comments = (comment.encode() if isinstance(comment, str) else comment,) if comment else ()
    return Decoded(gray_palette(samples, None), 1, Metadata(comments=comments))


def encode_gif(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    pixels, palette, transparent = _indexed(samples)
    still = _still(pixels, palette)
    colours, image = _parts(still)
    stream.write(still[:13] + colours)
    for comment in metadata.comments:
        stream.write(_comment(comment))
    if transparent is not None:
        stream.write(_control(transparent, 0.0))
    stream.write(image + _TRAILER)


def begin_gif(stream: IO[bytes], size: tuple[int, int], plays: int, comments: tuple[bytes, ...]) -> None:
    """Write what comes before the frames of an animation, which bring their own colours.

    Args:
        stream: Gets it.
        size: Width and height.
        plays: How often it is shown, 0 for ever.
        comments: Comments on it.
    """
    stream.write(b"GIF89a" + struct.pack("<HHBBB", *size, 0x70, 0, 0))
    if plays != 1:
        # It counts repetitions, by which browsers go, and 0 of them is for ever.
        loop = min(plays - 1, 65535) if plays else 0
        stream.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", loop, 0))
    for comment in comments:
        stream.write(_comment(comment))


def write_gif_frame(
    stream: IO[bytes], samples: np.ndarray, duration_ms: float, *, cleared: bool = False
) -> None:
    """Write a frame of the size of the animation.

    Args:
        stream: Gets it.
        samples: (H, W) or (H, W, S), uint8.
        duration_ms: How long it is shown.
        cleared: Whether its area is cleared after it even if it is opaque, as other frames are not. It has a
            transparent colour then, as some readers clear to that, and 255 others.
    """
    pixels, palette, transparent = _indexed(samples, cleared=cleared)
    colours, image = _parts(_still(pixels, palette))
    bits = (len(colours) // 3).bit_length() - 2
    stream.write(_control(transparent, duration_ms))
    stream.write(image[:9] + bytes([0x80 | bits]) + colours + image[10:])


def end_gif(stream: IO[bytes]) -> None:
    """Write the end of an animation."""
    stream.write(_TRAILER)


def check_canvas(name: str, stream: IO[bytes], max_pixels: int) -> None:
    """Check the size that the header of a GIF states, and go back to its start."""
    stream.seek(6)
    width, height = struct.unpack("<HH", stream.read(4))
    stream.seek(0)
    check_size(name, width, height, max_pixels)


def _packed(samples: np.ndarray) -> np.ndarray:
    """Colours as one number each, (H, W)."""
    if samples.ndim == 2 or samples.shape[2] == 2:
        return samples.reshape(*samples.shape[:2], -1)[..., 0].astype(np.uint32) * 0x10101
    red, green, blue = samples[..., :3].astype(np.uint32).transpose(2, 0, 1)
    return red << 16 | green << 8 | blue


def _indexed(samples: np.ndarray, *, cleared: bool = False) -> tuple[np.ndarray, bytes, int | None]:
    """Samples, uint8, as indices, (H, W), into a palette, with the index of transparency if there is any, or
    the area is cleared.

    Up to 256 colours stay exactly; more are cut by the median (Heckbert, SIGGRAPH 1982), without dither,
    which would be noise again.
    """
    from PIL import Image as Pillow

    clear = None
    if samples.ndim == 3 and samples.shape[2] in (2, 4):
        clear = samples[..., -1] < 128
        clear = clear if clear.any() else None
    if cleared and clear is None:
        clear = np.zeros(samples.shape[:2], bool)
    room = _COLOURS - (clear is not None)
    packed = _packed(samples)
    shown = packed if clear is None else packed[~clear]
    colours = np.unique(shown) if shown.size else np.zeros(1, np.uint32)
    if len(colours) <= room:
        indices = np.searchsorted(colours, packed).clip(0, len(colours) - 1)
        table = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(np.uint8)
    else:
        rgb = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 2).astype(np.uint8)
        quantised = Pillow.fromarray(rgb).quantize(room, Pillow.Quantize.MEDIANCUT)
        indices = np.asarray(quantised)
        table = np.frombuffer(bytes(quantised.getpalette() or b""), np.uint8).reshape(-1, 3)[:room]
    if clear is None:
        return indices.astype(np.uint8), table.tobytes(), None
    return np.where(clear, len(table), indices).astype(np.uint8), table.tobytes() + bytes(3), len(table)


def _still(indices: np.ndarray, palette: bytes) -> bytes:
    """A GIF of one frame."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(indices, "P")
    picture.putpalette(palette)
    stream = BytesIO()
    picture.save(stream, "GIF", interlace=False, optimize=False)
    return stream.getvalue()


def _parts(still: bytes) -> tuple[bytes, bytes]:
    """The colours of a GIF of one frame, and its image from the descriptor to the end of its data."""
    end = 13 + 3 * 2 ** ((still[10] & 7) + 1)
    at = end
    while still[at] == _EXTENSION:
        at += 2
        while still[at]:
            at += 1 + still[at]
        at += 1
    if still[at] != _DESCRIPTOR:
        raise ValueError("a GIF without an image")
    return still[13:end], still[at:-1]


def _control(transparent: int | None, duration_ms: float) -> bytes:
    """What is said of a frame before it; the area is cleared after one with a transparent colour."""
    hundredths = min(65535, round(duration_ms / 10))
    flags = 0 if transparent is None else 1 | 2 << 2
    return b"\x21\xf9\x04" + struct.pack("<BHBB", flags, hundredths, transparent or 0, 0)


def _comment(text: bytes) -> bytes:
    blocks = (text[at : at + 255] for at in range(0, len(text), 255))
    return b"\x21\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
