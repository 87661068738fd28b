"""Files of scan geometries: TOML, JSON and lists of angles."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

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
        raise InputError(f"{path}: {error}") from error


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
        raise InputError(
            f"{path}: {path.name} is not a geometry file; give a name that ends in .toml or .json"
        )


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
