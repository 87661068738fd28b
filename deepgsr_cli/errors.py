"""What a user can cause, as exceptions whose message is the sentence the user reads."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable


class UserError(Exception):
    """A mistake or a circumstance outside this program; its message has the value, the bound, the way out.

    The message names options as they are typed. `for_command_line()` is that; `str(error)`, for who calls
    Python, names the arguments: "give max_pixels" where the other says "give --max-pixels".
    """

    exit_code = 1

    def __str__(self) -> str:
        return _with_arguments(self.for_command_line())

    def for_command_line(self) -> str:
        """The sentence with the options as they are typed."""
        return super().__str__()


class UsageError(UserError):
    """The command line asks for something that cannot be: exit code 2."""

    exit_code = 2


class OptionError(UsageError):
    """An argument, or the option that gives it on the command line, with a value that cannot be.

    `str(error)` is for who calls Python, "sigma is 300: give 0 to 255"; `for_command_line()` for who types
    commands, "--sigma 300: give 0 to 255".

    Args:
        option: Name of the argument in Python, as `num_masks`.
        value: Its value; text, a number or a path.
        advice: What is wrong and the way out, after a colon, or after a blank if it starts with "is "; other
            options in it are written as on the command line.
        flag: The option on the command line, where it is not the argument's name with dashes.
    """

    def __init__(self, option: str, value: object, advice: str, flag: str | None = None) -> None:
        super().__init__(option, value, advice, flag)
        self.option, self.value, self.advice = option, value, advice
        self.flag = flag or f"--{option.replace('_', '-')}"

    def __str__(self) -> str:
        return f"{self.option} is {_shown(self.value)}: {_with_arguments(self.advice).removeprefix('is ')}"

    def for_command_line(self) -> str:
        gap = " " if self.advice.startswith("is ") else ": "
        return f"{self.flag} {_shown(self.value)}{gap}{self.advice}"


def check_text(option: str, value: object, advice: str) -> None:
    """Raise an OptionError with the advice unless an argument is a text."""
    if not isinstance(value, str):
        raise OptionError(option, value, f"its type is {type(value).__name__}; {advice}")


def check_seed(seed: int) -> None:
    """Raise unless all random generators take the seed, NumPy's oldest, of 32 bits, too."""
    if not 0 <= seed < 2**32:
        raise OptionError("seed", seed, f"give 0 to {2**32 - 1}")


def _with_arguments(sentence: str) -> str:
    """A sentence with Python's names of arguments for options, other than in a command to be typed."""

    def name(found: re.Match[str]) -> str:
        command, option, number = found.groups()
        return command or option.replace("-", "_") + ("=" if number else "")

    return re.sub(r"(\bdeepgsr [a-z][^;,()`]*)|(?<![\w-])--([a-z][a-z-]*)( (?=[\d.]))?", name, sentence)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class InputError(UserError):
    """A file that cannot be read as what it should be."""


class OutputError(UserError):
    """A file that cannot be written."""


class ShapeError(UserError):
    """An array, or the geometry of a scan, whose shape, type or range does not fit."""


class WeightsError(UserError):
    """Weights that are unknown, damaged, or cannot be fetched."""


class DivergenceError(UserError):
    """A training whose weights are no numbers any more."""


class DeviceError(UserError):
    """A device that was asked for and is not there."""


class MissingDeviceError(OptionError, DeviceError):
    """An argument that names a device this machine does not have."""

    exit_code = 1


class MissingWeightsError(OptionError, WeightsError):
    """An argument that needs weights where there are none by default."""

    exit_code = 1


class ResultWarning(UserWarning):
    """A result that may be wrong, for who calls Python; its message has the likely cause.

    Options in it are named as the arguments of Python are.
    """

    def __init__(self, doubt: str) -> None:
        super().__init__(_with_arguments(doubt))


def warn_of(doubts: Iterable[str]) -> None:
    """Warn of what may be wrong in a result, at the line that calls a public function `with_own_defaults`."""
    for doubt in doubts:
        # Of the frames from here on, the third is that of `with_own_defaults`.
        warnings.warn(doubt, ResultWarning, stacklevel=4)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
