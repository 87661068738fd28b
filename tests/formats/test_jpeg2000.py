"""JPEG 2000 is read as Pillow reads it, and at its own depth."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.image import to_uint8
from tests.formats.test_image import H, W, noise, read, saved, written


def test_files_of_pillow_are_read() -> None:
    for count in (1, 3, 4):
        samples = noise((H, W, count), "uint8").squeeze()
        image = read(saved(samples, "JPEG2000"))
        np.testing.assert_array_equal(to_uint8(image.pixels), samples[..., :3] if count == 4 else samples)
        assert (image.alpha is not None) == (count == 4)


def test_alpha_is_called_so_in_what_is_written() -> None:
    image = read(saved(noise((H, W, 4), "uint8"), "PNG"))
    assert not read(written(image, "JPEG2000")).notes
    assert "last band" in read(written(image, "J2K")).notes[0]


def test_twelve_bits_fill_the_range_of_sixteen() -> None:
    samples = noise((H, W), "uint16") >> 4
    data = imagecodecs.jpeg2k_encode(samples, level=0, codecformat="jp2", bitspersample=12, reversible=True)
    image = read(data)
    assert image.depth == "uint16"
    np.testing.assert_allclose(image.pixels[0], samples / 4095, atol=0.51 / 65535)


@pytest.mark.parametrize(("dtype", "words"), [("int16", "signed samples"), ("int8", "signed samples")])
def test_other_kinds_are_refused_by_name(dtype: str, words: str) -> None:
    samples = noise((H, W), "uint8").astype(dtype)
    with pytest.raises(InputError, match=words):
        read(imagecodecs.jpeg2k_encode(samples, level=0, reversible=True))


def test_a_codestream_without_its_end_is_refused() -> None:
    data = bytes(imagecodecs.jpeg2k_encode(noise((H, W), "uint8"), level=0, codecformat="j2k"))
    assert read(data).format == "J2K"
    with pytest.raises(InputError, match="its end is missing"):
        read(data[:-2])
