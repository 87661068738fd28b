"""Where the rays of a scanner run through a slice: parallel and fan beams, and the usual ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepgsr_cli.errors import ShapeError

KINDS = ("parallel", "fan-flat", "fan-arc")
# Bounds that catch typing errors and wrong units; no scanner is near them.
MOST_VIEWS, _MOST_BINS, _MOST_PIXELS = 65536, 65536, 32768
_LEAST_MM, _MOST_MM, _FARTHEST_MM = 1e-6, 1e5, 1e9


@dataclass(frozen=True)
class Rays:
    """Rays that cross every line of pixels, as Joseph's method walks them: one sample a line.

    On line l, a row or a column of the slice, ray r is at pixel `start[r] + slope[r] * l` of that line, and
    each sample stands for `step_mm[r]` of its length.
    """

    index: np.ndarray  # position in the flattened sinogram, int64
    start: np.ndarray
    slope: np.ndarray  # within [-1, 1]
    step_mm: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """Views of one slice by a line of detector bins.

    Args:
        kind: "parallel", "fan-flat" (bins on a line) or "fan-arc" (bins on a circle about the source).
        shape: Rows and columns of the slice.
        pixel_mm: Spacing of the rows and of the columns.
        num_bins: Bins of the detector.
        bin_mm: Distance of two bins, on the detector.
        angles_rad: One angle a view, in any order.
        source_mm: Distance from the source to the isocentre; fan beams only.
        detector_mm: Distance from the isocentre to the detector; fan beams only.
        offset_bins: How far the detector is shifted along itself; 0.25 is the quarter-detector offset.

    Raises:
        ShapeError: A value that no scanner can have.
    """

    kind: str
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    num_bins: int
    bin_mm: float
    angles_rad: tuple[float, ...]
    source_mm: float = 0.0
    detector_mm: float = 0.0
    offset_bins: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ShapeError(f"kind is {self.kind!r}; give one of {', '.join(KINDS)}")
        values: dict[str, Any] = {
            "shape": tuple(whole_number("shape", n, _MOST_PIXELS) for n in several("shape", self.shape, 2)),
            "pixel_mm": tuple(spacing_mm("pixel_mm", d) for d in several("pixel_mm", self.pixel_mm, 2)),
            "num_bins": whole_number("num_bins", self.num_bins, _MOST_BINS),
            "bin_mm": spacing_mm("bin_mm", self.bin_mm),
            "angles_rad": tuple(
                finite_number("angles_rad", a) for a in several("angles_rad", self.angles_rad)
            ),
            "source_mm": bounded_number("source_mm", self.source_mm, most=_FARTHEST_MM),
            "detector_mm": bounded_number("detector_mm", self.detector_mm, most=_FARTHEST_MM),
            "offset_bins": finite_number("offset_bins", self.offset_bins),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if not self.angles_rad:
            raise ShapeError("the list of angles is empty; give one angle per view")
        if self.num_views > MOST_VIEWS:
            raise ShapeError(f"there are {self.num_views} views; give {MOST_VIEWS} or less")
        if abs(self.offset_bins) > self.num_bins:
            raise ShapeError(
                f"offset_bins is {self.offset_bins:g}, but the detector has {self.num_bins} bins; give it in"
                " bins, not in mm"
            )
        if self.kind == "parallel":
            self._check_parallel()
        else:
            self._check_fan()

    def _check_parallel(self) -> None:
        if self.source_mm or self.detector_mm:
            raise ShapeError(
                f"source_mm is {self.source_mm:g} and detector_mm is {self.detector_mm:g}, but parallel rays"
                " have neither; leave them out or give kind fan-flat or fan-arc"
            )

    def _check_fan(self) -> None:
        if self.source_mm <= self.radius_mm:
            raise ShapeError(
                f"source_mm is {self.source_mm:g}, inside the slice, whose corners are {self.radius_mm:g} mm"
                " from the isocentre; give the distance from the source to the isocentre"
            )
        if self.detector_mm < 0:
            raise ShapeError(
                f"detector_mm is {self.detector_mm:g}; give the distance from the isocentre to the detector,"
                " 0 or more"
            )
        widest = math.degrees(np.abs(self.fan_angles_rad()).max())
        if widest >= 90:
            raise ShapeError(
                f"the outermost bin is {widest:.0f} degrees off the central ray, which must be below 90;"
                " give a smaller num_bins or bin_mm"
            )

    @property
    def num_views(self) -> int:
        """Number of views."""
        return len(self.angles_rad)

    @property
    def radius_mm(self) -> float:
        """Distance of the slice's corners from the isocentre."""
        return diagonal_mm(self.shape, self.pixel_mm) / 2

    @property
    def magnification(self) -> float:
        """Size on the detector over the size at the isocentre; 1 for parallel rays."""
        return 1.0 if self.kind == "parallel" else (self.source_mm + self.detector_mm) / self.source_mm

    @property
    def centre_bin(self) -> float:
        """Position of the central ray among the bins."""
        return (self.num_bins - 1) / 2 - self.offset_bins

    def refined(self, *, bins: int = 1, pixels: int = 1) -> Geometry:
        """The same scan with each bin and, along each axis, each pixel parted into so many."""
        return replace(
            self,
            shape=(pixels * self.shape[0], pixels * self.shape[1]),
            pixel_mm=(self.pixel_mm[0] / pixels, self.pixel_mm[1] / pixels),
            num_bins=bins * self.num_bins,
            bin_mm=self.bin_mm / bins,
            offset_bins=bins * self.offset_bins,
        )

    def padded(self, before: int, after: int) -> Geometry:
        """The same scan with so many more bins at the beginning and at the end of the detector."""
        return replace(
            self,
            num_bins=before + self.num_bins + after,
            offset_bins=self.offset_bins + (after - before) / 2,
        )

    def bin_positions_mm(self) -> np.ndarray:
        """Signed distance of each bin, (N,), from the central ray, along the detector."""
        return (np.arange(self.num_bins) - self.centre_bin) * self.bin_mm

    def fan_angles_rad(self) -> np.ndarray:
        """Angle of each bin's ray, (N,), to the central one; zeros for parallel rays."""
        positions = self.bin_positions_mm() / (self.source_mm + self.detector_mm or math.inf)
        return np.arctan(positions) if self.kind == "fan-flat" else positions

    def rays(self) -> tuple[Rays, Rays]:
        """Rays steeper than a pixel's diagonal, which cross the rows, and all others, for the columns.

        Source:
            Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE Transactions on
            Medical Imaging 1(3), 1982.
        """
        theta = np.array(self.angles_rad)[:, None]
        turned = theta - self.fan_angles_rad()
        direction_x, direction_y = -np.sin(turned), np.cos(turned)  # (V, N)
        shift = self.bin_positions_mm() if self.kind == "parallel" else np.zeros(self.num_bins)
        point_x = shift * np.cos(theta) + self.source_mm * np.sin(theta)
        point_y = shift * np.sin(theta) - self.source_mm * np.cos(theta)
        spacing_y, spacing_x = self.pixel_mm
        # In pixels, from the centre of pixel (0, 0): row and column of a point and of a step along each ray.
        row = ((self.shape[0] - 1) / 2 - point_y / spacing_y).ravel()
        column = ((self.shape[1] - 1) / 2 + point_x / spacing_x).ravel()
        step_row = (-direction_y / spacing_y).ravel()
        step_column = (direction_x / spacing_x).ravel()
        steep = np.abs(step_row) >= np.abs(step_column)
        tables = []
        for chosen, along, across, step_along, step_across in (
            (steep, row, column, step_row, step_column),
            (~steep, column, row, step_column, step_row),
        ):
            slope = step_across[chosen] / step_along[chosen]
            start = across[chosen] - slope * along[chosen]
            tables.append(Rays(np.flatnonzero(chosen), start, slope, 1 / np.abs(step_along[chosen])))
        return tables[0], tables[1]


def diagonal_mm(shape: tuple[int, int], pixel_mm: tuple[float, float]) -> float:
    """Length of a slice's diagonal, from its rows and columns and their spacings."""
    return math.hypot(*(n * d for n, d in zip(shape, pixel_mm)))


def sparse_view(shape: tuple[int, int], pixel_mm: tuple[float, float], num_views: int) -> Geometry:
    """Fan beam over a full turn of the sparse-view papers, in proportion to the slice.

    For 512 x 512 pixels on 400 mm: the source 600 mm and a flat detector 290 mm from the isocentre, 800 bins
    of 1.2 mm. Other slices keep these lengths relative to their diagonal, and the bins relative to their
    pixels, so the detector always covers the corners.

    Args:
        shape: Rows and columns of the slice.
        pixel_mm: Spacing of the rows and of the columns.
        num_views: Views over a full turn, the first at angle 0.

    Source:
        Wang et al., DuDoTrans: dual-domain transformer for sparse-view CT reconstruction, 2022, sec. 4.1.
    """
    angles = even_angles(0.0, 360.0, whole_number("num_views", num_views))
    across_mm = diagonal_mm(shape, pixel_mm)
    scale = across_mm / math.hypot(400, 400)
    num_bins = round(800 * across_mm / (min(pixel_mm) * math.hypot(512, 512)))
    return Geometry(
        kind="fan-flat",
        shape=shape,
        pixel_mm=pixel_mm,
        num_bins=num_bins,
        bin_mm=800 * 1.2 * scale / num_bins,
        angles_rad=angles,
        source_mm=600 * scale,
        detector_mm=290 * scale,
    )


def scanner_view(
    shape: tuple[int, int],
    pixel_mm: tuple[float, float],
    num_views: int,
    source_mm: float,
    source_to_detector_mm: float,
) -> Geometry:
    """Fan beam over a full turn with a scanner's own distances, on a detector about the source.

    The bins are one a pixel at the isocentre, and cover the slice's corners.

    Args:
        shape: Rows and columns of the slice.
        pixel_mm: Spacing of the rows and of the columns.
        num_views: Views over a full turn, the first at angle 0.
        source_mm: Distance from the source to the isocentre, which is the middle of the slice.
        source_to_detector_mm: Distance from the source to the detector.

    Raises:
        ShapeError: The source is within the slice, or the detector before the isocentre.
    """
    radius_mm = diagonal_mm(shape, pixel_mm) / 2
    fan = math.asin(min(1.0, radius_mm / source_mm)) if source_mm > 0 else 0.0
    step = min(pixel_mm) / source_mm if source_mm > 0 else 1.0
    return Geometry(
        kind="fan-arc",
        shape=shape,
        pixel_mm=pixel_mm,
        num_bins=2 * math.ceil(fan / step) + 1,
        bin_mm=step * source_to_detector_mm,
        angles_rad=even_angles(0.0, 360.0, whole_number("num_views", num_views)),
        source_mm=source_mm,
        detector_mm=source_to_detector_mm - source_mm,
    )


def mar_640(pixel_mm: float = 512 / 416 * 0.3, num_views: int = 640) -> Geometry:
    """Fan beam of the metal artifact papers: 416 x 416 pixels, 641 bins, 640 views over a full turn.

    The source and the flat detector are 1075 pixels from the isocentre, the detector two diagonals wide.
    The views sit in the middle of their angles and begin with the source on the left, as in the published
    sinograms.

    Args:
        pixel_mm: Spacing of rows and columns; the published slices all have the default.
        num_views: Views over a full turn.

    Source:
        Wang et al., InDuDoNet: an interpretable dual domain network for CT metal artifact reduction, MICCAI
        2021, sec. 4, and its published code and data.
    """
    step_deg = 360 / whole_number("num_views", num_views)
    return Geometry(
        kind="fan-flat",
        shape=(416, 416),
        pixel_mm=(pixel_mm, pixel_mm),
        num_bins=641,
        bin_mm=2 * math.hypot(416, 416) * pixel_mm / 641,
        angles_rad=even_angles(step_deg / 2 - 90, 360, num_views),
        source_mm=1075 * pixel_mm,
        detector_mm=1075 * pixel_mm,
    )


def even_angles(start_deg: float, range_deg: float, num_views: int) -> tuple[float, ...]:
    """Angles in radians, (V,), of views evenly spaced over the range; its end is not a view."""
    return tuple(math.radians(start_deg + range_deg * i / num_views) for i in range(num_views))


def several(name: str, values: object, count: int | None = None) -> list[Any]:
    """The values as a list, which must have `count` entries if that is given."""
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise ShapeError(f"{name} is {values!r}; give a list of numbers")
    listed = list(values)
    if count is not None and len(listed) != count:
        raise ShapeError(f"{name} has {len(listed)} entries; give {count}, for rows and for columns")
    return listed


def finite_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise ShapeError(f"{name} is {value!r}; give a finite number")
    return float(value)


def bounded_number(name: str, value: object, *, least: float = -math.inf, most: float) -> float:
    number = finite_number(name, value)
    if not least <= number <= most:
        bounds = f"{most:g} or less" if math.isinf(least) else f"{least:g} to {most:g}"
        raise ShapeError(f"{name} is {number:g}; give {bounds}")
    return number


def spacing_mm(name: str, value: object) -> float:
    if (number := finite_number(name, value)) <= 0:
        raise ShapeError(f"{name} is {number:g}; give a number above 0")
    return bounded_number(name, number, least=_LEAST_MM, most=_MOST_MM)


def whole_number(name: str, value: object, most: float = math.inf) -> int:
    if (number := finite_number(name, value)) < 1 or number != int(number):
        raise ShapeError(f"{name} is {number:g}; give a whole number, 1 or more")
    return int(bounded_number(name, number, most=most))
