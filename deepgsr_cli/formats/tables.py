"""Files of keys and values: TOML and JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from deepgsr_cli.errors import InputError
from deepgsr_cli.files import reading

SUFFIXES = (".toml", ".json")


def read_table(path: Path) -> dict[str, Any]:
    """Read keys and values from a file, of the kind that its name ends in.

    Raises:
        InputError: It cannot be read, or holds something else.
    """
    suffix = path.suffix.lower()
    try:
        with reading(path):
            text = path.read_text(encoding="utf-8-sig")
        table = json.loads(text) if suffix == ".json" else _parse_toml(text)
    except ValueError as error:  # of the encoding, of JSON and of TOML
        raise InputError(f"{path}: is not valid {suffix[1:].upper()}, {error}; correct the file") from error
    if not isinstance(table, dict):
        raise InputError(f"{path}: is not a table of keys and values; give one")
    return table


def _parse_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def format_table(table: dict[str, Any], suffix: str) -> str:
    """Text of a file that ends in `suffix`, of a table whose values are text, numbers and lists of these."""
    if suffix == ".json":
        return json.dumps(table, indent=1)
    # JSON's strings, numbers and lists of numbers are TOML's too.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
