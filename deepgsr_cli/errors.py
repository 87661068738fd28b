"""What a user can cause, as exceptions whose message is the sentence the user reads."""

from __future__ import annotations


class UserError(Exception):
    """A mistake or a circumstance outside this program; its message has the value, the bound, the way out."""

    exit_code = 1


class UsageError(UserError):
    """The command line asks for something that cannot be: exit code 2."""

    exit_code = 2


class InputError(UserError):
    """A file that cannot be read as what it should be."""


class OutputError(UserError):
    """A file that cannot be written."""


class ShapeError(UserError):
    """An array whose shape, dtype or range does not fit."""


class WeightsError(UserError):
    """Weights that are unknown, damaged, or cannot be fetched."""


class DeviceError(UserError):
    """A device that was asked for and is not there."""


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
