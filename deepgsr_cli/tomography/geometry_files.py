"""Files of scan geometries: TOML, JSON and lists of angles."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from deepgsr_cli.errors import InputError, ShapeError
from deepgsr_cli.files import atomic_write
from deepgsr_cli.tomography.geometry import Geometry, even_angles, finite_number, several, whole_number

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
    try:
        table = _read_table(path)
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
    if _suffix(path) == ".json":
        text = json.dumps(table, indent=1)
    else:
        # JSON's strings, numbers and lists of numbers are TOML's too.
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in (".toml", ".json"):
        raise InputError(f"{path.name} is not a geometry file; give a name that ends in .toml or .json")
    return path.suffix.lower()


def _read_table(path: Path) -> dict[str, Any]:
    """Keys and values of a TOML or a JSON file."""
    suffix = _suffix(path)
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if suffix == ".json" else _parse_toml(text)
    except OSError as error:
        raise InputError(f"cannot be read, {error.strerror}; give another file") from error
    except ValueError as error:  # of the encoding, of JSON and of TOML
        raise InputError(f"is not valid {suffix[1:].upper()}, {error}; correct the file") from error
    if not isinstance(table, dict):
        raise InputError("is not a table of keys and values; give one, with kind, shape and so on")
    return table


def _parse_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


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
        finite_number(k, table.get(k, default)) for k, default in (("start_deg", 0), ("range_deg", 360))
    )
    return even_angles(start, extent, whole_number("num_views", table["num_views"]))
