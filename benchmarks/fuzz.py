"""Restore mutated picture files, and check that each ends in a picture or in a sentence.

    python benchmarks/fuzz.py --files 1000 --seed 0

Each file is one of small whole ones, of all formats, with bytes flipped, cut out, inserted or cut off at the
end, by a seed that is printed where something is wrong; `--only SEED` makes that file again. Wrong is: an
exception that is no `UserError`, a file that is left behind by a run that failed, a file that cannot be read
back, and pixels after `--sigma 0` that differ from those that an independent reader (Pillow, tifffile) finds
in the same bytes. What a reader refuses, or reads at fewer bits, is not compared, and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import struct
import tempfile
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import tifffile
from typer.testing import CliRunner

from deepgsr_cli.cli import app
from deepgsr_cli.formats.image import read_image, samples_of

SIDE = (37, 53)
# Another format without loss, so that the file is not merely copied.
WRITTEN = {"tif": "png", "png": "tif"}


def whole_files() -> dict[str, bytes]:
    """Small files of all formats, by a name that ends in their suffix."""
    generator = np.random.default_rng(0)
    rgb, gray, wide = (
        generator.integers(0, 2**bits, (*SIDE, *channels), dtype)
        for bits, channels, dtype in ((8, (3,), "uint8"), (8, (), "uint8"), (16, (), "uint16"))
    )
    files = {}
    for name, picture, format, options in (
        ("a.png", rgb, "PNG", {}),
        ("b.png", wide, "PNG", {}),
        ("c.jpg", rgb, "JPEG", {"quality": 90, "comment": b"text"}),
        ("d.jpg", gray, "JPEG", {"progressive": True}),
        ("e.webp", rgb, "WEBP", {"lossless": True}),
        ("f.webp", rgb, "WEBP", {"exact": True}),
        ("g.bmp", rgb, "BMP", {}),
        ("h.gif", gray, "GIF", {}),
        ("i.jp2", rgb, "JPEG2000", {}),
        ("j.ppm", rgb, "PPM", {}),
    ):
        stream = io.BytesIO()
        PIL.Image.fromarray(picture).save(stream, format, **options)
        files[name] = stream.getvalue()
    for name, samples, options in (
        ("k.tif", rgb, {"photometric": "rgb", "rowsperstrip": 8}),
        ("l.tif", wide, {"compression": "zlib", "predictor": True}),
        ("m.tif", (gray / 255).astype("float32"), {"compression": "lzw", "tile": (16, 16)}),
        ("n.tif", np.stack([wide, wide]), {"photometric": "minisblack"}),
    ):
        stream = io.BytesIO()
        tifffile.imwrite(stream, samples, **({"metadata": None} | options))
        files[name] = stream.getvalue()
    for name, format in (("o.gif", "GIF"), ("p.png", "PNG"), ("q.webp", "WEBP")):
        stream = io.BytesIO()
        first, second = (PIL.Image.fromarray(np.roll(rgb, shift, 0)) for shift in (0, 5))
        first.save(stream, format, save_all=True, append_images=[second], duration=50)
        files[name] = stream.getvalue()
    return files


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """A file with one to three faults, more of them at its beginning, where the headers are.

    The checksums of a PNG are often made right again, as a damaged file ends at the first wrong one.
    """
    changed = bytearray(data)
    for _ in range(generator.integers(1, 4)):
        if len(changed) < 4:
            break
        reach = min(len(changed), 200) if generator.random() < 0.3 else len(changed)
        at = int(generator.integers(reach))
        length = int(generator.integers(1, 9))
        match generator.integers(8):
            case 0 | 1 | 2 | 3:
                changed[at] ^= 1 << int(generator.integers(8))
            case 4:
                changed[at : at + length] = generator.bytes(length)
            case 5:
                del changed[at : at + length]
            case 6:
                changed[at:at] = generator.bytes(length)
            case _:
                del changed[len(changed) - int(generator.integers(1, len(changed) // 2)) :]
    if changed.startswith(b"\x89PNG") and generator.random() < 0.7:
        mend_checksums(changed)
    return bytes(changed)


def mend_checksums(png: bytearray) -> None:
    """Make the checksum of each chunk right, as far as the chunks can be followed."""
    at = 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        if at + 12 + length > len(png):
            return
        struct.pack_into(">I", png, at + 8 + length, zlib.crc32(png[at + 4 : at + 8 + length]))
        at += 12 + length


def read_otherwise(path: Path) -> np.ndarray | None:
    """The first picture of a file, (H, W) or (H, W, S), by an independent reader; None where it refuses."""
    try:
        if path.suffix == ".tif":
            with tifffile.TiffFile(path) as tiff:
                return tiff.pages[0].asarray()
        with PIL.Image.open(path) as picture:
            picture.load()
            kept = picture.mode in ("L", "LA", "RGB", "RGBA", "I;16")
            alpha = picture.mode in ("P", "PA") and "transparency" in picture.info
            return np.asarray(picture if kept else picture.convert("RGBA" if alpha else "RGB"))
    except Exception:
        return None


def differ(ours: np.ndarray, theirs: np.ndarray) -> bool | None:
    """Whether colours differ; None where the readers chose other types, as fewer bits."""
    if ours.dtype != theirs.dtype or ours.shape[:2] != theirs.shape[:2]:
        return None
    ours, theirs = (x.reshape(*x.shape[:2], -1) for x in (ours, theirs))
    colours = [x[..., : x.shape[2] - (x.shape[2] + 1) % 2] for x in (ours, theirs)]
    if ours.dtype.kind == "f":  # a picture whose zero is white is inverted, and back
        return not np.allclose(*colours, rtol=1e-6, atol=1e-6, equal_nan=True)
    return not np.array_equal(*np.broadcast_arrays(*colours))


def check(seed: int, files: dict[str, bytes], folder: Path) -> str:
    """Restore one mutated file; returns what came of it, beginning with "wrong" where it is."""
    generator = np.random.default_rng(seed)
    name = list(files)[int(generator.integers(len(files)))]
    source = folder / name
    source.write_bytes(mutated(files[name], generator))
    target = folder / f"out.{WRITTEN.get(source.suffix[1:], 'tif')}"
    if name in ("n.tif", "o.gif", "p.png", "q.webp", "m.tif"):
        target = folder / "out.tif"
    arguments = ["denoise", str(source), "-o", str(target), "--sigma", "0", "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--max-pixels", "10000000"])
    left = sorted(path.name for path in folder.iterdir() if path != source)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"wrong: {name} ends in {type(result.exception).__name__}: {result.exception}"
    if "unexpected" in result.output or "Traceback" in result.output:
        return f"wrong: {name}: {result.output.strip()}"
    if result.exit_code:
        return f"wrong: {name} leaves {left}" if left else "refused"
    if left != [target.name]:
        return f"wrong: {name} leaves {left}"
    try:
        return compare(name, source, target)
    except Exception as error:
        return f"wrong: {name} gives a file that cannot be read, {type(error).__name__}: {error}"
    finally:
        target.unlink()


def compare(name: str, source: Path, target: Path) -> str:
    """Compare what was written with what an independent reader finds in the source."""
    if name[0] in "nopq":
        with tifffile.TiffFile(target) as tiff:
            ours = tiff.pages[0].asarray()
    else:
        image = read_image(target, white=1.0)
        ours = samples_of(image)
    theirs = read_otherwise(source)
    if theirs is None:
        return "read, and not by the other reader"
    verdict = differ(ours, theirs)
    if verdict is None:
        return "read, and at other types by the other reader"
    return f"wrong: {name} differs from what another reader finds" if verdict else "read alike"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000, help="number of mutated files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first; the next ones follow")
    parser.add_argument("--only", type=int, help="make the file of this seed alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = [options.only] if options.only is not None else range(options.seed, options.seed + options.files)
    files, tally, started = whole_files(), Counter[str](), time.perf_counter()
    for seed in seeds:
        # libraries of C write to the process' own standard error
        with (
            tempfile.TemporaryDirectory() as folder,
            open(os.devnull, "w") as hole,
            contextlib.redirect_stderr(hole),
        ):
            found = check(seed, files, Path(folder))
        if found.startswith("wrong"):
            print(f"seed {seed}: {found}", flush=True)
        tally[found.split(":")[0]] += 1
    print(", ".join(f"{count} {what}" for what, count in tally.most_common()))
    print(f"{len(seeds)} files in {time.perf_counter() - started:.0f} s")
    raise SystemExit(tally["wrong"] > 0)


if __name__ == "__main__":
    main()
