"""TIFF: integers and floats, with the tags of a page kept."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import IO, TYPE_CHECKING, Literal, cast

import numpy as np

from deepgsr_cli.errors import InputError
from deepgsr_cli.formats.codecs import DEPTHS, Decoded, Metadata, Resolution, check_size, gray_palette
from deepgsr_cli.formats.exif import (
    DESCRIPTION,
    EXIF_IFD,
    GPS_IFD,
    INTEROPERABILITY_IFD,
    MAIN_TAGS,
    ORIENTATION,
    Directory,
    Tag,
    order_of,
    pack_directory,
    pack_exif,
    read_directory,
    read_exif,
    resolution_of,
    upright_xmp,
)
from deepgsr_cli.formats.jpeg import without_thumbnail
from deepgsr_cli.words import counted

if TYPE_CHECKING:
    import tifffile


_MOST_PAGES = 100_000
MOST_CLASSIC_BYTES = 2**32 - 2**25  # of pixels, in a file whose positions have 4 bytes
_TIFF_COMPRESSIONS = ("none", "lzw", "adobe_deflate", "packbits", "zstd", "lzma")
_TIFF_PREDICTED = ("lzw", "adobe_deflate", "zstd")
_ICC, _XMP, _RESOURCES, _NODATA = 34675, 700, 34377, 42113
# How the pixels were stored, which is written anew: TIFF 6.0, TIFF/EP, and JPEG and LERC in TIFF.
_STRUCTURE = frozenset(
    (
        *(*range(254, 269), 273, 274, *range(277, 285), *range(288, 294), 296, 317, *range(320, 331)),
        *(332, 334, *range(338, 342), *range(343, 348), *range(512, 522), *range(529, 533), 559),
        *(400, 32995, 32996, 32997, 32998, 34665, 34675, 34853, 40965, 50674),
    )
)
# Tags that hold positions in the old file or the old pixels, by the names of what is left out.
_POSITIONS = {
    33628: "MetaMorph's UIC tags",
    33629: "MetaMorph's UIC tags",
    33630: "MetaMorph's UIC tags",
    33631: "MetaMorph's UIC tags",
    34412: "Zeiss' LSM tag",
    37724: "Photoshop's layers",
    50784: "Alias' layers",
}
# What places pixels on the earth, which no longer holds for a picture that has been turned upright.
_PLACES = frozenset((33550, 33920, 33922, 34264, 34735, 34736, 34737, 50844))
_RATIONALS = {5: "I", 10: "i"}
# tifffile writes no pointer to a directory, so a tag with the code before it holds its place.
_STAND_INS = {EXIF_IFD: EXIF_IFD - 1, GPS_IFD: GPS_IFD - 1}
_UIC2 = 33629  # of MetaMorph; one value a plane
_IMAGEJ = (50838, 50839)
# What tells the size of pixels, or of all of them, which another size makes false.
OF_SIZE = _PLACES | {DESCRIPTION, *_IMAGEJ}
_KINDS = frozenset(range(1, 13)) | {16, 17}  # types of values that tags are copied with


def decode_tiff(name: str, stream: IO[bytes], max_pixels: int) -> Decoded:
    import tifffile

    with tifffile.TiffFile(stream) as tiff:
        numbers, previews = full_pages(tiff)
        page = cast("tifffile.TiffPage", tiff.pages[numbers[0]])
        count = planes_in(tiff, page) if len(numbers) == 1 else len(numbers)
        if count != 1:
            raise InputError(f"{name}: has {count} pages, and one picture is read; split it into files")
        decoded = decode_page(name, stream, page, max_pixels)
    return decoded._replace(left_out=(*decoded.left_out, *previews_note(previews)))


def full_pages(tiff: tifffile.TiffFile) -> tuple[list[int], int]:
    """Numbers of the pages without previews and masks, all if there are no others; and how many those are,
    with those below the pages."""
    # Bounded, as the chain of pages in a damaged file can be a circle, which tifffile follows for ever.
    pages = (cast("tifffile.TiffPage", page) for page in islice(tiff.pages, _MOST_PAGES))
    found = [(bool(page.subfiletype & 5), len(page.subifds or ())) for page in pages]
    if len(found) < _MOST_PAGES:
        check_last_page(tiff, len(found))
    full = [number for number, (reduced, _) in enumerate(found) if not reduced]
    previews = sum(reduced for reduced, _ in found) if full else 0
    return full or [*range(len(found))], previews + sum(below for _, below in found)


def check_last_page(tiff: tifffile.TiffFile, count: int) -> None:
    """Refuse a file of so many pages whose last one says that another one follows.

    Raises:
        ValueError: It was cut short: the pages that follow are not there, or none is.
    """
    if not count:
        raise ValueError("it has no pages")
    file, form = tiff.filehandle, tiff.tiff
    file.seek(tiff.pages[count - 1].offset)
    (num_tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    file.seek(num_tags * form.tagsize, os.SEEK_CUR)
    (following,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    if following:
        raise ValueError(f"it was cut short after {counted(count, 'page')}")


def previews_note(count: int) -> list[str]:
    """A sentence on previews that are left out, if there are any."""
    words = "1 preview or mask is" if count == 1 else f"{count} previews or masks are"
    return [f"{words} left out"] if count else []


def planes_in(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Number of pictures in a file of one page, which are as many as its description or its tags say."""
    if with_planes := page.tags.get(_UIC2):
        return max(1, int(with_planes.count))
    shaped = (tiff.shaped_metadata or ({},))[0] if tiff.is_shaped else {}
    planes = int((tiff.imagej_metadata or {}).get("images", 1))
    if shape := shaped.get("shape"):
        planes = int(np.prod(shape)) // max(1, int(np.prod(page.shape)))
    return max(1, planes)


def decode_page(
    name: str, stream: IO[bytes], page: tifffile.TiffPage, max_pixels: int, plane: int = 0
) -> Decoded:
    """Decode one page, or one of the planes that follow each other in it, uncompressed.

    Raises:
        InputError: The page is of a kind that is not read, or too large.
    """
    check_size(name, page.imagewidth, page.imagelength, max_pixels)
    if misfit := _tiff_misfit(page):
        raise InputError(
            f"{name}: has {misfit}, and gray and RGB of 1 to 16 bits or floats are read; convert it"
        )
    samples = _stored(stream, page, plane)
    file = page.parent
    order = file.byteorder
    tags = [*_raw_tags(stream, page)]
    by_code = {tag.code: tag.value for tag in tags}
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples.reshape(*samples.shape[:2], -1)
    icc = by_code.get(_ICC)
    samples = _tiff_samples(samples, page, icc)
    asked = by_code.get(ORIENTATION, b"")
    orientation = int.from_bytes(asked[:2], "little" if order == "<" else "big")
    orientation = orientation if 1 <= orientation <= 8 else 1
    described = not (page.is_shaped or file.is_imagej or file.is_ome)
    exif = Directory(
        [tag for tag in tags if tag.code in MAIN_TAGS and (described or tag.code != DESCRIPTION)]
    )
    exif.below = _directories(stream, page)
    nodata = _nodata(by_code.get(_NODATA, b""), page)
    kept, left_out = _kept(page, tags, orientation, nodata)
    notes = []
    if not described and page.axes == "SYX":  # else the text is about the old array
        kept = [tag for tag in kept if tag.code != DESCRIPTION]
    resolution = resolution_of(tags, order)
    compression = _compression(page).lower()
    width, height = page.imagewidth, page.imagelength
    size = (height, width) if orientation > 4 else (width, height)
    xmp = by_code.get(_XMP, b"").rstrip(b"\0") or None
    alpha = samples.shape[2] in (2, 4)
    extra_sample = int(page.extrasamples[0]) if page.extrasamples else 0
    if alpha and not extra_sample:
        notes.append("no meaning is stated of its last band, which is kept as it is, as transparency is")
    metadata = Metadata(
        icc=icc,
        exif=pack_exif(exif, order),
        xmp=upright_xmp(xmp, orientation, size),
        iptc=without_thumbnail(by_code.get(_RESOURCES, b"")) or None,
        resolution=Resolution(*resolution) if resolution else None,  # type: ignore[arg-type]
        min_is_white=page.photometric == 0 and samples.dtype.kind == "f",
        tiff_compression=compression if compression in _TIFF_COMPRESSIONS else "adobe_deflate",
        tiff_tags=tuple(kept),
        tiff_order=order,
        extra_sample=extra_sample,
    )
    if mended := page.photometric == 3 and _is_short(page):
        notes.append("its colour map has 8 bits where TIFF has 16, and is read so")
    has_numbers = samples.dtype.kind == "u" and page.photometric != 3
    top = 2**page.bitspersample - 1 if has_numbers else None
    return Decoded(samples, orientation, metadata, nodata, tuple(notes), tuple(left_out), mended, top)


def describe_planes(decoded: Decoded, plane: int) -> Decoded:
    """A plane without what only the first of them says: the description of all."""
    if not plane:
        return decoded
    kept = tuple(tag for tag in decoded.metadata.tiff_tags if tag.code not in (DESCRIPTION, *_IMAGEJ))
    return decoded._replace(metadata=replace(decoded.metadata, tiff_tags=kept))


def _stored(stream: IO[bytes], page: tifffile.TiffPage, plane: int) -> np.ndarray:
    """Samples of a page as they are stored."""
    size = stream.seek(0, 2)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(segments) < np.prod(page.chunked):
        raise ValueError(f"{len(segments)} of {np.prod(page.chunked)} strips or tiles are there")
    if plane:
        assert page.dtype is not None
        dtype = page.dtype.newbyteorder(page.parent.byteorder)
        length = int(np.prod(page.shape)) * dtype.itemsize
        if _compression(page) != "NONE" or not page.is_contiguous:
            raise ValueError("its planes are compressed")
        stream.seek(segments[0][0] + plane * length)
        data = stream.read(length)
        if len(data) < length:
            raise ValueError(f"its plane {plane + 1} goes past the end of the file")
        return np.frombuffer(data, dtype).reshape(page.shape).astype(page.dtype)
    if any(offset + length > size for offset, length in segments):
        raise ValueError("its pixels go past the end of the file")
    return page.asarray()


def _compression(page: tifffile.TiffPage) -> str:
    """Name of a page's compression, which is none where no tag says it; empty for an unknown one."""
    from tifffile import COMPRESSION

    try:
        return COMPRESSION(page.compression).name
    except ValueError:
        return ""


def _raw_tags(stream: IO[bytes], page: tifffile.TiffPage) -> Iterator[Tag]:
    """Tags of a page as they are stored, without the pointers to directories."""
    size = stream.seek(0, 2)
    for tag in page.tags:
        length = tag.valuebytecount
        if tag.code in (EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD) or int(tag.dtype) not in _KINDS:
            continue
        if length > 0 and tag.valueoffset + length <= size:
            stream.seek(tag.valueoffset)
            yield Tag(tag.code, int(tag.dtype), stream.read(length))


def _directories(stream: IO[bytes], page: tifffile.TiffPage) -> dict[int, Directory]:
    """Directories of EXIF and GPS that a page points at."""
    file = page.parent

    def read(at: int, size: int) -> bytes:
        stream.seek(at)
        return stream.read(size)

    whole = read_directory(read, page.offset, file.byteorder, big=file.is_bigtiff)
    return {code: below for code, below in whole.below.items() if below.tags or below.below}


def _kept(
    page: tifffile.TiffPage, tags: list[Tag], orientation: int, nodata: float | None
) -> tuple[list[Tag], list[str]]:
    """Tags that are copied to a TIFF, where `nodata` stands for no value, and sentences on those left out."""
    elsewhere = {_ICC, _XMP, _RESOURCES, *MAIN_TAGS}
    left_out = _POSITIONS | (dict.fromkeys(_PLACES, "the place on the earth") if orientation > 1 else {})
    if page.photometric == 3:
        left_out[_NODATA] = "the colour that stands for no value"
    elif nodata is not None and page.dtype is not None and page.dtype.kind in "ub":
        tags = [tag._replace(value=b"%d\0" % nodata) if tag.code == _NODATA else tag for tag in tags]
    about_array = page.is_shaped or page.parent.is_imagej or page.parent.is_ome
    kept = [
        tag
        for tag in tags
        if tag.code not in _STRUCTURE
        and tag.code not in left_out
        and (tag.code not in elsewhere or (tag.code == DESCRIPTION and about_array))
    ]
    names = dict.fromkeys(left_out[tag.code] for tag in tags if tag.code in left_out)
    return kept, [f"{name} cannot be kept" for name in names]


def _nodata(text: bytes, page: tifffile.TiffPage) -> float | None:
    """Sample that stands for no value, by GDAL's tag, which says it as it is stored.

    None where no sample can be that, and for a palette, whose values are no brightness.
    """
    try:
        value = float(text.rstrip(b"\0 "))
    except ValueError:
        return None
    if page.photometric == 3 or page.dtype is None:
        return None
    if page.dtype.kind == "f":
        return value
    if not value.is_integer() or not 0 <= value < 2**page.bitspersample:
        return None
    return float(_tiff_samples(np.full((1, 1, 1), int(value), page.dtype), page, None)[0, 0, 0])


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
    # Photographers call the colours of ink by their letters; a TIFF can have others, which are rare.
    cmyk = photometric == PHOTOMETRIC.SEPARATED
    name = "CMYK" if cmyk else getattr(photometric, "name", photometric)
    if photometric not in colours:
        return f"{name} colours"
    # Two bands without an ExtraSamples tag are not gray with alpha, so axes and the tag have to agree.
    allowed = (0, 1) if photometric != PHOTOMETRIC.PALETTE else (0,)
    extra = page.samplesperpixel - colours[photometric]
    if extra not in allowed or page.axes not in ("YX", "YXS", "SYX"):
        called = (
            {1: "gray", 3: "RGB"}[colours[photometric]] if photometric != PHOTOMETRIC.PALETTE else "palette"
        )
        if extra:
            return f"{page.samplesperpixel} bands called {called} ({name})"
        return f"axes {page.axes}"
    dtype = page.dtype
    if dtype is None or (dtype.name not in DEPTHS and dtype.kind != "b"):
        return f"{page.bitspersample}-bit {dtype or page.sampleformat} samples"
    return ""


def _tiff_samples(samples: np.ndarray, page: tifffile.TiffPage, icc: bytes | None) -> np.ndarray:
    """(H, W, S) with 0 black in integers, over the whole range of their dtype."""
    from tifffile import PHOTOMETRIC

    if page.photometric == PHOTOMETRIC.PALETTE:
        if page.colormap is None:
            raise ValueError("its colour map is missing")
        # A 16-bit colour map holds 8-bit colours times 256 or 257.
        colours = page.colormap.T >> (0 if _is_short(page) else 8)
        return gray_palette(colours.astype(np.uint8)[samples[..., 0].astype(np.intp)], icc)
    if samples.dtype.kind == "b":
        samples = samples.astype(np.uint8) * np.uint8(255)
    elif samples.dtype.kind == "u" and page.bitspersample < 8 * samples.dtype.itemsize:
        top, full = 2**page.bitspersample - 1, np.iinfo(samples.dtype).max
        samples = ((samples.astype(np.uint32) * full + top // 2) // top).astype(samples.dtype.name)
    if page.photometric == PHOTOMETRIC.MINISWHITE and samples.dtype.kind == "u":
        gray = samples[..., 0]
        np.subtract(np.iinfo(gray.dtype).max, gray, out=gray)
    return samples


def _is_short(page: tifffile.TiffPage) -> bool:
    """Whether a colour map has 8 bits, as old writers made it, and not 16."""
    return page.colormap is not None and 0 < page.colormap.max() < 256


def encode_tiff(stream: IO[bytes], samples: np.ndarray, metadata: Metadata) -> None:
    import tifffile

    big = samples.nbytes > MOST_CLASSIC_BYTES
    with tifffile.TiffWriter(stream, bigtiff=big, byteorder=byte_order(metadata)) as writer:
        write_page(writer, samples, metadata, big=big)
    append_directories(stream, [metadata.exif or b""])


def write_page(writer: tifffile.TiffWriter, samples: np.ndarray, metadata: Metadata, *, big: bool) -> None:
    """Write a page with all that it can hold of metadata but the directories below it."""
    colours = 1 if samples.ndim == 2 or samples.shape[2] == 2 else 3
    has_alpha = samples.ndim == 3 and samples.shape[2] in (2, 4)
    resolution = metadata.resolution
    unit = {"inch": "inch", "cm": "centimeter", "none": "none"}[resolution.unit] if resolution else None
    writer.write(
        samples,
        photometric=("miniswhite" if metadata.min_is_white else "minisblack") if colours == 1 else "rgb",
        planarconfig="contig" if samples.ndim == 3 else None,
        extrasamples=[metadata.extra_sample] if has_alpha else None,
        compression=metadata.tiff_compression,
        predictor=metadata.tiff_compression in _TIFF_PREDICTED,
        iccprofile=metadata.icc,
        resolution=resolution[:2] if resolution else None,
        resolutionunit=unit,
        extratags=[_extratag(tag, byte_order(metadata)) for tag in _tags_to_write(metadata, big)],
        metadata=None,
        software=False,
        contiguous=False,
    )


def _extratag(tag: Tag, order: str) -> tuple[int, int, int, object, bool]:
    """A tag as tifffile takes it: its bytes, but of rational numbers, which it would count twice."""
    value: object = tag.value
    if tag.kind in _RATIONALS:
        value = struct.unpack(f"{order}{2 * tag.num_values}{_RATIONALS[tag.kind]}", tag.value)
    return tag.code, tag.kind, tag.num_values, value, True


def append_directories(stream: IO[bytes], exifs: Sequence[bytes]) -> None:
    """Append the directories of each page's EXIF to a file of such pages, and have the pages point there."""
    import tifffile

    if not any(read_exif(exif).below for exif in exifs):
        return
    stream.seek(0)
    with tifffile.TiffFile(stream) as tiff:
        order, big = tiff.byteorder, tiff.is_bigtiff
        places = [
            {code: page.tags[held] for code, held in _STAND_INS.items() if held in page.tags}
            for page in tiff.pages
        ]
    for exif, held_by in zip(exifs, places):
        for code, below in read_exif(exif).below.items():
            if code not in held_by:
                continue
            at = stream.seek(0, 2)
            at += stream.write(bytes(at % 2))
            stream.write(pack_directory(below, at, order, big=big))
            stream.seek(held_by[code].offset)
            stream.write(struct.pack(order + "H", code))
            stream.seek(held_by[code].valueoffset)
            stream.write(struct.pack(order + ("Q" if big else "I"), at))
    stream.seek(0, 2)


def byte_order(metadata: Metadata) -> Literal["<", ">"]:
    """Byte order of a TIFF to write, that of the tags and the EXIF in it, which are copied as they are."""
    return ">" if (order_of(metadata.exif or b"") or metadata.tiff_order) == ">" else "<"


def _tags_to_write(metadata: Metadata, big: bool) -> list[Tag]:
    """Tags of a page beside those that say how its pixels are stored."""
    exif = read_exif(metadata.exif or b"")
    pointer = (16, bytes(8)) if big else (4, bytes(4))
    tags = {tag.code: tag for tag in exif.tags if tag.code not in _STRUCTURE and tag.kind in _KINDS}
    tags |= {tag.code: tag for tag in metadata.tiff_tags}
    tags |= {held: Tag(held, *pointer) for code, held in _STAND_INS.items() if code in exif.below}
    if metadata.xmp:
        tags[_XMP] = Tag(_XMP, 1, metadata.xmp)
    if metadata.iptc:
        tags[_RESOURCES] = Tag(_RESOURCES, 7, metadata.iptc)
    return [tags[code] for code in sorted(tags)]


def describe_tags(metadata: Metadata) -> list[str]:
    """Names of the tags that only a TIFF holds."""
    import tifffile

    return [str(tifffile.TIFF.TAGS.get(tag.code, str(tag.code))) for tag in metadata.tiff_tags]
