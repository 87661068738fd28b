"""What a run is, and how one of its jobs is done.

Runs are done by this process in `jobs.here`, by several in `jobs.pool`, and by those of a cluster in
`jobs.cluster`.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from deepgsr_cli.compute.memory import is_out_of_memory
from deepgsr_cli.errors import DeviceError, OutputError, UsageError, UserError, WeightsError, first_line
from deepgsr_cli.jobs.plan import Job, action_for
from deepgsr_cli.jobs.work import Heading, Result, Work

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        number: Of the job in its run, from 0.
        status: "done", "skipped" or "failed".
        seconds: Wall-clock time it took; what the result says, if it says so.
        result: What the work returned, if it is done; what an earlier run has made, if it is skipped and
            pictures of it were asked for.
        error: The sentence that says why it failed.
        said: What the work has said meanwhile on the standard error of another process.
        heading: What a report says of all jobs, as far as the process that did this one knows.
    """

    number: int
    status: Literal["done", "skipped", "failed"]
    seconds: float = 0.0
    result: Result | None = None
    error: str | None = None
    said: str = ""
    heading: Heading | None = None


@dataclass(frozen=True)
class Place:
    """Where a process works.

    Attributes:
        device: Its device; None for what the options of the run say.
        sharing: Number of processes that share the memory of that device.
    """

    device: str | None = None
    sharing: int = 1


@dataclass(frozen=True)
class Run:
    """All jobs of a command; it can be pickled, which lets what jobs have in common travel once.

    Attributes:
        jobs: What to do, in the order of the inputs.
        open: Makes the work of a process.
        skip_existing: Pass over jobs whose results exist.
        overwrite: Replace results that exist; without either, such a job fails.
        pictures: Number of jobs, from the first, that make pictures for a report.
        reviewing: Whether jobs that are skipped are looked at, for a report.
        tracing: Whether the traceback of an unexpected error is said.
    """

    jobs: Sequence[Job]
    open: Callable[[Place], Work]
    skip_existing: bool = False
    overwrite: bool = False
    pictures: int = 0
    reviewing: bool = False
    tracing: bool = False

    def exists(self, number: int) -> bool:
        """Whether a result of a job is there."""
        return action_for(self.jobs[number]) != "write"


def attempt(
    run: Run,
    work: Work,
    number: int,
    *,
    existed: bool = True,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Do one job, unless its results exist.

    Args:
        run: The run.
        work: What is done.
        number: Of the job.
        existed: Whether a target that exists now was there before this run came to the job. If not, an
            earlier try has written it, in a process that was lost before it told; the job is done again.
        say: Called with the traceback of an unexpected error.
        progress: Called with the number of the job and the share of it that is done.

    Raises:
        UsageError: As `attempted`.
        WeightsError: Likewise.
        DeviceError: Likewise.
    """
    started = time.perf_counter()
    job = run.jobs[number]

    def advance(done: int, parts: int) -> None:
        if progress is not None:
            progress(number, done / parts)

    def step() -> Result | Outcome:
        if (outcome := passed_over(run, work, number, existed=existed)) is not None:
            return outcome
        return work(job, for_report=number < run.pictures, progress=advance)

    advance(0, 1)
    result = attempted(run, work, number, step, say)
    if isinstance(result, Outcome):
        return result
    return done(work, number, result, time.perf_counter() - started)


def passed_over(run: Run, work: Work, number: int, *, existed: bool = True) -> Outcome | None:
    """Return what becomes of a job whose results exist, if it is to be kept; None if the job is to be done.

    The arguments are those of `attempt`.

    Raises:
        OutputError: The run says neither to keep it nor to replace it.
    """
    job = run.jobs[number]
    action = action_for(job, skip_existing=run.skip_existing, overwrite=run.overwrite)
    if not existed or action in ("write", "replace"):
        return None
    if action == "skip":
        result = _reviewed(work, job, pictures=number < run.pictures) if run.reviewing else None
        return Outcome(number, "skipped", result=result, heading=Heading.of(work))
    first, *others = sorted(job.targets, key=os.path.exists, reverse=True)  # those that are there first
    if run.skip_existing:
        raise OutputError(
            f"{first}: exists without {others[0]}; delete it, or give --overwrite or another -o"
        )
    raise OutputError(f"{first}: exists; give --overwrite, --skip-existing or another -o")


def attempted(
    run: Run, work: Work, number: int, step: Callable[[], T], say: Callable[[str], None] | None
) -> T | Outcome:
    """Return what a step of a job returns, or the outcome where it fails, which does not stop the others.

    Args:
        run: The run.
        work: What is done.
        number: Of the job.
        step: The step.
        say: Called with the traceback of an unexpected error, our own mistake.

    Raises:
        UsageError: From the step, whatever the file, as the next would raise it as well.
        WeightsError: Likewise.
        DeviceError: Likewise.
    """
    started = time.perf_counter()
    label = run.jobs[number].label
    try:
        return step()
    except (UsageError, WeightsError, DeviceError):
        raise
    except UserError as error:
        sentence = _named(run.jobs[number], error.for_command_line())
    except Exception as error:
        if is_out_of_memory(error):
            sentence = f"{label}: memory does not suffice; free some, or cut the picture into parts"
        else:
            if run.tracing and say is not None:
                say(traceback.format_exc())
            sentence = (
                f"{label}: unexpected {type(error).__name__}: {first_line(error)}; please report it, with the"
                " output of -v"
            )
    seconds = time.perf_counter() - started
    return Outcome(number, "failed", seconds, error=sentence, heading=Heading.of(work))


def _named(job: Job, sentence: str) -> str:
    """Return a sentence that names a file of its job, which one of many has to."""
    known = any(str(name) in sentence for name in (job.label, job.source, job.target) if name is not None)
    return sentence if known else f"{job.label}: {sentence}"


def done(work: Work, number: int, result: Result, seconds: float) -> Outcome:
    """Return the outcome of a job that took so long, unless its result says otherwise."""
    return Outcome(number, "done", result.facts.get("seconds", seconds), result, heading=Heading.of(work))


class Worker:
    """The work of a run in another process than the command's, made at the first job.

    Args:
        load: Returns the run.
        place: Where this process works.
    """

    def __init__(self, load: Callable[[], Run], place: Place) -> None:
        self._load, self._place = load, place
        self._opened: tuple[Run, Work] | None = None

    def do(self, number: int, existed: bool, progress: Callable[[int, float], None] | None = None) -> Outcome:
        """Do one job as `attempt`; the outcome has what was said on standard error meanwhile.

        Raises:
            UserError: As `attempt`; or the work cannot be made.
        """
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            if self._opened is None:
                run = self._load()
                self._opened = run, run.open(self._place)
            run, work = self._opened
            outcome = attempt(
                run, work, number, existed=existed, say=lambda text: print(text, file=said), progress=progress
            )
        return replace(outcome, said=said.getvalue())


def in_order(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Yield outcomes by their number, as soon as those before them are there."""
    waiting: dict[int, Outcome] = {}
    following = 0
    for outcome in outcomes:
        waiting[outcome.number] = outcome
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _reviewed(work: Work, job: Job, *, pictures: bool) -> Result:
    """What an earlier run has made of a job; a note why, if it cannot be compared."""
    try:
        result = work.review(job)
    except UserError as error:
        return Result({}, error.for_command_line())
    return result if pictures else replace(result, images=[], plots=[])
