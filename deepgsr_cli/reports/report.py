"""Report of a run: one self-contained HTML page for people, or the same facts as JSON for programs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepgsr_cli.errors import ShapeError, UsageError
from deepgsr_cli.files import atomic_write

_THUMBNAIL_PX = 72  # shown at 36 CSS pixels, sharp on a display of twice that density


@dataclass
class ReportImage:
    """One picture of an item, as it is to be seen.

    Args:
        label: What it is: "Noisy input", "Restored", "BM3D", "Error x5".
        pixels: uint8, (H, W) gray or (H, W, 3) sRGB; embedded without loss.

    Raises:
        ShapeError: `pixels` is something else, or empty.
    """

    label: str
    pixels: np.ndarray

    def __post_init__(self) -> None:
        dtype, shape = self.pixels.dtype, self.pixels.shape
        if dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
            raise ShapeError(
                f"{self.label}: a report shows uint8 images of shape (H, W) or (H, W, 3), "
                f"this is {dtype} of shape {shape}; convert it first"
            )


@dataclass
class ReportItem:
    """One input file of the run.

    Args:
        name: The file's name, shown as it is.
        images: Pictures of one size; the first two are compared at first, any two can be chosen.
        metrics: Name, with its unit, and value; a column of the table each.
        note: What the viewer should know about the pictures, such as the one of `fit_for_report`.
        error: For a file that failed, the sentence that says why.

    Raises:
        ShapeError: The images differ in height or width.
    """

    name: str
    images: list[ReportImage] = field(default_factory=list)
    metrics: dict[str, float | str] = field(default_factory=dict)
    note: str = ""
    error: str | None = None

    def __post_init__(self) -> None:
        _check_one_size(self.name, [image.pixels for image in self.images])


@dataclass
class Report:
    """What one run did.

    Args:
        title: Heading of the page.
        task: Name of the task, such as "denoise".
        items: The files, in the order of the run.
        protocol: All it takes to repeat the run: command line, version, weights and their sha256, device,
            precision, tile, sigma, seed, clipping, date.
        summary: Figures of the whole run. One named like a metric is the mean at the foot of its column,
            the others stand in the heading.
    """

    title: str
    task: str
    items: list[ReportItem]
    protocol: dict[str, str] = field(default_factory=dict)
    summary: dict[str, float | str] = field(default_factory=dict)


def write_report(path: Path, report: Report) -> None:
    """Write the report to a file, replacing it: a page for `.html`, the facts without pixels for `.json`.

    The page needs nothing but itself: its images are PNG data URIs, and its content security policy allows
    only its own style and script. One item's images are encoded at a time.

    Raises:
        UsageError: The name ends in something else.
        OutputError: The file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".html", ".json"):
        raise UsageError(f"{path}: a report is .html or .json, not '{suffix}'; give one of these endings")
    # A name that is not Unicode on disk holds lone surrogates; \udcff is also what JSON calls one.
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        if suffix == ".html":
            file.writelines(_page(report))
        else:
            json.dump(_facts(report), file, ensure_ascii=False, allow_nan=False, indent=2)
            file.write("\n")


def fit_for_report(*pixels: np.ndarray, max_side: int = 1200) -> tuple[list[np.ndarray], str]:
    """The images, or their common centre crop where they are larger, and the sentence that says so.

    A crop and not a smaller copy: averaging pixels removes the very noise and detail that are compared.

    Args:
        pixels: Images of one size, (H, W) or (H, W, C); memory-mapped ones are read only inside the crop.
        max_side: Longest side kept, in pixels.

    Returns:
        Images of at most max_side x max_side pixels, and a note, empty if nothing was cut.

    Raises:
        ShapeError: The images differ in height or width.
    """
    _check_one_size("report", pixels)
    height, width = pixels[0].shape[:2]
    rows, columns = min(height, max_side), min(width, max_side)
    if (rows, columns) == (height, width):
        return list(pixels), ""
    top, left = (height - rows) // 2, (width - columns) // 2
    crops = [np.array(image[top : top + rows, left : left + columns]) for image in pixels]
    return crops, f"1:1 crop {columns} × {rows} at ({left}, {top}) of {width} × {height} px"


def _check_one_size(name: str, pixels: Sequence[np.ndarray]) -> None:
    sizes = list(dict.fromkeys(image.shape[:2] for image in pixels))
    if len(sizes) > 1:
        (h0, w0), (h1, w1) = sizes[:2]
        raise ShapeError(f"{name}: images of {w0} × {h0} and {w1} × {h1} px; give images of one size")


@dataclass
class _Column:
    """A metric: its name and how all its values are written, mean included, so that they line up."""

    name: str
    numeric: bool
    decimals: int

    @classmethod
    def of(cls, name: str, values: Sequence[float | str]) -> _Column:
        numbers = [float(value) for value in values if not isinstance(value, str)]
        finite = [number for number in numbers if math.isfinite(number)]
        if all(number.is_integer() for number in finite):
            decimals = 0
        else:  # SSIM has four digits in papers, PSNR two.
            decimals = 4 if max(map(abs, finite)) <= 1 else 2
        return cls(name, len(numbers) == len(values), decimals)

    def text(self, value: float | str) -> str:
        """What the reader sees."""
        if isinstance(value, str):
            return value
        if math.isfinite(value):
            return f"{value:.{self.decimals}f}"
        return "–" if math.isnan(value) else "∞" if value > 0 else "-∞"

    def key(self, value: float | str) -> str:
        """What the script sorts by; empty is last."""
        if isinstance(value, str):
            return value
        return "" if math.isnan(value) else str(float(value)).replace("inf", "Infinity")


def _page(report: Report) -> Iterator[str]:
    """The HTML page, piece by piece."""
    import jinja2  # which a run without a report need not wait for

    folder = resources.files("deepgsr_cli.reports")
    style, script, template = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js", "report.html.jinja")
    )
    names = dict.fromkeys(name for item in report.items for name in item.metrics)
    rows = [*(item.metrics for item in report.items), report.summary]
    columns = [_Column.of(name, [row[name] for row in rows if name in row]) for name in names]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(template).generate(
        report=report,
        columns=columns,
        means={name: value for name, value in report.summary.items() if name in names},
        totals={
            name: _Column.of(name, [value]).text(value)
            for name, value in report.summary.items()
            if name not in names
        },
        failed=sum(item.error is not None for item in report.items),
        style=style,
        script=script,
        policy="; ".join(
            (
                "default-src 'none'",
                "img-src data:",
                f"style-src '{_digest(style)}'",
                f"script-src '{_digest(script)}'",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        png=_png_uri,
        thumbnail=_thumbnail_uri,
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _png_uri(pixels: np.ndarray) -> str:
    return _uri(Image.fromarray(pixels))


def _thumbnail_uri(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), reducing_gap=2.0)
    return _uri(image)


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _facts(report: Report) -> dict[str, Any]:
    """The report as plain JSON values; of an image its label and size."""
    return {
        "title": report.title,
        "task": report.task,
        "protocol": report.protocol,
        "summary": {name: _plain(value) for name, value in report.summary.items()},
        "items": [
            {
                "name": item.name,
                "metrics": {name: _plain(value) for name, value in item.metrics.items()},
                "note": item.note,
                "error": item.error,
                "images": [
                    {
                        "label": image.label,
                        "width": image.pixels.shape[1],
                        "height": image.pixels.shape[0],
                    }
                    for image in item.images
                ],
            }
            for item in report.items
        ],
    }


def _plain(value: float | str) -> int | float | str:
    """A JSON value for a metric, NumPy scalars included; JSON has no infinity, so `float("inf")` is "inf"."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    return float(value) if math.isfinite(value) else str(float(value))
