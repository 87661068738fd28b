"""What is done to each input of a command, and what comes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.reports.report import ReportImage, ReportItem

Facts = dict[str, Any]
Progress = Callable[[int, int], None]

C = TypeVar("C")
D = TypeVar("D")


@dataclass(frozen=True)
class Column:
    """A column of a report's table.

    Attributes:
        name: Of the fact it shows.
        heading: With the unit.
        mean: Whether the mean of the column says something.
        text: What it shows instead, with the names of facts in braces.
    """

    name: str
    heading: str
    mean: bool = True
    text: str = ""

    def value(self, facts: Facts) -> float | str:
        """Return what the column shows of a result that has its fact."""
        return self.text.format_map(facts) if self.text else facts[self.name]


@dataclass
class Result:
    """What came of one job.

    Attributes:
        facts: Size, settings, figures; of JSON's types. "seconds", if it is there, leaves out what is done
            once a run, or for a report alone.
        note: What the user should know.
        warnings: What may be wrong with the result, a sentence each with the likely cause.
        caption: What a report says of the images.
        images: Pictures for a report, of one size.
        plots: Further items of a report, as a curve.
    """

    facts: Facts
    note: str = ""
    warnings: list[str] = field(default_factory=list)
    caption: str = ""
    images: list[ReportImage] = field(default_factory=list)
    plots: list[ReportItem] = field(default_factory=list)


class Work(Protocol):
    """What is done to each job; made once a process, by a function that can be pickled."""

    @property
    def title(self) -> str:
        """Heading of the report."""

    @property
    def columns(self) -> Sequence[Column]:
        """Columns of the report's table."""

    @property
    def protocol(self) -> Mapping[str, str]:
        """All it takes to repeat the run; complete when the last job is done."""

    def __call__(self, job: Job, *, for_report: bool = False, progress: Progress | None = None) -> Result:
        """Read, do and write one job.

        Args:
            job: Where from and where to.
            for_report: Whether to make pictures for a report.
            progress: Called with finished and all parts.

        Raises:
            UserError: It cannot be read, done or written.
        """

    def review(self, job: Job) -> Result:
        """Return the result of a job that an earlier run has done, with pictures for a report.

        Raises:
            UserError: The input, its reference or the result cannot be read.
        """


class BatchWork(ABC, Generic[C, D]):
    """Work of which a part can be done for several jobs at once; the rest of it in threads meanwhile.

    C is what a job is read as, D what is computed of it.
    """

    @abstractmethod
    def read(self, job: Job, *, for_report: bool) -> C:
        """Read a job; called in a thread, for one job at a time.

        Raises:
            UserError: It cannot be read.
        """

    @abstractmethod
    def room(self, case: C) -> int:
        """Return how many jobs like this one are to be computed at once, 1 or more."""

    @abstractmethod
    def compute(self, cases: Sequence[C], progress: Progress | None) -> list[D]:
        """Compute what comes of several jobs, each as it would be alone.

        Args:
            cases: What the jobs were read as.
            progress: Called with finished and all parts.

        Raises:
            UserError: One of them cannot be done.
        """

    @abstractmethod
    def finish(self, computed: D) -> Result:
        """Measure and write what was computed of a job; called in a thread, for one job at a time.

        Raises:
            UserError: It cannot be written.
        """

    def __call__(self, job: Job, *, for_report: bool = False, progress: Progress | None = None) -> Result:
        """Read, compute and write one job, as `Work` has it."""
        (computed,) = self.compute([self.read(job, for_report=for_report)], progress)
        return self.finish(computed)


class StagedWork(ABC):
    """Work whose result can be written in a thread, while the next job is done."""

    @abstractmethod
    def do(self, job: Job, *, for_report: bool, progress: Progress | None) -> Callable[[], Result]:
        """Read and do one job; return what writes it and returns its result, and raises where that fails.

        What is returned is called once, maybe in a thread, and after that of the job before.

        Args:
            job: Where from and where to.
            for_report: Whether to make pictures for a report.
            progress: Called with finished and all parts.

        Raises:
            UserError: It cannot be read or done.
        """

    def __call__(self, job: Job, *, for_report: bool = False, progress: Progress | None = None) -> Result:
        """Read, do and write one job, as `Work` has it."""
        return self.do(job, for_report=for_report, progress=progress)()


@dataclass(frozen=True)
class Heading:
    """What a report says of all jobs, as `Work` has it.

    Attributes:
        title: Heading of the report.
        columns: Columns of its table.
        protocol: All it takes to repeat the run.
    """

    title: str = ""
    columns: tuple[Column, ...] = ()
    protocol: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, work: Work) -> Heading:
        """Return that of a work as it is now."""
        return cls(work.title, tuple(work.columns), dict(work.protocol))

    def joined(self, other: Heading | None) -> Heading:
        """Return it with what the process of a later job knows beside.

        Entries of a protocol that differ are lists of what was met, as of kinds of measurement.
        """
        if other is None:
            return self
        protocol = dict(self.protocol)
        for name, text in other.protocol.items():
            known = protocol.setdefault(name, text)
            if text != known:
                protocol[name] = "; ".join(dict.fromkeys([*known.split("; "), *text.split("; ")]))
        return replace(other, protocol=protocol)
