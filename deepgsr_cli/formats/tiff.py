"""TIFF: integers and floats, one picture a file."""

from __future__ import annotations

from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import DEPTHS, Decoded, Metadata, check_size, gray_palette
from deepgsr_cli.formats.exif import DESCRIPTION, ORIENTATION, TEXT_TAGS, exif_of, texts_of, upright_xmp

if TYPE_CHECKING:
    import tifffile


_MOST_PAGES = 10_000
_TIFF_COMPRESSIONS = ("none", "lzw", "adobe_deflate", "packbits", "zstd", "lzma")
_TIFF_PREDICTED = ("lzw", "adobe_deflate", "zstd")


def decode_tiff(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
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
        check_size(name, page.imagewidth, page.imagelength, max_pixels)
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
        for code in TEXT_TAGS
        if isinstance(tags.get(code), str) and (described or code != DESCRIPTION)
    }
    orientation = tags.get(ORIENTATION, 1)
    xmp = bytes(tags[700]) if 700 in tags else None
    compression = page.compression.name.lower()
    metadata = Metadata(
        icc=icc,
        exif=exif_of(texts) if texts else None,
        xmp=upright_xmp(xmp) if orientation != 1 else xmp,
        dpi=_tiff_dpi(tags),
        tiff_compression=compression if compression in _TIFF_COMPRESSIONS else "adobe_deflate",
        extra_sample=int(page.extrasamples[0]) if page.extrasamples else 0,
    )
    return Decoded(samples, int(orientation), metadata)


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
    if dtype is None or (dtype.name not in DEPTHS and dtype.kind != "b"):
        return f"{page.bitspersample}-bit {dtype or page.sampleformat} samples"
    return ""


def _tiff_samples(samples: np.ndarray, page: tifffile.TiffPage, icc: bytes | None) -> np.ndarray:
    """(H, W, S) with 0 black, over the whole range of its dtype."""
    from tifffile import PHOTOMETRIC

    if page.photometric == PHOTOMETRIC.PALETTE:
        if page.colormap is None:
            raise ValueError("its colour map is missing")
        # A 16-bit colour map holds 8-bit colours times 256 or 257.
        return gray_palette((page.colormap.T >> 8).astype(np.uint8)[samples[..., 0].astype(np.intp)], icc)
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


def encode_tiff(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    import tifffile

    colours = 1 if samples.ndim == 2 or samples.shape[2] == 2 else 3
    has_alpha = samples.ndim == 3 and samples.shape[2] in (2, 4)
    tags = [(code, 2, len(text) + 1, text + b"\0", True) for code, text in texts_of(metadata.exif or b"")]
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
