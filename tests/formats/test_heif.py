"""HEIC is read by a package that need not be there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.image import suffixes_in_folders
from tests.formats.test_image import ICC, XMP, H, W, exif_block, noise, read

FILE = b"\0\0\0\x1cftypheic" + bytes(60)


class Pictures(np.ndarray):
    """What pi_heif returns: samples, and what is known of them."""

    info: dict[str, object]

    def __len__(self) -> int:
        return 2

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        return W, H


def test_pixels_bits_and_metadata_are_those_that_the_package_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise((H, W, 3), "uint16") >> 6
    pictures = (samples << 6).view(Pictures)
    pictures.info = {"bit_depth": 10, "exif": b"Exif\0\0" + exif_block(6), "xmp": XMP, "icc_profile": ICC}
    monkeypatch.setitem(sys.modules, "pi_heif", SimpleNamespace(open_heif=lambda stream, **kw: pictures))
    image = read(FILE)
    np.testing.assert_allclose(image.pixels, samples.transpose(2, 0, 1) / 1023, atol=0.51 / 65535)
    assert (image.format, image.depth) == ("HEIF", "uint16")
    assert (image.metadata.icc, image.metadata.exif) == (ICC, exif_block(1))
    assert image.notes == ("1 of 2 pictures in the file is read",)
    with pytest.raises(InputError, match=f"{W} x {H} pixels"):
        read(FILE, max_pixels=H * W - 1)


def test_without_the_package_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    taken, foreign = suffixes_in_folders()
    assert ".heic" not in taken
    assert ".heic" in foreign
    with pytest.raises(InputError, match=r"is a HEIC.*pip install 'deepgsr\[heif\]'; or convert it"):
        read(FILE)
