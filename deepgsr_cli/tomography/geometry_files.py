"""Files of scan geometries: TOML, JSON and lists of angles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from deepgsr_cli.errors import InputError, ShapeError
from deepgsr_cli.files import atomic_write
from deepgsr_cli.formats.tables import SUFFIXES, format_table, read_table
from deepgsr_cli.tomography.geometry import (
    MOST_VIEWS,
    Geometry,
    bounded_number,
    even_angles,
    finite_number,
    several,
    whole_number,
)

_UNITS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
_MOST_DEG = 36000.0  # a hundred turns
_ANGLE_KEYS = ("angles_deg", "start_deg", "range_deg", "num_views")


def read_geometry(path: Path) -> Geometry:
    """Geometry of a TOML or a JSON file: the fields of `Geometry`, with angles in degrees.

    The angles are a list, `angles_deg`, or evenly spaced: `num_views` from `start_deg` (0 if left out) over
    `range_deg` (360 if left out), whose end is not a view.

    Args:
        path: The file; its name ends in `.toml` or `.json`.

    Raises:
        InputError: It cannot be read, or a value is missing, unknown or impossible.
    """
    _check_suffix(path)
    table = read_table(path)
    try:
        known = [f.name for f in fields(Geometry) if f.name != "angles_rad"]
        for key in table:
            if key not in known and key not in _ANGLE_KEYS:
                raise InputError(f"{key} is not known; give {', '.join((*known, *_ANGLE_KEYS))}")
        for field in fields(Geometry):
            if field.name in known and field.default is MISSING and field.name not in table:
                raise InputError(f"{field.name} is missing; add it")
        angles = _read_angles({key: table.pop(key) for key in _ANGLE_KEYS if key in table})
        return Geometry(angles_rad=angles, **table)
    except (InputError, ShapeError) as error:
        raise InputError(f"{path}: {error.for_command_line()}") from error


def geometry_of(parameters: Mapping[str, Any]) -> Geometry:
    """Geometry of the parameters that the X-ray laboratory in Helsinki stores with its sinograms.

    The slice has a pixel a bin, each of a bin's size at the isocentre. Angles are in degrees and grow
    counter-clockwise, bins count to the right as the source sees them: a full turn of a disk, and arcs of 155
    degrees of a phantom, of the challenge's data are reconstructed so with the least residual.

    Raises:
        InputError: Something is missing or impossible.

    Source:
        Meaney, de Moura, Siltanen, Helsinki Tomography Challenge 2022: open tomographic dataset, 2022.
    """
    unit = str(parameters.get("distanceUnit", "mm"))
    if unit not in _UNITS_MM:
        raise InputError(f"distanceUnit is {unit}; known are {', '.join(_UNITS_MM)}")
    kind = str(parameters.get("geometryType", "cone")).lower()
    if kind not in ("cone", "fan"):  # of a cone there is the central slice, which is a fan
        raise InputError(f"geometryType is {kind}; known are cone and fan, others need a geometry file")

    def number(*names: str) -> float:
        for name in names:
            if name in parameters:
                return finite_number(name, np.asarray(parameters[name]).item())
        raise InputError(f"{names[0]} is missing in the file's parameters; give a geometry file")

    if "angles" not in parameters:
        raise InputError("angles are missing in the file's parameters; give a geometry file")
    mm = _UNITS_MM[unit]
    source_mm, length_mm = mm * number("distanceSourceOrigin"), mm * number("distanceSourceDetector")
    bin_mm = mm * number("pixelSizePost", "pixelSize")
    num_bins = whole_number("numDetectorsPost", number("numDetectorsPost", "numDetectors"))
    pixel_mm = bin_mm * source_mm / length_mm
    angles = np.ravel(parameters["angles"]).tolist()
    return Geometry(
        kind="fan-flat",
        shape=(num_bins, num_bins),
        pixel_mm=(pixel_mm, pixel_mm),
        num_bins=num_bins,
        bin_mm=bin_mm,
        angles_rad=tuple(math.radians(finite_number("angles", angle)) for angle in angles),
        source_mm=source_mm,
        detector_mm=length_mm - source_mm,
    )


def write_geometry(geometry: Geometry, path: Path) -> None:
    """Write a geometry as TOML or JSON, by the ending of `path`, in the form `read_geometry` reads.

    Raises:
        OutputError: The file cannot be written.
        InputError: The name ends in neither `.toml` nor `.json`.
    """
    table = asdict(geometry)
    table["angles_deg"] = [math.degrees(a) for a in table.pop("angles_rad")]
    if geometry.kind == "parallel":
        del table["source_mm"], table["detector_mm"]
    _check_suffix(path)
    text = format_table(table, path.suffix.lower())
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: is no geometry file; give one that ends in .toml or .json")


def _read_angles(table: dict[str, Any]) -> tuple[float, ...]:
    """Angles in radians from either form of a file."""
    if "angles_deg" in table and len(table) > 1:
        raise InputError(f"angles_deg and {list(table)[1]} exclude each other; give one of them")
    if "angles_deg" in table:
        return tuple(
            math.radians(finite_number("angles_deg", a)) for a in several("angles_deg", table["angles_deg"])
        )
    if "num_views" not in table:
        raise InputError("there are no angles; give angles_deg, or num_views with start_deg and range_deg")
    start, extent = (
        bounded_number(k, table.get(k, default), least=-_MOST_DEG, most=_MOST_DEG)
        for k, default in (("start_deg", 0), ("range_deg", 360))
    )
    num_views = whole_number("num_views", table["num_views"], MOST_VIEWS)
    if extent == 0 and num_views > 1:
        raise InputError("range_deg is 0, so all views are one; give the angle from the first past the last")
    return even_angles(start, extent, num_views)
