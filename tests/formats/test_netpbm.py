"""PBM, PGM and PPM are read in binary and as text; what is written is what its name says."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from deepgsr_cli.errors import InputError, OutputError
from deepgsr_cli.formats.image import Image, read_image, to_uint8, write_image
from tests.formats.test_image import H, W, noise, read

RAMP = np.linspace(0, 1, 35, dtype=np.float32).reshape(1, 5, 7)
COLOURS = np.concatenate([RAMP, RAMP[:, ::-1], 1 - RAMP])


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


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize(
    ("name", "pixels", "magic"),
    [("a.pgm", RAMP, b"P5"), ("a.ppm", COLOURS, b"P6"), ("a.pnm", RAMP, b"P5"), ("a.pnm", COLOURS, b"P6")],
)
def test_each_name_has_its_own_kind(
    tmp_path: Path, name: str, pixels: np.ndarray, magic: bytes, depth: str
) -> None:
    path = tmp_path / name
    write_image(path, Image(pixels, depth, "PNG"))
    assert path.read_bytes()[:2] == magic
    top = np.iinfo(depth).max
    assert np.array_equal(np.rint(read_image(path).pixels * top), np.rint(pixels * top))


def test_a_ppm_of_gray_has_equal_channels(tmp_path: Path) -> None:
    write_image(tmp_path / "a.ppm", Image(RAMP, "uint8", "PNG"))
    data = (tmp_path / "a.ppm").read_bytes()
    assert data.startswith(b"P6\n7 5\n255\n")
    samples = np.frombuffer(data[-5 * 7 * 3 :], np.uint8).reshape(5, 7, 3)
    assert np.array_equal(samples, np.rint(RAMP[0, ..., None] * 255).repeat(3, axis=2))


def test_a_pgm_of_colours_and_any_pbm_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"has colours, a PGM holds none; write \.ppm or \.png"):
        write_image(tmp_path / "a.pgm", Image(COLOURS, "uint8", "PNG"))
    with pytest.raises(OutputError, match=r"no picture format is written by this name"):
        write_image(tmp_path / "a.pbm", Image(RAMP, "uint8", "PNG"))
    assert not list(tmp_path.iterdir())
