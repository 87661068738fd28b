"""Jobs done one after another, going on after a bad one."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from deepgsr_cli.errors import DeviceError, OutputError, UsageError, UserError, WeightsError, first_line
from deepgsr_cli.jobs.plan import Job
from deepgsr_cli.jobs.work import Result


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: The job.
        status: "done", "skipped" or "failed".
        seconds: Wall-clock time it took; what the result says, if it says so.
        result: What the work returned, if it is done.
        error: The sentence that says why it failed.
    """

    job: Job
    status: Literal["done", "skipped", "failed"]
    seconds: float = 0.0
    result: Result | None = None
    error: str | None = None


def run(
    jobs: Iterable[Job], work: Callable[[Job], Result], *, skip_existing: bool, overwrite: bool
) -> Iterator[Outcome]:
    """Do the jobs in order, and yield what became of each; a failed one does not stop the others.

    Args:
        jobs: What to do.
        work: Does one job, and raises a UserError if it cannot be done.
        skip_existing: Pass over jobs whose target exists.
        overwrite: Replace targets that exist; without either, such a job fails.

    Raises:
        UsageError: From the work, whatever the file, as the next would raise it as well.
        WeightsError: Likewise.
        DeviceError: Likewise.
    """
    for job in jobs:
        started = time.perf_counter()
        target = job.target
        try:
            if target is not None and target.exists():
                if skip_existing:
                    yield Outcome(job, "skipped")
                    continue
                if not overwrite:
                    raise OutputError(f"{target}: exists; give --overwrite, --skip-existing or another -o")
            result = work(job)
        except (UsageError, WeightsError, DeviceError):
            raise
        except UserError as error:
            yield Outcome(job, "failed", time.perf_counter() - started, error=str(error))
        except MemoryError:
            sentence = f"{job.label}: memory does not suffice; free some, or cut the picture into parts"
            yield Outcome(job, "failed", time.perf_counter() - started, error=sentence)
        else:
            seconds = result.facts.get("seconds", time.perf_counter() - started)
            yield Outcome(job, "done", seconds, result)


def guarded(work: Callable[[Job], Result], trace: Callable[[str], None] | None) -> Callable[[Job], Result]:
    """Return the work with its unexpected errors, our own mistakes, failing one job and not the batch.

    Args:
        work: Does one job.
        trace: Called with the traceback of such an error.
    """

    def guarded(job: Job) -> Result:
        try:
            return work(job)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            if trace is not None:
                trace(traceback.format_exc())
            sentence = f"{job.label}: unexpected {type(error).__name__}: {first_line(error)}"
            raise UserError(f"{sentence}; please report it, with the output of -v") from error

    return guarded
