"""PBM, PGM and PPM are read in binary and as text."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.image import to_uint8
from tests.formats.test_image import H, W, noise, read


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6])
def test_every_kind_is_what_pillow_reads(kind: int) -> None:
    top = 1 if kind in (1, 4) else 200
    samples = noise((H, W, 3 if kind in (3, 6) else 1), "uint8") % (top + 1)
    head = b"P%d # one\n%d # two\n%d" % (kind, W, H) + (b"" if top == 1 else b" %d" % top) + b"\n"
    binary = np.packbits(samples[..., 0], axis=1).tobytes() if kind == 4 else samples.tobytes()
    body = binary if kind > 3 else b" ".join(b"%d" % value for value in samples.ravel())
    expected = np.asarray(PIL.Image.open(io.BytesIO(head + body)).convert("RGB" if kind in (3, 6) else "L"))
    assert np.abs(to_uint8(read(head + body).pixels).astype(int) - expected).max() <= (top == 200)


@pytest.mark.parametrize("top", [1023, 4095, 65535])
@pytest.mark.parametrize("kind", [2, 5, 6])
def test_more_than_eight_bits_fill_the_range_of_sixteen(kind: int, top: int) -> None:
    samples = (noise((H, W, 3 if kind == 6 else 1), "uint16").astype(np.uint32) % (top + 1)).astype(">u2")
    body = samples.tobytes() if kind > 3 else b" ".join(b"%d" % value for value in samples.ravel())
    image = read(b"P%d %d %d %d\n" % (kind, W, H, top) + body)
    assert image.depth == "uint16"
    np.testing.assert_allclose(image.pixels, samples.transpose(2, 0, 1) / top, atol=0.51 / 65535)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"P5\n5 4\n", "header is incomplete"),
        (b"P5\n5 4\n0\n" + bytes(20), "greatest value is 0"),
        (b"P5\n5 4\n99999\n" + bytes(40), "greatest value is 99999"),
        (b"P5\n5 4\n9\n" + bytes([10] * 20), "a value is 10, and the greatest 9"),
        (b"P5\n5 4\n255\n" + bytes(19), "19 of 20 bytes"),
        (b"P2\n5 4\n255\n1 2 3", "3 of 20 values"),
    ],
)
def test_damage_is_named(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(data)
