"""Words of sentences that depend on a number."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, "1 file" or "1,204 files"; the plural is in s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
