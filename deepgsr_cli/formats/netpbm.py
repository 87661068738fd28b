"""PBM, PGM and PPM: samples without compression, in binary or as text."""

from __future__ import annotations

import re
from typing import IO

import numpy as np

from deepgsr_cli.formats.codecs import Decoded, Metadata, check_size
from deepgsr_cli.words import counted

# A number of the header, with comments before it, and the one blank that ends it.
_NUMBER = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*(\d{1,10})")
_MOST_HEADER = 2**16


def decode_netpbm(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    head = stream.read(_MOST_HEADER)
    kind = int(head[1:2])
    bilevel, channels = kind in (1, 4), 3 if kind in (3, 6) else 1
    numbers, at = [], 2
    for _ in range(2 if bilevel else 3):
        found = _NUMBER.match(head, at)
        if found is None:
            raise ValueError("its header is incomplete")
        numbers.append(int(found[1]))
        at = found.end()
    width, height = numbers[:2]
    top = 1 if bilevel else numbers[2]
    check_size(name, width, height, max_pixels)
    if not 1 <= top <= 65535:
        raise ValueError(f"its greatest value is {top}")
    stream.seek(at + (kind > 3))
    shape = (height, width, channels)
    if kind == 4:
        samples = _bits(stream, height, width)
    elif kind > 3:
        samples = _binary(stream, shape, np.dtype(">u2" if top > 255 else "u1"))
    else:
        samples = _text(stream.read(), shape, bilevel)
    if int(samples.max()) > top:
        raise ValueError(f"a value is {samples.max()}, and the greatest {top}")
    full = 65535 if top > 255 else 255
    samples = samples if top == full else (samples.astype(np.uint32) * full + top // 2) // top
    samples = samples.astype(np.uint16 if top > 255 else np.uint8)
    samples = 255 - samples if bilevel else samples  # in a PBM, 1 is black
    rest = stream.read().strip() if kind > 3 else b""
    left_out: tuple[str, ...] = ()
    if rest.startswith(head[:2]):
        left_out = ("the first picture in the file is read, those that follow are left out",)
    elif rest:
        left_out = (f"what follows the picture in the file is left out ({counted(len(rest), 'byte')})",)
    return Decoded(samples, 1, Metadata(comments=_comments(head[:at])), left_out=left_out, top=top)


def encode_netpbm(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    kind = b"P5" if samples.ndim == 2 else b"P6"
    height, width = samples.shape[:2]
    lines = [line for comment in metadata.comments for line in comment.splitlines()]
    comments = b"".join(b"#" + line + b"\n" for line in lines)
    stream.write(kind + b"\n" + comments + f"{width} {height}\n{np.iinfo(samples.dtype).max}\n".encode())
    stream.write(np.ascontiguousarray(samples, samples.dtype.newbyteorder(">")).data)


def encode_ppm(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    """Write a PPM; one of gray has equal R, G and B."""
    encode_netpbm(stream, np.stack([samples] * 3, -1) if samples.ndim == 2 else samples, metadata)


def _comments(header: bytes) -> tuple[bytes, ...]:
    """Comments of a header, a line each."""
    return tuple(re.findall(rb"#([^\r\n]*)[\r\n]", header))


def _binary(stream: IO[bytes], shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    data = stream.read(size)
    if len(data) < size:
        raise ValueError(f"{len(data):,} of {size:,} bytes of its pixels are there")
    return np.frombuffer(data, dtype).reshape(shape)


def _bits(stream: IO[bytes], height: int, width: int) -> np.ndarray:
    rows = _binary(stream, (height, -(-width // 8), 1), np.dtype("u1"))
    return np.unpackbits(rows[..., 0], axis=1)[:, :width, None]


def _text(data: bytes, shape: tuple[int, int, int], bilevel: bool) -> np.ndarray:
    """Samples written as text; those of a PBM need no blanks between them."""
    words = re.findall(rb"[01]" if bilevel else rb"\d+", re.sub(rb"#[^\r\n]*", b"", data))
    size = int(np.prod(shape))
    if len(words) < size:
        raise ValueError(f"{len(words):,} of {size:,} values of its pixels are there")
    values = np.array(words[:size], dtype="S10").astype(np.int64)
    return values.reshape(shape)
