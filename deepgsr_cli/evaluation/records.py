"""What an evaluation is: cases, methods, and the figures of each method on each case."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import numpy as np

from deepgsr_cli.errors import UsageError, UserError, check_seed

if TYPE_CHECKING:
    from deepgsr_cli.compute.precision import AskedPrecision
    from deepgsr_cli.reports.report import ReportImage, ReportItem

C = TypeVar("C")  # what is read
I = TypeVar("I")  # what it is read from
M = TypeVar("M")  # a measurement
R = TypeVar("R")  # what a method makes of it
T = TypeVar("T")  # the truth
Labels = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Case(Generic[M, T]):
    """One measurement with its truth.

    Attributes:
        labels: What tells the case from the others: the name of its picture or slice first, then its level.
        measurement: What the methods get.
        truth: What they should give back.
    """

    labels: Labels
    measurement: M
    truth: T


@dataclass(frozen=True)
class Score:
    """One case by one method.

    Attributes:
        labels: Of the case.
        method: Name of the method.
        figures: Of its result, and the `seconds` it took.
    """

    labels: Labels
    method: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Mean:
    """A group of cases by one method.

    Attributes:
        labels: What the cases have in common.
        method: Name of the method.
        figures: Of the group, as `Evaluation.average` makes them.
    """

    labels: Labels
    method: str
    figures: Mapping[str, float]

    def record(self) -> dict[str, str | float]:
        """All of it in one mapping, in the order of JSON."""
        return {**self.labels, "method": self.method, **self.figures}


@dataclass(frozen=True)
class Column:
    """A column of a table of means: a name in `Mean.record`, its heading, and how its values are written."""

    name: str
    heading: str
    format: str = ""

    def text(self, mean: Mean) -> str:
        """The value of a mean as the table has it."""
        return format(mean.record()[self.name], self.format)


@dataclass(frozen=True, kw_only=True)
class Evaluation(ABC, Generic[M, R, T]):
    """Methods on the same cases, with a stated protocol.

    Attributes:
        data: Folder with what is true.
        method_names: The methods to compare, of `known_methods`.
        seed: Of everything random.
        limit: Only the first so many pictures or slices, None for all.
        weights: NAME, FILE or hf:// address; None for the default of the task.
        device: "auto", "cpu", "cuda", ...
        precision: Arithmetic of the network.
        offline: Do not use the network for weights.
        notify: Called with sentences a user should read.

    Raises:
        UsageError: A value is out of range, or a method is not known.
    """

    data: Path
    method_names: tuple[str, ...] = ("deepgsr",)
    seed: int = 0
    limit: int | None = None
    weights: str | None = None
    device: str = "auto"
    precision: AskedPrecision = "fp32"
    offline: bool = False
    notify: Callable[[str], None] | None = None

    # Names of all methods.
    known_methods: ClassVar[tuple[str, ...]]
    # Of the report: its heading, how many cases it has pictures of, and whether it shows patients.
    title: ClassVar[str]
    pictured: ClassVar[int] = 100
    medical: ClassVar[bool] = False
    # Figures of a score that are written, in the order of JSON and CSV; others serve `average` alone.
    written: ClassVar[tuple[str, ...]]
    # The figure of which means tell the lowest value too, and the columns of the table of means.
    worst: ClassVar[str] = ""
    columns: ClassVar[tuple[Column, ...]]
    # Figures of a score that the report shows, and how it calls them; {} is the method.
    reported: ClassVar[Mapping[str, str]] = {"psnr": "PSNR {} (dB)", "ssim": "SSIM {}"}

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in self.method_names:
            if name not in self.known_methods:
                raise UsageError(f"--method {name}: known are {', '.join(self.known_methods)}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: give 1 or more")

    @cached_property
    def failures(self) -> list[str]:
        """Sentences about the files that could not be used, and were passed over; complete with the last."""
        return []

    def usable(self, items: Sequence[I], read: Callable[[I], C]) -> Iterator[tuple[I, C]]:
        """Read the data of cases, one item after another; yield each that can be used with what was read.

        What cannot be used is told, and among the `failures`.

        Args:
            items: What is read, as paths.
            read: Reads one.

        Raises:
            UserError: None can be used.
        """
        for item in items:
            try:
                content = read(item)
            except UserError as error:
                self.failures.append(error.for_command_line())
                if len(self.failures) == len(items):
                    raise
                if self.notify is not None:
                    self.notify(error.for_command_line())
                continue
            yield item, content

    @property
    @abstractmethod
    def methods(self) -> Mapping[str, Callable[[M], R]]:
        """The methods by name, ready to run, what is shown without a method among them.

        Raises:
            UsageError: A method's package is not installed.
            WeightsError: There are no weights for one.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Number of cases.

        Raises:
            InputError: There are no data.
        """

    @abstractmethod
    def cases(self) -> Iterator[Case[M, T]]:
        """The cases, one after another; without those whose files are not `usable`.

        Raises:
            UserError: No file can be used.
        """

    @abstractmethod
    def figures(self, case: Case[M, T], result: R) -> dict[str, float]:
        """Figures of quality of a method's result."""

    @abstractmethod
    def protocol(self) -> dict[str, str]:
        """All it takes to repeat the evaluation, as label and text."""

    @abstractmethod
    def item(self, labels: Labels) -> ReportItem:
        """A case in the report: its name, and what is known of it before any method has run."""

    @abstractmethod
    def images(self, case: Case[M, T], results: Mapping[str, R]) -> tuple[list[ReportImage], str]:
        """Pictures of a case for the report, by method and of the truth, and a note about them."""

    @abstractmethod
    def summary(self, means: Sequence[Mean]) -> dict[str, float]:
        """Figures of the whole run for the report, by their names in it."""

    def groups(self, scores: Sequence[Score]) -> list[tuple[Labels, list[Score]]]:
        """Scores to take the means of, and what they have in common: all labels but the first."""
        groups: dict[tuple[tuple[str, object], ...], tuple[Labels, list[Score]]] = {}
        for score in scores:
            common = dict(list(score.labels.items())[1:])
            groups.setdefault(tuple(common.items()), (common, []))[1].append(score)
        return list(groups.values())

    def average(self, name: str, scores: Sequence[Score]) -> dict[str, float]:
        """What becomes of a figure in `written` over a group: the mean of what is known, NaN for nothing."""
        values = [score.figures[name] for score in scores]
        known = [value for value in values if not math.isnan(value)]
        mean = {name: float(np.mean(known)) if known else math.nan}
        return {**mean, f"lowest_{name}": min(values)} if name == self.worst else mean

    def tables(self, means: Sequence[Mean]) -> list[list[list[str]]]:
        """Tables of the means: rows of cells, the headings first."""
        rows = [[column.text(mean) for column in self.columns] for mean in means]
        return [[[column.heading for column in self.columns], *rows]]

    def remark(self, scores: Sequence[Score]) -> str:
        """A sentence about the cases that a user should read; empty for none."""
        return ""
