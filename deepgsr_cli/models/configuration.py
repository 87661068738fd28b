"""What the shapes of all networks share."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

C = TypeVar("C", bound="Configuration")


class Configuration:
    """Base of the dataclasses that are the shape of a network; sequences in them are tuples."""

    @classmethod
    def from_dict(cls: type[C], fields: dict[str, Any]) -> C:
        """Configuration from its fields as JSON types; ValueError for an unknown one."""
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(fields) - known):
            raise ValueError(f"unknown configuration {', '.join(unknown)}")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
